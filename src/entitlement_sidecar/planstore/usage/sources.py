"""What came from each start of each sidecar: nothing is lost, or it is known that it is (DESIGN 8).

    distinct sequences = stored + duplicates + conflicts + quarantined + refused + declared

Each sequence is counted once, by its first outcome, however often it comes. What a sidecar has accepted and
this plan store has not heard of is on its way, or missing: it is told which, and declares what will not come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from typing import cast as as_type

import msgspec
from sqlalchemy import ColumnElement, Table, and_, case, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.planstore.db import UsageSourceRow
from entitlement_sidecar.planstore.usage.ranges import Range, joined, size, without

MAX_MISSING = 100
"""Ranges that a sidecar is told at once; the next batch tells more."""

SILENT_AFTER = timedelta(minutes=15)
"""How long a source may say nothing while it has events that never came, before somebody has to look."""

_COUNTED_AS = {
    UsageOutcome.ACCEPTED: "stored",
    UsageOutcome.LATE_ACCEPTED: "stored",
    UsageOutcome.DUPLICATE: "duplicates",
    UsageOutcome.CONFLICT: "conflicts",
    UsageOutcome.QUARANTINED: "quarantined",
    UsageOutcome.UNKNOWN_METRIC: "quarantined",
    UsageOutcome.LATE_REFUSED: "refused",
    UsageOutcome.INVALID: "refused",
}
COUNTS = ("stored", "duplicates", "conflicts", "quarantined", "refused", "declared")
"""Columns that every sequence is in one of."""

_decode = msgspec.json.Decoder(list[Range]).decode
_encode = msgspec.json.Encoder().encode


class Delivery(msgspec.Struct, frozen=True):
    """What one batch says of its source, and what became of its sequences."""

    instance: str
    epoch: int
    outcomes: Mapping[int, UsageOutcome]
    declared: Sequence[Range] = ()
    accepted_total: int = 0
    dead_total: int = 0


class SourceKey(msgspec.Struct, frozen=True, array_like=True):
    """Which source: a place in the list of them."""

    instance: str
    epoch: int


class SourceQuery(msgspec.Struct, frozen=True):
    """Which sources are listed."""

    instance: str = ""
    silent: bool = False
    after: SourceKey | None = None
    limit: int = 100


def settle(session: Session, delivery: Delivery, now: datetime) -> list[Range]:
    """Counts a batch, at the end of its transaction; which sequences before it never came, as ranges.

    The source's row is held from here on, so that batches of one source are counted one after the other.
    """
    row = _hold(session, delivery, now)
    received = _decode(row.received)
    counts = dict.fromkeys(COUNTS, 0)
    sequences = sorted(delivery.outcomes)
    known = without(((sequence, sequence) for sequence in sequences), received)
    for first, last in known:
        for sequence in range(first, last + 1):
            counts[_COUNTED_AS[delivery.outcomes[sequence]]] += 1
    received = joined([*received, *known])
    declared = without(delivery.declared, received)
    counts["declared"] = size(declared)
    received = joined([*received, *declared])
    if known or declared:
        _count(session, delivery, counts, received)
    return without([(1, sequences[0] - 1)], received)[:MAX_MISSING] if sequences[0] > 1 else []


def _hold(session: Session, delivery: Delivery, now: datetime) -> Any:  # noqa: ANN401 - a row of the table
    given = {
        "instance": delivery.instance,
        "epoch": delivery.epoch,
        "accepted_total": delivery.accepted_total,
        "dead_total": delivery.dead_total,
        "first_seen_at": now,
        "last_seen_at": now,
    }
    return session.execute(_holding(session.get_bind().dialect.name), given).one()


@cache
def _holding(dialect: str) -> Any:  # noqa: ANN401 - either dialect's insert
    """The statement, made once: to make it takes longer than to run it."""
    table = as_type("Table", UsageSourceRow.__table__)
    insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    row, new = table.c, insert.excluded
    # Batches overtake each other: totals only grow. Dead letters may be sent again, so theirs is the newest.
    newer, later = new.accepted_total >= row.accepted_total, new.last_seen_at > row.last_seen_at
    holding = insert.on_conflict_do_update(
        index_elements=[row.instance, row.epoch],
        set_={
            "accepted_total": case((newer, new.accepted_total), else_=row.accepted_total),
            "dead_total": case((newer, new.dead_total), else_=row.dead_total),
            "last_seen_at": case((later, new.last_seen_at), else_=row.last_seen_at),
        },
    )
    return holding.returning(row.received)


def _count(
    session: Session, delivery: Delivery, counts: Mapping[str, int], received: Sequence[Range]
) -> None:
    row = UsageSourceRow
    columns: dict[str, InstrumentedAttribute[int]] = {name: getattr(row, name) for name in COUNTS}
    added = {name: columns[name] + number for name, number in counts.items() if number}
    changing = (
        update(row)
        .where(row.instance == delivery.instance, row.epoch == delivery.epoch)
        .values(received=_encode(received).decode(), **added)
    )
    session.execute(changing.execution_options(synchronize_session=False))


class Source(msgspec.Struct, frozen=True):
    """One source, and what of it never came: how many sequences, and the first of their ranges."""

    row: UsageSourceRow
    received: int
    outstanding: int
    missing: Sequence[Range]
    silent: bool


def sources(session: Session, query: SourceQuery, now: datetime) -> list[Source]:
    """Sources in the order of their names."""
    row = UsageSourceRow
    wanted = select(row).order_by(row.instance, row.epoch).limit(query.limit)
    if query.instance:
        wanted = wanted.where(row.instance == query.instance)
    if query.silent:
        wanted = wanted.where(_is_silent(now))
    if query.after is not None:
        wanted = wanted.where(tuple_(row.instance, row.epoch) > (query.after.instance, query.after.epoch))
    return [_source(found, now) for found in session.scalars(wanted)]


def count_silent(session: Session, now: datetime) -> int:
    """How many sources have events that never came, and have said nothing for a while."""
    return session.scalars(select(func.count()).where(_is_silent(now))).one()


def _is_silent(now: datetime) -> ColumnElement[bool]:
    row = UsageSourceRow
    counted = sum((getattr(row, name) for name in COUNTS[1:]), getattr(row, COUNTS[0]))
    return and_(row.accepted_total > counted, row.last_seen_at < now - SILENT_AFTER)


def _source(row: UsageSourceRow, now: datetime) -> Source:
    counted = sum(getattr(row, name) for name in COUNTS)
    ranges = _decode(row.received)
    outstanding = max(0, row.accepted_total - counted)
    missing = without([(1, ranges[-1][1])], ranges)[:MAX_MISSING] if ranges else []
    silent = outstanding > 0 and row.last_seen_at < now - SILENT_AFTER
    return Source(row, counted, outstanding, missing, silent)
