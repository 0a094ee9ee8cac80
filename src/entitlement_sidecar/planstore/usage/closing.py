"""The worker that closes windows: their sums are told to others from then on (S0.2).

    open ──end of the window + close_after──▶ closed ──late event, correction──▶ adjusted
      └──correction──▶ adjusted

Whether an event is late for a window is a question of time alone (`slots.is_closed`), so that nothing depends
on when the worker comes by: what arrives between is `adjusted` at once.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import select

from entitlement_sidecar.domain.catalogue import Metric
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.catalogue.plans import current_document
from entitlement_sidecar.planstore.db import Database, MetricRow, UsageLedgerRow
from entitlement_sidecar.telemetry import metrics

EVERY = 60.0
"""Seconds between looks."""

BATCH = 500
"""Aggregates that are closed in one transaction."""

_log = logging.getLogger(__name__)

# Made before there are threads, as in `catalogue.plans`.
_metric = msgspec.json.Decoder(Metric).decode


class Closer:
    """Closes what is due; any number of replicas share the work."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def close_due(self) -> int:
        """Goes once through all metrics; how many aggregates were closed."""
        now = self._clock.now()
        closed = 0
        for metric in self._metrics():
            while done := self._close(metric.key, now - timedelta(seconds=metric.close_after)):
                closed += done
        if closed:
            _log.info("%d usage aggregates were closed", closed)
        return closed

    def _metrics(self) -> list[Metric]:
        """Every metric that ever was: as the catalogue in force has it, or else the last one that did."""
        with self._database.reading() as session:
            in_force = current_document(session).metrics
            known = session.execute(select(MetricRow.key, MetricRow.body)).all()
        return [in_force.get(key) or _metric(body) for key, body in known]

    def _close(self, metric: str, ended: datetime) -> int:
        row = UsageLedgerRow
        due = (
            select(row)
            .where(row.state == "open", row.metric == metric, row.window_end <= ended)
            .order_by(row.window_end)
            .limit(BATCH)
            # What is held is being added to, by whom it becomes `adjusted`, or closed by another replica.
            .with_for_update(skip_locked=True)
        )
        with self._database.writing() as session:
            found = session.scalars(due).all()
            for one in found:
                one.state, one.version = "closed", one.version + 1
        metrics.usage_windows_closed.inc(len(found))
        return len(found)
