"""Which aggregate an event belongs to: its subscription, and the window of its metric (S0.2).

Both are settled when the event arrives, and stored with it: by the subscriptions and the catalogue of then.
So aggregates can be made again from events alone, whatever became of subscriptions and metrics since.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Metric
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.domain.window import WindowUnit, window_at
from entitlement_sidecar.planstore.db import SubscriptionRow
from entitlement_sidecar.planstore.usage.bulk import among


class Slot(msgspec.Struct, frozen=True, gc=False):
    """A subscription, empty where the tenant had none, and one window. `window_kind` is the window's key."""

    subscription_id: str
    window_kind: str
    window_start: datetime
    window_end: datetime | None

    def columns(self) -> dict[str, object]:
        """As an event stores it."""
        return msgspec.structs.asdict(self)


def is_closed(metric: Metric, window_end: datetime | None, now: datetime) -> bool:
    """Whether what arrives now comes after its window was closed: `close_after` its end."""
    return window_end is not None and window_end + timedelta(seconds=metric.close_after) <= now


class _Subscription(msgspec.Struct, frozen=True, gc=False):
    """One subscription, and since when usage is its own; None: ever."""

    id: str = ""
    anchor: datetime | None = None
    since: datetime | None = None


def slots_of(
    session: Session, events: Sequence[UsageEvent], metrics: dict[str, Metric], received_at: datetime
) -> list[Slot]:
    """The slot of each event, in order; `metrics` has the metric of every one."""
    subscriptions = _subscriptions(session, {event.tenant_id for event in events}, received_at)
    known: dict[tuple[str, str, datetime], Slot] = {}
    return [
        _slot(known, event, metrics[event.metric], _at(subscriptions.get(event.tenant_id, ()), event))
        for event in events
    ]


def _subscriptions(
    session: Session, tenants: Collection[str], received_at: datetime
) -> dict[str, list[_Subscription]]:
    """Each tenant's subscriptions as they were known then, in order."""
    row = SubscriptionRow
    query = (
        select(row.tenant_id, row.id, row.anchor, row.created_at)
        .where(among(session, row.tenant_id, tenants), row.created_at <= received_at)
        .order_by(row.created_at, row.id)
    )
    found: dict[str, list[_Subscription]] = {}
    for tenant_id, id_, anchor, created_at in session.execute(query).all():
        held = found.setdefault(tenant_id, [])
        # What happened before the first subscription was made belongs to it: clocks differ.
        held.append(_Subscription(id_, anchor, created_at if held else None))
    return found


def _at(subscriptions: Sequence[_Subscription], event: UsageEvent) -> _Subscription:
    for subscription in reversed(subscriptions):
        if subscription.since is None or subscription.since <= event.occurred_at:
            return subscription
    return _NONE


_NONE = _Subscription()


def _slot(
    known: dict[tuple[str, str, datetime], Slot], event: UsageEvent, metric: Metric, held: _Subscription
) -> Slot:
    spec = metric.window
    if spec.unit is WindowUnit.BILLING_CYCLE and spec.anchor is None:
        spec = msgspec.structs.replace(spec, anchor=held.anchor)
    window = window_at(spec, event.occurred_at)
    key = (held.id, metric.key, window.start)
    slot = known.get(key)
    if slot is None:
        slot = known[key] = Slot(held.id, metric.window.key, window.start, window.end)
    return slot
