"""What events add up to, per subscription, metric and window (S0.2, S4.1).

Derived only from events. SUM, MAX and LAST are kept incrementally; UNIQUE_COUNT is counted again from the
events of its window, since a count of different subjects cannot be added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Aggregation, CatalogueDocument, Metric
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.domain.window import Window, window_at
from entitlement_sidecar.planstore.db import SubscriptionRow, UsageEventRow, UsageLedgerRow
from entitlement_sidecar.planstore.db.upsert import insert_for

_Key = tuple[str, str, str, datetime]


class _Group(msgspec.Struct):
    """The events of one batch that belong to one aggregate."""

    metric: Metric
    window: Window
    events: list[UsageEvent]


def add_to_aggregates(session: Session, events: Sequence[UsageEvent], catalogue: CatalogueDocument) -> None:
    """Adds events that were just stored, in the caller's transaction. Events without a value count too."""
    subscriptions = _subscriptions(session, {event.tenant_id for event in events})
    groups: dict[_Key, _Group] = {}
    for event in events:
        metric = catalogue.metrics[event.metric]
        window = window_at(metric.window, event.occurred_at)
        key = (event.tenant_id, subscriptions.get(event.tenant_id, ""), event.metric, window.start)
        groups.setdefault(key, _Group(metric, window, [])).events.append(event)
    # One order for everyone, so that two batches never wait for each other in a circle.
    for key in sorted(groups):
        _upsert(session, key, groups[key])


def _subscriptions(session: Session, tenants: set[str]) -> dict[str, str]:
    """The newest subscription of each tenant."""
    query = (
        select(SubscriptionRow.tenant_id, SubscriptionRow.id)
        .where(SubscriptionRow.tenant_id.in_(tenants))
        .order_by(SubscriptionRow.created_at, SubscriptionRow.id)
    )
    return {tenant_id: subscription_id for tenant_id, subscription_id in session.execute(query)}  # noqa: C416 - rows are no pairs


def _upsert(session: Session, key: _Key, group: _Group) -> None:
    tenant_id, subscription_id, metric, window_start = key
    times = [event.occurred_at for event in group.events]
    adding = insert_for(session, UsageLedgerRow).values(
        tenant_id=tenant_id,
        subscription_id=subscription_id,
        metric=metric,
        window_kind=group.metric.window.key,
        window_start=window_start,
        window_end=group.window.end,
        unit=group.metric.unit,
        value=_value(session, tenant_id, group),
        event_count=len(group.events),
        first_event_at=min(times),
        last_event_at=max(times),
        classification=int(group.metric.classification),
        state="open",
        version=1,
    )
    row, new = UsageLedgerRow, adding.excluded
    session.execute(
        adding.on_conflict_do_update(
            index_elements=["tenant_id", "subscription_id", "metric", "window_kind", "window_start"],
            set_={
                "value": _joined(group.metric.aggregation, row, new),
                "event_count": row.event_count + new.event_count,
                "first_event_at": _smaller(row.first_event_at, new.first_event_at),
                "last_event_at": _larger(row.last_event_at, new.last_event_at),
                "version": row.version + 1,
            },
        )
    )


def _value(session: Session, tenant_id: str, group: _Group) -> int:
    match group.metric.aggregation:
        case Aggregation.MAX:
            return max(event.value for event in group.events)
        case Aggregation.LAST:
            return max(group.events, key=lambda event: event.occurred_at).value
        case Aggregation.UNIQUE_COUNT:
            return _unique_subjects(session, tenant_id, group)
        case _:
            return sum(event.value for event in group.events)


def _unique_subjects(session: Session, tenant_id: str, group: _Group) -> int:
    event = UsageEventRow
    query = select(func.count(event.subject.distinct())).where(
        event.tenant_id == tenant_id,
        event.metric == group.metric.key,
        event.occurred_at >= group.window.start,
    )
    if group.window.end is not None:
        query = query.where(event.occurred_at < group.window.end)
    return session.scalar(query) or 0


def _joined(aggregation: Aggregation, row: Any, new: Any) -> Any:  # noqa: ANN401 - SQL expressions
    match aggregation:
        case Aggregation.MAX:
            return _larger(row.value, new.value)
        case Aggregation.LAST:
            return case((new.last_event_at >= row.last_event_at, new.value), else_=row.value)
        case Aggregation.UNIQUE_COUNT:
            return new.value
        case _:
            return row.value + new.value


def _larger(one: Any, other: Any) -> Any:  # noqa: ANN401 - SQL expressions
    return case((one >= other, one), else_=other)


def _smaller(one: Any, other: Any) -> Any:  # noqa: ANN401 - SQL expressions
    return case((one <= other, one), else_=other)
