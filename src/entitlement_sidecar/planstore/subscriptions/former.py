"""What a subscription was before: what is carried over a window's end is what was left of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby, pairwise

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.catalogue import find_plan, plan_of
from entitlement_sidecar.planstore.db import PlanRow, SubscriptionHistoryRow, SubscriptionRow

_VERSIONS = 100
"""How many of its versions are looked at, the newest."""

_KEPT = 3
"""How many plans before the present one are told."""


class FormerPlan(msgspec.Struct, frozen=True):
    """A plan that a subscription was on until an instant, and what its billing cycles counted from."""

    plan: PlanRow
    anchor: datetime
    since: datetime | None
    until: datetime


def carrying(row: SubscriptionRow) -> frozenset[str]:
    """Features of which the plan carries over what is left."""
    plans = [row.plan] if row.next_plan is None else [row.plan, row.next_plan]
    entitlements = [one for plan in plans for one in plan_of(plan).entitlements]
    return frozenset(one.feature for one in entitlements if any(limit.carry_over_cap for limit in one.limits))


def former_plans(session: Session, row: SubscriptionRow) -> tuple[FormerPlan, ...]:
    """The plans before the present one, the oldest first; none where nothing is carried over."""
    if not row.open or not carrying(row):
        return ()
    times = _times(session, row)
    former = [
        FormerPlan(find_plan(session, label), anchor, since, until)
        for (label, anchor, since), (_, _, until) in pairwise(times[-_KEPT - 1 :])
    ]
    return tuple(former)


_Time = tuple[str, datetime, datetime]
"""A plan, what its billing cycles count from, and when it came into force."""


def _times(session: Session, row: SubscriptionRow) -> Sequence[_Time]:
    line = SubscriptionHistoryRow
    query = select(line.plan, line.body, line.at).where(line.subscription_id == row.id)
    lines = session.execute(query.order_by(line.version.desc()).limit(_VERSIONS)).all()
    known = [(plan, datetime.fromisoformat(json.loads(body)["anchor"]), at) for plan, body, at in lines]
    return [next(same) for _, same in groupby(reversed(known), key=lambda one: one[:2])]
