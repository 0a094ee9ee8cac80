"""What events add up to, per subscription, metric, window and classification (S0.2, S4.1).

Derived only from facts, and by rules that do not depend on the order in which batches arrive: `rebuild` gets
the same from events alone. SUM and MAX are kept up to date by adding; LAST and UNIQUE_COUNT are looked up in
the facts of their window, whose aggregate is held meanwhile.

Each event is added by whoever stores it. What becomes of it later, `changing` applies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import case, func, update
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Aggregation, CatalogueDocument
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.db import UsageLedgerRow
from entitlement_sidecar.planstore.usage.bulk import Refine, insert_rows
from entitlement_sidecar.planstore.usage.facts import Fact, Key, in_aggregate
from entitlement_sidecar.planstore.usage.removed import Removed
from entitlement_sidecar.planstore.usage.slots import Slot, is_closed
from entitlement_sidecar.planstore.usage.totals import LARGEST, Total, key_columns

KEY_COLUMNS = Key.__struct_fields__

_LOOKED_UP = frozenset({Aggregation.LAST, Aggregation.UNIQUE_COUNT})


class Counted(msgspec.Struct, frozen=True):
    """Events that were just stored, each with its slot and the id of its row, and when. No corrections."""

    events: Sequence[UsageEvent]
    slots: Sequence[Slot]
    ids: Sequence[int]
    received_at: datetime

    def facts(self) -> list[Fact]:
        """The events as they count now; what comes after them is theirs who bring it."""
        return [
            Fact(
                id=id_,
                key=_key(event, slot),
                window_end=slot.window_end,
                unit=event.unit,
                value=event.value,
                count=event.count,
                subject=event.subject,
                occurred_at=event.occurred_at,
            )
            for event, slot, id_ in zip(self.events, self.slots, self.ids, strict=True)
        ]


def _key(event: UsageEvent, slot: Slot) -> Key:
    return Key(
        event.tenant_id,
        slot.subscription_id,
        event.metric,
        slot.window_kind,
        slot.window_start,
        int(event.classification or 0),
    )


def add_to_aggregates(session: Session, counted: Counted, catalogue: CatalogueDocument) -> None:
    """Adds events that were just stored, in the caller's transaction. Events without a value count too.

    An aggregate whose window is closed is `adjusted` from then on.
    """
    totals: dict[Key, Total] = {}
    for fact in counted.facts():
        total = totals.get(fact.key)
        if total is None:
            totals[fact.key] = Total(catalogue.metrics[fact.key.metric].aggregation, fact)
        else:
            total.add(fact)
    for aggregation in Aggregation:
        keys = sorted(key for key, total in totals.items() if total.aggregation is aggregation)
        if keys:
            _upsert(session, aggregation, [_row(key, totals[key], counted, catalogue) for key in keys])
            if aggregation in _LOOKED_UP:
                _look_up(session, {key: totals[key].window_end for key in keys}, aggregation)


def _row(key: Key, total: Total, counted: Counted, catalogue: CatalogueDocument) -> dict[str, object]:
    closed = is_closed(catalogue.metrics[key.metric], total.window_end, counted.received_at)
    return key_columns(key) | total.derived() | {"state": "adjusted" if closed else "open", "version": 1}


def _upsert(session: Session, aggregation: Aggregation, rows: list[dict[str, object]]) -> None:
    insert_rows(session, UsageLedgerRow, rows, _adding(aggregation))


@cache
def _adding(aggregation: Aggregation) -> Refine:
    def adding(insert: Any) -> Any:  # noqa: ANN401 - either dialect's insert
        row, new = UsageLedgerRow, insert.excluded
        earlier = (row.watermark == 0) | (new.first_event_at < row.first_event_at)
        untold = (row.state == "open") & (new.state == "open")
        return insert.on_conflict_do_update(
            index_elements=KEY_COLUMNS,
            set_={
                "value": _joined(aggregation, row, new),
                "event_count": _sum(row.event_count, new.event_count),
                "first_event_at": case((earlier, new.first_event_at), else_=row.first_event_at),
                "last_event_at": _larger(row.last_event_at, new.last_event_at),
                "state": case((untold, "open"), else_="adjusted"),
                "watermark": _larger(row.watermark, new.watermark),
                "version": row.version + 1,
            },
        )

    return adding


def _joined(aggregation: Aggregation, row: Any, new: Any) -> Any:  # noqa: ANN401 - SQL expressions
    match aggregation:
        case Aggregation.MAX:
            return _larger(row.value, new.value)
        case Aggregation.SUM:
            return _sum(row.value, new.value)
        case _:
            return row.value  # looked up afterwards, when this row is held


def _sum(one: Any, other: Any) -> Any:  # noqa: ANN401 - SQL expressions
    return case((one > LARGEST - other, LARGEST), else_=one + other)


def _larger(one: Any, other: Any) -> Any:  # noqa: ANN401 - SQL expressions
    return case((one >= other, one), else_=other)


def _look_up(session: Session, ends: Mapping[Key, datetime | None], aggregation: Aggregation) -> None:
    """Reads values from facts. Aggregates are held by now, so that what other batches stored is seen."""
    removed = Removed.read(session)
    for key, end in ends.items():
        if not removed.is_whole(key.classification, end):
            # What is known of the window stays.
            continue
        row = UsageLedgerRow
        matches = [getattr(row, name) == value for name, value in key_columns(key).items()]
        looking = update(row).where(*matches).values(value=_looked_up(key, end, aggregation))
        session.execute(looking.execution_options(synchronize_session=False))


def _looked_up(key: Key, window_end: datetime | None, aggregation: Aggregation) -> Any:  # noqa: ANN401 - an SQL expression
    query, fact = in_aggregate(key, window_end)
    if aggregation is Aggregation.LAST:
        newest = query.with_only_columns(fact.c.value).order_by(fact.c.occurred_at.desc(), fact.c.id.desc())
        # None where the batch itself voids it, which is applied afterwards.
        return func.coalesce(newest.limit(1).scalar_subquery(), 0)
    named = query.with_only_columns(func.count(fact.c.subject.distinct())).where(fact.c.subject != "")
    return named.scalar_subquery()
