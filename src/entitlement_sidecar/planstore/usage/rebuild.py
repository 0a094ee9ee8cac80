"""Aggregates made again from events, and compared with those that are kept (S0.2).

    for difference in Rebuild(database).run(RebuildRequest(tenant_id="acme", check=True)): …

What follows from events (`totals.DERIVED`) is the same bit for bit, or it is a difference. A tenant and
metric at a time is compared, as both are at one moment, and nobody waits; what differs is then made anew, an
aggregate at a time. Windows from which retention has removed events cannot be made again; they are left as
they are, and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select, text, tuple_, union
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Metric
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.catalogue.plans import current_document
from entitlement_sidecar.planstore.db import Database, UsageEventRow, UsageLedgerRow
from entitlement_sidecar.planstore.usage.changing import count_again, metrics_of
from entitlement_sidecar.planstore.usage.facts import Key, Scope, columns_of, facts, iterate
from entitlement_sidecar.planstore.usage.removed import Removed
from entitlement_sidecar.planstore.usage.totals import DERIVED, Total, nothing

PAGE = 200
"""Tenants and metrics that are looked up at once."""

_log = logging.getLogger(__name__)


class RebuildRequest(msgspec.Struct, frozen=True):
    """Everything, or a tenant, a metric, windows from `since` on. `check`: only compare."""

    tenant_id: str = ""
    metric: str = ""
    since: datetime | None = None
    check: bool = False


class Difference(msgspec.Struct, frozen=True):
    """An aggregate that is not what its events add up to: column by column, what is kept and what is right.

    Without `kept` it was missing.
    """

    key: Key
    kept: dict[str, Any]
    right: dict[str, Any]


class RebuildReport(msgspec.Struct):
    """What a rebuild has looked at. `skipped` is windows from which retention has removed events."""

    aggregates: int = 0
    events: int = 0
    skipped: int = 0
    differences: list[Difference] = []
    different: int = 0


class Rebuild:
    """Goes through the ledger, a tenant and a metric at a time."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def run(
        self, request: RebuildRequest, progress: Callable[[str, RebuildReport], None] = lambda *_: None
    ) -> RebuildReport:
        """Rebuilds, or with `check` only compares. `progress` is told each tenant, and the report so far."""
        report, after = RebuildReport(), ("", "")
        while page := self._page(request, after):
            for tenant_id, metric in page:
                self._rebuild(request, tenant_id, metric, report)
                progress(tenant_id, report)
            after = page[-1]
        return report

    def _page(self, request: RebuildRequest, after: tuple[str, str]) -> list[tuple[str, str]]:
        """The next tenants and metrics that have aggregates or events."""
        halves = []
        for row in (UsageLedgerRow, UsageEventRow):
            query = select(row.tenant_id, row.metric).where(tuple_(row.tenant_id, row.metric) > after)
            if request.tenant_id:
                query = query.where(row.tenant_id == request.tenant_id)
            if request.metric:
                query = query.where(row.metric == request.metric)
            query = query.group_by(row.tenant_id, row.metric).order_by(row.tenant_id, row.metric)
            halves.append(select(query.limit(PAGE).subquery()))
        both = union(*halves).subquery()
        query = select(both.c.tenant_id, both.c.metric).order_by(both.c.tenant_id, both.c.metric).limit(PAGE)
        with self._database.reading() as session:
            _wait_as_long_as_it_takes(session)
            return [(tenant_id, metric) for tenant_id, metric in session.execute(query)]

    def _rebuild(self, request: RebuildRequest, tenant_id: str, metric: str, report: RebuildReport) -> None:
        with self._database.reading() as session:
            _see_one_state(session)
            definition = metrics_of(session, current_document(session), [metric]).get(metric)
            if definition is None:
                return
            one = _One(session, request, tenant_id, definition)
            found = list(one.differences(report))
        report.different += len(found)
        report.differences += found[: MOST_TOLD - len(report.differences)]
        if found and not request.check:
            with self._database.writing() as session:
                _wait_as_long_as_it_takes(session)
                for difference in found:
                    # What was stored since is in it too: the aggregate is held.
                    count_again(session, difference.key, definition, self._clock.now())


MOST_TOLD = 1000
"""Differences that a report lists; all are counted."""


class _One:
    """The aggregates and the events of one tenant and metric, as they are at one moment."""

    def __init__(self, session: Session, request: RebuildRequest, tenant_id: str, metric: Metric) -> None:
        self._session = session
        self._since = request.since
        self._tenant_id = tenant_id
        self._metric = metric
        self._removed = Removed.read(session)
        self._rows = {_key(row): row for row in self._kept()}

    def _kept(self) -> Iterator[UsageLedgerRow]:
        row = UsageLedgerRow
        query = select(row).where(row.tenant_id == self._tenant_id, row.metric == self._metric.key)
        if self._since is not None:
            query = query.where(row.window_start >= self._since)
        yield from self._session.scalars(query)

    def differences(self, report: RebuildReport) -> Iterator[Difference]:
        """What is not as its events say, in the order of keys."""
        totals = self._totals(report)
        for key in sorted(totals.keys() | self._rows.keys()):
            if not self._removed.is_whole(key.classification, self._end(key, totals)):
                report.skipped += 1
                continue
            report.aggregates += 1
            difference = self._compared(key, totals.get(key))
            if difference is not None:
                yield difference

    def _totals(self, report: RebuildReport) -> dict[Key, Total]:
        fact = facts(Scope(self._tenant_id, self._metric.key, self._since))
        query = columns_of(fact).where(fact.c.window_kind != "")
        if self._since is not None:
            query = query.where(fact.c.window_start >= self._since)
        totals: dict[Key, Total] = {}
        for one in iterate(self._session, self._tenant_id, query):
            report.events += 1
            total = totals.get(one.key)
            if total is None:
                totals[one.key] = Total(self._metric.aggregation, one)
            else:
                total.add(one)
        return totals

    def _end(self, key: Key, totals: dict[Key, Total]) -> datetime | None:
        row = self._rows.get(key)
        return totals[key].window_end if row is None else row.window_end

    def _compared(self, key: Key, total: Total | None) -> Difference | None:
        row = self._rows.get(key)
        kept = {} if row is None else {name: getattr(row, name) for name in DERIVED}
        if total is not None:
            right = total.derived()
        elif row is not None:
            right = nothing(key, row.unit, row.window_end)
        else:
            return None
        if row is None:
            return Difference(key, {}, right)
        wrong = [name for name in DERIVED if kept[name] != right[name]]
        return Difference(key, _only(kept, wrong), _only(right, wrong)) if wrong else None


def _key(row: UsageLedgerRow) -> Key:
    return Key(*(getattr(row, name) for name in Key.__struct_fields__))


def _only(columns: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: columns[name] for name in names}


def _see_one_state(session: Session) -> None:
    """Aggregates and events of one moment, whatever is stored meanwhile; SQLite reads so anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        _wait_as_long_as_it_takes(session)


def _wait_as_long_as_it_takes(session: Session) -> None:
    """A tenant with millions of events takes longer than a statement may otherwise."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET LOCAL statement_timeout = 0"))
