"""Removes raw events as the catalogue says, class by class; aggregates and identities stay (S0.2).

A window loses all of its events of a classification, or none: those that ended so long ago, and are closed.
What never ends keeps them. What is said to be removed is stored first (`usage_retention`), so that nobody
takes a window for whole while it is being emptied. `usage_event_keys` stay for good: an event that is sent
again after years is still a duplicate.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import case, delete, func, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Catalogue, Classification
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.catalogue.plans import current_catalogue
from entitlement_sidecar.planstore.db import (
    Database,
    UsageClassificationRow,
    UsageEventRow,
    UsageRetentionRow,
)
from entitlement_sidecar.planstore.db.partitions import drop_empty_months, make_months
from entitlement_sidecar.telemetry import metrics

EVERY = 3600.0
"""Seconds between looks."""

_SLICE = timedelta(days=1)
"""Events of so long a time are removed in one transaction."""

_MARGIN = timedelta(days=1)
"""What is younger is kept, whatever a catalogue says."""

_MONTH = timedelta(days=62)
"""Empty months go when they are older: nothing that is usual arrives for them any more."""

_log = logging.getLogger(__name__)


class Retaining:
    """Keeps partitions ahead, and removes what need not be kept any longer."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def step(self) -> int:
        """Does what is due; how many events were removed. Several replicas at once do no harm."""
        now = self._clock.now()
        with self._database.writing() as session:
            make_months(session.connection(), now.date())
            found = current_catalogue(session)
        if found is None:
            return 0
        removed = 0
        for classification, before in _bounds(found[1], now):
            if self._announce(classification, before):
                removed += self._remove(classification, before)
        if removed:
            _log.info("%d usage events were removed, as the catalogue's retention says", removed)
            with self._database.writing() as session:
                drop_empty_months(session.connection(), (now - _MONTH).date())
        return removed

    def _announce(self, classification: Classification, before: datetime) -> bool:
        """Stores what is going to be removed; False where that was stored before."""
        with self._database.writing() as session:
            row = session.get(UsageRetentionRow, int(classification), with_for_update=True)
            if row is not None and row.removed_before >= before:
                return False
            session.merge(UsageRetentionRow(classification=int(classification), removed_before=before))
        return True

    def _remove(self, classification: Classification, before: datetime) -> int:
        with self._database.reading() as session:
            event = UsageEventRow
            since = session.scalar(select(func.min(event.occurred_at)).where(event.occurred_at < before))
        removed = 0
        while since is not None and since < before:
            until = min(since + _SLICE, before)
            with self._database.writing() as session:
                gone = _remove_slice(session, classification, (since, until), before)
            metrics.usage_events_removed.labels(classification.name.lower()).inc(gone)
            removed, since = removed + gone, until
        return removed


def _bounds(catalogue: Catalogue, now: datetime) -> Iterator[tuple[Classification, datetime]]:
    """Before when the windows ended whose events go, by classification; whole days."""
    grace = max((metric.close_after for metric in catalogue.metrics.values()), default=0.0)
    closed = now - max(timedelta(seconds=grace), _MARGIN)
    kept = catalogue.retention
    for classification, seconds in (
        (Classification.BILLABLE, kept.billable),
        (Classification.NON_BILLABLE, kept.non_billable),
        (Classification.INFORMATIONAL, kept.informational),
    ):
        if seconds is not None:
            before = min(now - timedelta(seconds=seconds), closed)
            yield classification, before.replace(hour=0, minute=0, second=0, microsecond=0)


def _remove_slice(
    session: Session, classification: Classification, time: tuple[datetime, datetime], ended: datetime
) -> int:
    if session.get_bind().dialect.name == "postgresql":
        removed = func.usage_events_remove(int(classification), *time, ended)
        return int(session.scalar(select(removed)) or 0)
    event, judged = UsageEventRow, UsageClassificationRow
    original = case((event.corrects == "", event.event_id), else_=event.corrects)
    last = (
        select(judged.classification)
        .where(judged.tenant_id == event.tenant_id, judged.event_id == original)
        .order_by(judged.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    removing = delete(event).where(
        event.occurred_at >= time[0],
        event.occurred_at < time[1],
        event.window_end < ended,
        func.coalesce(last, event.classification) == int(classification),
    )
    # SQLite's trigger lets go what was announced.
    return len(session.scalars(removing.returning(event.id)).all())
