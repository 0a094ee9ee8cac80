"""What a sidecar has of one tenant's feature: its leases, a view of usage, and what was refused lately."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage, bucket_usage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.sidecar.leases.burning import Burning
from entitlement_sidecar.sidecar.leases.grantor import Grantor
from entitlement_sidecar.sidecar.leases.lease import Lease
from entitlement_sidecar.sidecar.leases.sizing import Rate
from entitlement_sidecar.telemetry import metrics

REFUSED_FOR = 0.1
"""Seconds that a refusal is given again, for as much or more."""

FEW = 3
"""Refusals within `REFUSED_FOR` of each other after which that begins."""


class Tally:
    """Counts in memory, by who decided; a counter of the metrics costs as much as the rest of a use."""

    __slots__ = ("direct", "leased", "refused")

    def __init__(self) -> None:
        self.leased = self.direct = self.refused = 0

    def publish(self) -> None:
        """Adds what was counted to the metrics."""
        for by in self.__slots__:
            if counted := getattr(self, by):
                metrics.lease_consumes.labels(by).inc(counted)
                setattr(self, by, 0)


class Slot:
    """Implements `Grip`. Of one tenant and feature. `current` is the lease that is used of."""

    __slots__ = (
        "_as_of",
        "_base",
        "_monotonic",
        "_refill",
        "_refusal",
        "_refusals",
        "_refused",
        "_refused_at",
        "_refused_until",
        "_seen",
        "_tally",
        "asking",
        "burning",
        "current",
        "dry_until",
        "feature",
        "leases",
        "low",
        "rate",
        "rated",
        "resolution",
        "taken",
        "tenant_id",
        "told",
        "viewed_at",
        "waiting",
    )

    def __init__(
        self, tenant_id: str, ask: QuotaAsk, clock: Clock, tally: Tally, refill: Callable[[Slot], None]
    ) -> None:
        self._monotonic = clock.monotonic
        self._tally = tally
        self._refill = refill
        self.tenant_id = tenant_id
        self.feature = ask.feature
        self.resolution = ask.resolution
        # Of credits.
        self.burning = Burning(ask.resolution.buckets) if ask.resolution.buckets else None
        self.leases: list[Lease] = []
        self.current: Lease | None = None
        # Below this much left more is asked for.
        self.low = 0
        self.asking: asyncio.Task[None] | None = None
        # Tokens that callers wait for.
        self.waiting = 0
        # Until when (monotonic) nobody is asked for more: nothing was left, or nobody answered.
        self.dry_until = float("-inf")
        self.rate = Rate(clock.monotonic())
        # Taken in all; of it, what the last look at the rate counted, and what a view of usage counts.
        self.taken = 0
        self.rated = 0
        self.told = 0
        self.viewed_at = float("-inf")
        self._base: tuple[LimitUsage, ...] = ()
        self._as_of: datetime | None = None
        self._seen: tuple[QuotaUsage, tuple[int, int], QuotaUsage] | None = None
        self._refusal: QuotaUsage | None = None
        self._refused = 0
        self._refused_until = self._refused_at = float("-inf")
        self._refusals = 0

    def take(self, quantity: int, wall: datetime) -> str:
        """Takes from the lease at hand, and says its name; '' where that does not do."""
        lease = self.current
        if (
            lease is None
            or quantity > lease.left
            or wall >= lease.ends_at
            or self._monotonic() >= lease.until
        ):
            return ""
        lease.left -= quantity
        lease.taken += quantity
        self.taken += quantity
        self._tally.leased += 1
        if self.burning is not None:
            self.burning.take(lease, quantity)
        if lease.left < self.low:
            self._refill(self)
        return lease.id

    def admit(self, ask: QuotaAsk, wall: datetime) -> QuotaUsage | None:
        """Takes from the lease at hand, and tells usage; None where that does not do."""
        if ask.resolution is not self.resolution and not self.accepts(ask.resolution):
            return None
        lease_id = self.take(ask.quantity, wall)
        if not lease_id:
            return None
        limits = self._limits(ask.quantity)
        return QuotaUsage(limits, True, self._as_of, 0, lease_id, self.left, self.pending)

    def void(self, lease: Lease, quantity: int) -> None:
        """What was taken of a lease is left again."""
        lease.void(quantity)
        if lease not in self.leases:
            return
        self.taken -= quantity
        if self.burning is not None:
            self.burning.take(lease, -quantity)
        self.forgive()

    @property
    def left(self) -> int:
        """Tokens left in the lease at hand."""
        return 0 if self.current is None else self.current.left

    @property
    def pending(self) -> int:
        """Tokens taken that the view does not count."""
        return self.taken - self.told

    def choose(self, quantity: int, wall: datetime) -> bool:
        """Makes a lease that has so much the one at hand."""
        now = self._monotonic()
        for lease in self.leases:
            if now >= lease.until or wall >= lease.ends_at:
                continue
            if quantity <= lease.left:
                self.current = lease
                return True
            if self.burning is not None and lease.left:
                # What burns first is used first.
                return False
        return False

    def order(self) -> None:
        """Of credits: what burns first is used first."""
        if self.burning is not None:
            self.burning.sort(self.leases)
            self.current = next((lease for lease in self.leases if lease.left), self.current)

    def splits(self, quantity: int) -> bool:
        """Whether that is more than what is left of a credit grant that has no more for anybody."""
        return any(_is_too_little(lease, quantity) for lease in self.leases)

    def leftovers(self, quantity: int) -> list[Lease]:
        """Takes out the leases because of which a quantity `splits`."""
        return self.drop(lambda lease: _is_too_little(lease, quantity))

    def accepts(self, resolution: Resolution) -> bool:
        """Whether the leases hold by another resolution too: the same limits, or more of the same."""
        if resolution.buckets != self.resolution.buckets or not _is_no_less(self.resolution, resolution):
            return False
        if resolution.limits != self.resolution.limits:
            # A raised limit may admit what was refused, and grant what was not there.
            self.forgive()
            self.dry_until = float("-inf")
        self.resolution = resolution
        return True

    def size(self, now: float) -> int:
        """How much a lease of this is to have now."""
        self.rate.add(max(0, self.taken - self.rated + self.waiting), now)
        self.rated = self.taken + self.waiting
        self.low = self.rate.low
        there = self.remaining
        if there is None:
            # No hard limit, or nobody knows.
            return self.rate.size(math.inf if self._base else 0)
        return self.rate.size(there)

    def sees(self, wall: datetime) -> bool:
        """Whether a view is known, of windows that have not ended."""
        return bool(self._base) and all(one.reset_at is None or wall < one.reset_at for one in self._base)

    @property
    def remaining(self) -> int | None:
        """What others may have of every hard limit, by the last view; None: unknown, or no end of it."""
        left = [one.remaining for one in self._base if not one.soft and one.remaining is not None]
        there = min if self.burning is None else sum
        return there(left) - self.pending - self.held if left else None

    @property
    def question(self) -> QuotaAsk:
        """What a view is asked for with."""
        return QuotaAsk(self.feature, 0, self.resolution)

    def lease_of(self, grantor: Grantor) -> Lease | None:
        """The lease of a grantor that can still bring something."""
        mine = (one for one in self.leases if one.grantor is grantor)
        return next((one for one in mine if not one.closed and not one.burnt_up), None)

    @property
    def view(self) -> tuple[LimitUsage, ...]:
        """Usage as it was seen last, less what this sidecar itself stands for in it."""
        return self._base

    @property
    def held(self) -> int:
        """Tokens left in all leases."""
        return sum(lease.left for lease in self.leases)

    def learn(self, limits: tuple[LimitUsage, ...], as_of: datetime | None, now: float) -> None:
        """Keeps a view of usage, less what this sidecar itself stands for in it."""
        if not limits or (as_of and self._as_of and as_of < self._as_of and self._base):
            return
        known = sum(lease.known for lease in self.leases)
        self.told = self.taken - self._untold
        if self.burning is None:
            base = tuple(_without(limit, known) for limit in limits)
        else:
            base = self.burning.learn(limits, self.leases)
        if base != self._base or as_of != self._as_of:
            # Else it stays the very same one: consumptions that are ready rest on it.
            self._base = base
        self._as_of, self.viewed_at = as_of, now

    def learn_nothing(self, wall: datetime) -> None:
        """Nobody could be asked for a view: of the limits, only what was used here is known."""
        if not self.sees(wall):
            self.told = self.taken - sum(lease.taken for lease in self.leases)
            self._as_of = wall
            self._base = tuple(_unseen(self.resolution, wall))
            if self.burning is not None:
                self.burning.learn_nothing(self.leases)

    def seen(self, view: QuotaUsage, now: float) -> QuotaUsage:
        """A view as this sidecar gives it; the very same one while nothing has changed."""
        state = (self.taken, self.held)
        if self._seen is not None and self._seen[0] is view and self._seen[1] == state:
            return self._seen[2]
        if not view.unavailable:
            self.learn(view.limits, view.as_of, now)
        if not self._base or not (view.limits or view.unavailable):
            return view
        told = msgspec.structs.replace(
            view,
            limits=self._limits(),
            as_of=self._as_of,
            held=state[1],
            pending=self.taken - self.told,
            unavailable=False,
        )
        self._seen = (view, state, told)
        return told

    def as_used_here(self, usage: QuotaUsage) -> QuotaUsage:
        """An authority's own answer, which does not know yet what was used of the leases here."""
        if not self.leases or not usage.limits:
            return usage
        if self.burning is not None:
            limits = self.burning.as_used_here(usage.limits, self.leases)
        else:
            known = sum(lease.known for lease in self.leases)
            limits = tuple(_moved(limit, known, self._untold) for limit in usage.limits)
        return msgspec.structs.replace(usage, limits=limits, held=self.held, pending=self._untold)

    @property
    def _untold(self) -> int:
        """Taken of the leases, and not told to their grantors."""
        return sum(lease.taken - lease.told for lease in self.leases)

    def refuse(self, quantity: int, usage: QuotaUsage, now: float) -> None:
        """The authority refused so much: after a few refusals it is not asked again at once.

        Who asks now and then hears what is true now; who keeps asking does not hammer the authority.
        """
        if now >= self._refused_at + REFUSED_FOR:
            self._refusals = 0
        self._refusals += 1
        self._refused_at = now
        if self._refusals < FEW or (now < self._refused_until and quantity >= self._refused):
            return
        self._refused, self._refusal = quantity, usage
        self._refused_until = now + REFUSED_FOR

    def refused(self, ask: QuotaAsk, now: float) -> QuotaUsage | None:
        """The refusal that still holds, if there is one."""
        if now >= self._refused_until or ask.quantity < self._refused or ask.resolution != self.resolution:
            return None
        return self._refusal

    def forgive(self) -> None:
        """Something has changed: what was refused may be admitted now."""
        self._refused_until = float("-inf")

    def drop(self, gone: Callable[[Lease], bool]) -> list[Lease]:
        """Takes leases out."""
        dropped = [lease for lease in self.leases if gone(lease)]
        for lease in dropped:
            self.leases.remove(lease)
        if self.current in dropped:
            self.current = self.leases[0] if self.leases else None
        return dropped

    def _limits(self, quantity: int = 0) -> tuple[LimitUsage, ...]:
        """Usage with what is pending; of credits, `quantity` was taken from the lease at hand just now."""
        if self.burning is not None:
            return self.burning.burn(self._base, self.current, quantity)
        pending = self.taken - self.told
        if not pending:
            return self._base
        return tuple(
            [
                LimitUsage(
                    one.key,
                    one.amount,
                    one.soft,
                    one.window_start,
                    one.reset_at,
                    one.used + pending,
                    one.outstanding,
                    one.carried,
                )
                for one in self._base
            ]
        )


def _is_too_little(lease: Lease, quantity: int) -> bool:
    return lease.burnt_up and not lease.busy and 0 < lease.left < quantity


def _moved(limit: LimitUsage, known: int, untold: int) -> LimitUsage:
    """Usage of which a part was outstanding here and is used by now."""
    outstanding = max(0, limit.outstanding - known)
    return msgspec.structs.replace(limit, used=limit.used + untold, outstanding=outstanding)


def _without(limit: LimitUsage, known: int) -> LimitUsage:
    return msgspec.structs.replace(limit, outstanding=max(0, limit.outstanding - known), taken=0)


def _unseen(resolution: Resolution, wall: datetime) -> list[LimitUsage]:
    found = [bucket_usage(bucket, used=0) for bucket in resolution.buckets]
    for limit in resolution.limits:
        window = window_at(limit.window, wall)
        found.append(LimitUsage(limit.key, limit.amount, limit.soft, window.start, window.end, used=0))
    return found


def _is_no_less(former: Resolution, now: Resolution) -> bool:
    """Whether every limit is there still, otherwise the same, and no smaller."""
    if former.limits == now.limits:
        return True
    if len(former.limits) != len(now.limits):
        return False
    return all(
        _but_for_amount(one, other) and (other.amount is None or (one.amount or 0) <= other.amount)
        for one, other in zip(former.limits, now.limits, strict=True)
    )


def _but_for_amount(one: Limit, other: Limit) -> bool:
    return msgspec.structs.replace(one, amount=0, before=None) == msgspec.structs.replace(
        other, amount=0, before=None
    )
