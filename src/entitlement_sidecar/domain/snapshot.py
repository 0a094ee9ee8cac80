"""One tenant's compiled entitlements, as the plan store sends them.

A snapshot carries effective intervals, not a state: a trial ends on time with the plan store away. What it
means at an instant is `resolve`'s business. A newer plan store may send what this version has no name for;
it is marked as not understood instead of being guessed at.
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.decision import Provenance


class SubscriptionState(IntEnum):
    """State of a subscription during one interval. Values are those of the contract."""

    UNKNOWN = 0
    TRIALING = 1
    ACTIVE = 2
    GRACE = 3
    SUSPENDED = 4
    ENDED = 5


LIVE = frozenset({SubscriptionState.TRIALING, SubscriptionState.ACTIVE, SubscriptionState.GRACE})
"""States in which grants apply."""


class Phase(msgspec.Struct, frozen=True, gc=False):
    """One interval `[since, until)` of a subscription's life; `until` None is open-ended."""

    state: SubscriptionState
    since: datetime
    until: datetime | None = None


class Subscription(msgspec.Struct, frozen=True, gc=False):
    """One subscription. Phases are in order and do not overlap."""

    id: str
    plan: str
    plan_version: int
    phases: tuple[Phase, ...]

    def phase_at(self, now: datetime) -> Phase | None:
        """The phase that holds an instant: ended, where those before are over; None before the first."""
        over: datetime | None = None
        for phase in self.phases:
            if phase.since <= now and (phase.until is None or now < phase.until):
                return phase
            if phase.until is not None and phase.until <= now:
                over = phase.until
        return None if over is None else Phase(SubscriptionState.ENDED, over)

    def live_during(self, now: datetime) -> tuple[datetime | None, datetime | None]:
        """The interval without a gap, around an instant in which it is live, where its grants apply.

        A trial that becomes active, or a grace that follows, is one interval. `(None, None)` when not live.
        """
        intervals: list[tuple[datetime, datetime | None]] = []
        for phase in self.phases:
            if phase.state not in LIVE:
                continue
            if intervals and intervals[-1][1] == phase.since:
                intervals[-1] = (intervals[-1][0], phase.until)
            else:
                intervals.append((phase.since, phase.until))
        for since, until in intervals:
            if since <= now and (until is None or now < until):
                return since, until
        return None, None


class GrantEffect(IntEnum):
    """How a grant joins the others of its feature."""

    UNKNOWN = 0
    ADD = 1
    SET = 2
    DENY = 3


class Grant(msgspec.Struct, frozen=True, gc=False):
    """Something that grants, or denies, one feature during `[since, until)`.

    With a `subscription_id` it applies only while that subscription is live. Limits are those of metered
    features, seats and credits; none means unlimited. `priority`, smaller first, says which credits burn
    first, and which of config values that cannot be joined is told. `understood` False: it says something
    that this version has no name for.
    """

    feature: str
    provenance: Provenance
    effect: GrantEffect = GrantEffect.ADD
    subscription_id: str = ""
    since: datetime | None = None
    until: datetime | None = None
    enabled: bool = True
    value: Any = None
    limits: tuple[Limit, ...] = ()
    reason: str = ""
    priority: int = 0
    understood: bool = True


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """One tenant's compiled entitlements."""

    tenant_id: str
    version: int
    compiled_at: datetime
    catalogue_version: int
    subscriptions: tuple[Subscription, ...]
    grants: tuple[Grant, ...]
