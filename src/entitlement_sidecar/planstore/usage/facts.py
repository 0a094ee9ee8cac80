"""What counts: events as they were corrected and classified since they arrived (S0.9, DESIGN 8).

An event is what its row says, but for two things that come after it: of its classifications the last one
holds, and of its corrections the last one to arrive. A voided event is no fact at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ScalarSelect, Select, Subquery, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased, defer

from entitlement_sidecar.planstore.db import UsageClassificationRow, UsageEventRow
from entitlement_sidecar.planstore.usage.bulk import named
from entitlement_sidecar.planstore.usage.slots import Slot

Identity = tuple[str, str]
"""Tenant and id of an event."""

_Item = TypeVar("_Item")

PAGE = 1000
"""Identities of one query, and events in memory at once: work of any length ends."""


class Scope(msgspec.Struct, frozen=True):
    """Whose facts: of a tenant, and of one metric and a time `[since, until)` where they are given."""

    tenant_id: str
    metric: str = ""
    since: datetime | None = None
    until: datetime | None = None


class Key(msgspec.Struct, frozen=True, gc=False, order=True):
    """Which aggregate: the key of `subscription_usage_ledger`."""

    tenant_id: str
    subscription_id: str
    metric: str
    window_kind: str
    window_start: datetime
    classification: int


class Fact(msgspec.Struct, frozen=True, gc=False):
    """One event as it counts. `id` is its row's; `count` is how many events it stands for."""

    id: int
    key: Key
    window_end: datetime | None
    unit: str
    value: int
    count: int
    subject: str
    occurred_at: datetime


def facts(scope: Scope) -> Subquery:
    """Events that count, with `value` and `classification` as they hold now and all other columns as stored.

    To be selected from, and joined; rows come in no particular order.
    """
    event, correction, row = UsageEventRow, aliased(UsageEventRow), UsageClassificationRow
    others = [
        column
        for column in event.__table__.c
        if column.name not in {"value", "classification", "payload", "corrects", "voids"}
    ]
    query = (
        select(
            *others,
            func.coalesce(_last_correction(correction, correction.value), event.value).label("value"),
            func.coalesce(_last_classification(row), event.classification).label("classification"),
        )
        .where(*_within(scope), event.corrects == "")
        .where(func.coalesce(_last_correction(correction, correction.voids), False).is_(False))
    )
    return query.subquery("facts")


def _within(scope: Scope) -> list[Any]:
    event = UsageEventRow
    found = [event.tenant_id == scope.tenant_id]
    if scope.metric:
        found.append(event.metric == scope.metric)
    if scope.since is not None:
        found.append(event.occurred_at >= scope.since)
    if scope.until is not None:
        found.append(event.occurred_at < scope.until)
    return found


# Both are looked up by index for each event. Joined, what was stored a moment ago, of which the database
# knows nothing yet, would be compared with all events, one by one. `id + 0` keeps it from going through all
# rows, from the highest id down, for the first that matches.


def _last_correction(row: type[UsageEventRow], column: InstrumentedAttribute[Any]) -> ScalarSelect[Any]:
    """A column of the correction that holds; it has the time, and so the partition, of its event."""
    event = UsageEventRow
    query = select(column).where(
        row.tenant_id == event.tenant_id,
        row.corrects == event.event_id,
        row.corrects != "",
        row.occurred_at == event.occurred_at,
    )
    return query.order_by((row.id + 0).desc()).limit(1).correlate(event).scalar_subquery()


def _last_classification(row: type[UsageClassificationRow]) -> ScalarSelect[Any]:
    event = UsageEventRow
    query = select(row.classification).where(row.tenant_id == event.tenant_id, row.event_id == event.event_id)
    return query.order_by((row.id + 0).desc()).limit(1).correlate(event).scalar_subquery()


def facts_of(session: Session, key: Key, window_end: datetime | None) -> Iterator[Fact]:
    """What one aggregate is made of, in no particular order."""
    return iterate(session, key.tenant_id, in_aggregate(key, window_end)[0])


def in_aggregate(key: Key, window_end: datetime | None) -> tuple[Select[Any], Subquery]:
    """The query of the facts of one aggregate, and what it selects from."""
    fact = facts(Scope(key.tenant_id, key.metric, key.window_start, window_end))
    query = columns_of(fact).where(
        fact.c.subscription_id == key.subscription_id,
        fact.c.window_kind == key.window_kind,
        fact.c.window_start == key.window_start,
        fact.c.classification == key.classification,
    )
    return query, fact


def columns_of(fact: Subquery) -> Select[Any]:
    """What a `Fact` is made of."""
    c = fact.c
    slot = (c.subscription_id, c.metric, c.window_kind, c.window_start, c.classification)
    return select(*slot, c.id, c.window_end, c.unit, c.value, c["count"], c.subject, c.occurred_at)


def iterate(session: Session, tenant_id: str, query: Select[Any]) -> Iterator[Fact]:
    """Facts of a tenant, a page in memory at a time."""
    for row in session.execute(query, execution_options={"yield_per": 2000}):
        yield Fact(row[5], Key(tenant_id, *row[:5]), *row[6:])


class Stored(msgspec.Struct, frozen=True):
    """An event with all that came after it: classifications' last, and corrections in order of arrival."""

    row: UsageEventRow
    classification: int
    corrections: Sequence[UsageEventRow]

    @property
    def identity(self) -> Identity:
        """Tenant and id."""
        return self.row.tenant_id, self.row.event_id

    @property
    def slot(self) -> Slot:
        """Where it counts."""
        row = self.row
        return Slot(row.subscription_id, row.window_kind, row.window_start, row.window_end)

    def fact(self, corrections: Sequence[UsageEventRow], classification: int) -> Fact | None:
        """What it is with these corrections and this classification; None where it is voided."""
        row, last = self.row, corrections[-1] if corrections else None
        if last is not None and last.voids:
            return None
        slot = (row.subscription_id, row.metric, row.window_kind, row.window_start)
        return Fact(
            id=row.id,
            key=Key(row.tenant_id, *slot, classification),
            window_end=row.window_end,
            unit=row.unit,
            value=row.value if last is None else last.value,
            count=row.count,
            subject=row.subject,
            occurred_at=row.occurred_at,
        )


def stored(session: Session, identities: Collection[Identity]) -> list[Stored]:
    """Events of these identities that are there, in the order of their rows."""
    event = UsageEventRow
    rows: list[UsageEventRow] = []
    for page in pages_of(sorted(identities)):
        query = without_payload().where(named(session, event.tenant_id, event.event_id, page))
        rows += session.scalars(query.where(event.corrects == ""))
    rows.sort(key=lambda row: row.id)
    return [one for page in pages_of(rows) for one in with_what_came_after(session, page)]


def without_payload() -> Select[UsageEventRow]:
    """Events and corrections as they are stored, but for the message, and what takes as long to read."""
    unread = (UsageEventRow.payload, UsageEventRow.dimensions)
    return select(UsageEventRow).options(*(defer(column, raiseload=True) for column in unread))


def pages_of(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """At most `PAGE` at a time, in order."""
    remaining = iter(items)
    while page := list(islice(remaining, PAGE)):
        yield page


def with_what_came_after(session: Session, rows: Sequence[UsageEventRow]) -> list[Stored]:
    """A page of events whose rows are known, in the same order."""
    wanted = [(row.tenant_id, row.event_id) for row in rows]
    corrections, classified = _corrections(session, wanted), _last_classifications(session, wanted)
    return [
        Stored(row, classified.get(key, row.classification), corrections.get(key, ()))
        for row, key in zip(rows, wanted, strict=True)
    ]


def _corrections(session: Session, wanted: Sequence[Identity]) -> dict[Identity, list[UsageEventRow]]:
    event = UsageEventRow
    query = without_payload().where(named(session, event.tenant_id, event.corrects, wanted))
    corrections: dict[Identity, list[UsageEventRow]] = {}
    for one in session.scalars(query.where(event.corrects != "").order_by(event.id)):
        corrections.setdefault((one.tenant_id, one.corrects), []).append(one)
    return corrections


def _last_classifications(session: Session, wanted: Sequence[Identity]) -> dict[Identity, int]:
    row = UsageClassificationRow
    query = select(row.tenant_id, row.event_id, row.classification).order_by(row.id)
    found = session.execute(query.where(named(session, row.tenant_id, row.event_id, wanted)))
    return {(tenant_id, event_id): classification for tenant_id, event_id, classification in found}
