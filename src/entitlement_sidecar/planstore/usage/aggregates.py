"""What events add up to, per subscription, metric and window (S0.2, S4.1).

Derived only from events, and by rules that do not depend on the order in which batches arrive. SUM, MAX and
LAST are kept up to date by adding; UNIQUE_COUNT is counted again from the events of its window, since counts
of different subjects cannot be added up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Aggregation, CatalogueDocument, Metric
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.domain.window import Window, WindowUnit, window_at
from entitlement_sidecar.planstore.db import SubscriptionRow, UsageEventRow, UsageLedgerRow
from entitlement_sidecar.planstore.usage.bulk import among, insert_rows

_LARGEST = 2**63 - 1
"""A sum that would leave 64 bits stays here, rather than that its batch can never be stored."""

_Key = tuple[str, str, str, str, datetime, int]
_KEY_COLUMNS = ("tenant_id", "subscription_id", "metric", "window_kind", "window_start", "classification")


class Counted(msgspec.Struct, frozen=True):
    """Events that were just stored, when, and the highest of their row ids."""

    events: Sequence[UsageEvent]
    watermark: int
    received_at: datetime


class _Subscription(msgspec.Struct, frozen=True):
    """One subscription, and the time `[since, until)` whose usage is its own; None is open."""

    id: str = ""
    anchor: datetime | None = None
    since: datetime | None = None
    until: datetime | None = None


class _Total(msgspec.Struct):
    """What the events of one batch add to one aggregate."""

    metric: Metric
    window: Window
    subscription: _Subscription
    value: int
    first: datetime
    last: datetime
    count: int = 1

    def add(self, event: UsageEvent) -> None:
        """One more event."""
        match self.metric.aggregation:
            case Aggregation.SUM:
                self.value += event.value
            case Aggregation.MAX:
                self.value = max(self.value, event.value)
            case Aggregation.LAST if event.occurred_at >= self.last:
                self.value = event.value
        self.first = min(self.first, event.occurred_at)
        self.last = max(self.last, event.occurred_at)
        self.count += 1


def add_to_aggregates(session: Session, counted: Counted, catalogue: CatalogueDocument) -> None:
    """Adds events that were just stored, in the caller's transaction. Events without a value count too."""
    tenants = {event.tenant_id for event in counted.events}
    subscriptions = _subscriptions(session, tenants, counted.received_at)
    totals: dict[_Key, _Total] = {}
    for event in counted.events:
        subscription = _at(subscriptions.get(event.tenant_id, ()), event.occurred_at)
        _add_event(totals, event, catalogue.metrics[event.metric], subscription)
    for aggregation in Aggregation:
        keys = sorted(key for key, total in totals.items() if total.metric.aggregation is aggregation)
        if keys:
            rows = [_row(key, totals[key], counted.watermark) for key in keys]
            _upsert(session, aggregation, rows)
            if aggregation is Aggregation.UNIQUE_COUNT:
                _count_subjects(session, [(key, totals[key]) for key in keys])


def _subscriptions(
    session: Session, tenants: Collection[str], received_at: datetime
) -> dict[str, list[_Subscription]]:
    """Each tenant's subscriptions as they were known then, in order, with no gap between them."""
    row = SubscriptionRow
    query = (
        select(row.tenant_id, row.id, row.anchor, row.created_at)
        .where(among(session, row.tenant_id, tenants), row.created_at <= received_at)
        .order_by(row.created_at, row.id)
    )
    found: dict[str, list[_Subscription]] = {}
    for tenant_id, id_, anchor, created_at in session.execute(query).all():
        held = found.setdefault(tenant_id, [])
        if held:
            held[-1] = msgspec.structs.replace(held[-1], until=created_at)
        # What happened before the first subscription was made belongs to it: clocks differ.
        held.append(_Subscription(id_, anchor, created_at if held else None))
    return found


def _at(subscriptions: Sequence[_Subscription], instant: datetime) -> _Subscription:
    for subscription in reversed(subscriptions):
        if subscription.since is None or subscription.since <= instant:
            return subscription
    return _Subscription()


def _add_event(
    totals: dict[_Key, _Total], event: UsageEvent, metric: Metric, subscription: _Subscription
) -> None:
    spec = metric.window
    if spec.unit is WindowUnit.BILLING_CYCLE and spec.anchor is None:
        spec = msgspec.structs.replace(spec, anchor=subscription.anchor)
    window = window_at(spec, event.occurred_at)
    classification = int(event.classification or metric.classification)
    key = (event.tenant_id, subscription.id, metric.key, metric.window.key, window.start, classification)
    total = totals.get(key)
    if total is None:
        totals[key] = _Total(metric, window, subscription, event.value, event.occurred_at, event.occurred_at)
    else:
        total.add(event)


def _row(key: _Key, total: _Total, watermark: int) -> dict[str, object]:
    row: dict[str, object] = dict(zip(_KEY_COLUMNS, key, strict=True))
    return row | {
        "window_end": total.window.end,
        "unit": total.metric.unit,
        "value": min(total.value, _LARGEST),
        "event_count": total.count,
        "first_event_at": total.first,
        "last_event_at": total.last,
        "state": "open",
        "watermark": watermark,
        "version": 1,
    }


def _upsert(session: Session, aggregation: Aggregation, rows: list[dict[str, object]]) -> None:
    def adding(insert: Any) -> Any:  # noqa: ANN401 - either dialect's insert
        row, new = UsageLedgerRow, insert.excluded
        earlier = new.first_event_at < row.first_event_at
        return insert.on_conflict_do_update(
            index_elements=_KEY_COLUMNS,
            set_={
                "value": _joined(aggregation, row, new),
                "event_count": row.event_count + new.event_count,
                "first_event_at": case((earlier, new.first_event_at), else_=row.first_event_at),
                "last_event_at": _larger(row.last_event_at, new.last_event_at),
                "watermark": _larger(row.watermark, new.watermark),
                "version": row.version + 1,
            },
        )

    insert_rows(session, UsageLedgerRow, rows, adding)


def _joined(aggregation: Aggregation, row: Any, new: Any) -> Any:  # noqa: ANN401 - SQL expressions
    match aggregation:
        case Aggregation.MAX:
            return _larger(row.value, new.value)
        case Aggregation.LAST:
            return case((new.last_event_at >= row.last_event_at, new.value), else_=row.value)
        case Aggregation.UNIQUE_COUNT:
            return row.value  # counted afterwards, when this row is locked
        case _:
            return case((row.value > _LARGEST - new.value, _LARGEST), else_=row.value + new.value)


def _larger(one: Any, other: Any) -> Any:  # noqa: ANN401 - SQL expressions
    return case((one >= other, one), else_=other)


def _count_subjects(session: Session, totals: Sequence[tuple[_Key, _Total]]) -> None:
    """Counts again. The aggregate's row is locked by now, so that what other batches stored is seen."""
    row = UsageLedgerRow
    for key, total in totals:
        matches = [getattr(row, name) == value for name, value in zip(_KEY_COLUMNS, key, strict=True)]
        counting = update(row).where(*matches).values(value=_subjects(key, total))
        session.execute(counting.execution_options(synchronize_session=False))


def _subjects(key: _Key, total: _Total) -> Any:  # noqa: ANN401 - an SQL expression
    """How many subjects used the metric in the window, while the subscription was the tenant's."""
    event, (tenant_id, _, metric, _, start, _) = UsageEventRow, key
    until = [end for end in (total.window.end, total.subscription.until) if end is not None]
    query = select(func.count(event.subject.distinct())).where(
        event.tenant_id == tenant_id,
        event.metric == metric,
        event.subject != "",
        event.occurred_at >= max(start, total.subscription.since or start),
    )
    return query.where(*(event.occurred_at < end for end in until)).scalar_subquery()
