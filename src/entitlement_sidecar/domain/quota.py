"""What a decision asks an authority, and what it is told.

An authority counts; the rules of counting that every authority shares are here: what is carried over, and
how credits burn.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from entitlement_sidecar.domain.catalogue import Feature, FeatureKind, Limit
from entitlement_sidecar.domain.decision import CheckRequest
from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.window import Window, window_at

STRICT_SHARE = 10
"""A limit that has forfeited more than one token in so many grants no lease: each use is admitted alone."""


class LimitUsage(msgspec.Struct, frozen=True, gc=False):
    """Usage of one limit in its current window, or of one credit grant.

    `used` includes what was just admitted, `taken` is what this call took of a credit grant. `carried` came
    from the window before and is there besides `amount`. `holds`: the subject asked about has a seat of it.
    """

    key: str
    amount: int | None
    soft: bool
    window_start: datetime
    reset_at: datetime | None
    used: int
    outstanding: int = 0
    carried: int = 0
    taken: int = 0
    holds: bool = False

    @property
    def whole(self) -> int | None:
        """All that there is in this window, with what was carried over; None when unlimited."""
        return None if self.amount is None else self.amount + self.carried

    @property
    def remaining(self) -> int | None:
        """What is left, 0 or more; None when unlimited."""
        if self.amount is None:
            return None
        return max(0, self.amount + self.carried - self.used - self.outstanding)


class QuotaUsage(msgspec.Struct, frozen=True, gc=False):
    """What an authority answered.

    `admitted` None is a view that nothing was consumed for. `unavailable` says that no authority could be
    asked. `lease_id` names the admission in the usage event. `holds`: the subject asked about has its seat.
    `allowance`: counted by the sidecar alone, against the feature's offline allowance. `overshoot_bound`: how
    much a soft limit may be passed by what this sidecar admits before it looks again.
    """

    limits: tuple[LimitUsage, ...] = ()
    admitted: bool | None = None
    as_of: datetime | None = None
    snapshot_version: int = 0
    lease_id: str = ""
    held: int = 0
    pending: int = 0
    unavailable: bool = False
    holds: bool = False
    allowance: bool = False
    overshoot_bound: int = 0


class QuotaAsk(msgspec.Struct, frozen=True, gc=False):
    """Quota that a decision needs. `quantity` 0 only looks.

    `subject` is who wants a seat. `allowance`: nobody else can be asked, so the sidecar counts by itself.
    """

    feature: Feature
    quantity: int
    resolution: Resolution
    subject: str = ""
    allowance: bool = False


class Spent(msgspec.Struct, frozen=True, gc=False):
    """How a window ended: everything used or forfeited in it, and what it had been carried."""

    used: int
    carried: int


def previous_window(limit: Limit, window: Window) -> Window:
    """The window before."""
    return window_at(limit.window, window.start - timedelta(microseconds=1))


def carries_over(limit: Limit, window: Window) -> bool:
    """Whether anything can have been left over for a window: the tenant had the limit before it began."""
    return (
        limit.carry_over_cap > 0
        and limit.before is not None
        and limit.amount is not None
        and bool(window.end)
    )


def carried_over(limit: Limit, before: Spent | None) -> int:
    """What a window that `carries_over` begins with (DESIGN 7); `before` None: nothing was used.

    What had itself been carried burns first and never carries twice.
    """
    used = 0 if before is None else max(0, before.used - before.carried)
    return min(limit.carry_over_cap, max(0, (limit.before or 0) - used))


def is_strict(whole: int | None, forfeited: int) -> bool:
    """Whether so much of a limit was lost with its holders that it grants no lease any more."""
    return whole is not None and forfeited * STRICT_SHARE > whole


def most(limit: Limit) -> int | None:
    """All that there can ever be of a limit in one window; None when unlimited."""
    if limit.amount is None:
        return None
    return limit.amount + min(limit.carry_over_cap, max(limit.amount, limit.before or 0))


def burn(available: Sequence[int], quantity: int) -> list[int] | None:
    """How much of each grant, given in burn order, a quantity takes; None when they do not suffice."""
    taken = []
    for left in available:
        taken.append(min(max(0, left), quantity))
        quantity -= taken[-1]
    return None if quantity else taken


def bucket_usage(bucket: Bucket, used: int, taken: int = 0, outstanding: int = 0) -> LimitUsage:
    """Usage of one credit grant."""
    return LimitUsage(
        key=bucket.grant,
        amount=bucket.amount,
        soft=False,
        window_start=bucket.since,
        reset_at=bucket.until,
        used=used,
        outstanding=outstanding,
        taken=taken,
    )


def wanted(feature: Feature | None, request: CheckRequest) -> int:
    """How much a request wants: a subject takes one seat, whatever quantity it names."""
    seats = feature is not None and feature.kind is FeatureKind.SEATS
    return min(request.quantity, 1) if seats else request.quantity


def fits(limits: Sequence[LimitUsage], quantity: int) -> bool:
    """Whether a quantity is left of every hard limit; a seat that the subject has is left for it."""
    return all(
        limit.soft or limit.holds or limit.remaining is None or quantity <= limit.remaining
        for limit in limits
    )
