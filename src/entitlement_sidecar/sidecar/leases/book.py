"""The lease book: consumption is admitted from memory, out of leases (DESIGN 7).

    consume ──▶ the lease at hand has it ──▶ taken, no call             kept ──▶ told at the next renewal
                 └─ not: one request to the grantors, for all who wait   void ──▶ left again
                     └─ still not: the authority behind, one by one

Wraps an authority, which has the last word where no lease can be had: near the limit, for large requests, and
for what is never leased (seats, limits of another mode). One loop, `run`, renews what is used, gives
back what is not, and tells of what is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Coroutine, Sequence
from datetime import datetime
from heapq import heappop, heappush
from itertools import count
from typing import Any

from entitlement_sidecar.domain.catalogue import FeatureKind, LimitMode
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.lease import RENEW_AFTER
from entitlement_sidecar.domain.modes import mode_of
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.sidecar.leases.asking import Asking, Means
from entitlement_sidecar.sidecar.leases.authority import Grip, QuotaAuthority
from entitlement_sidecar.sidecar.leases.ending import Endings
from entitlement_sidecar.sidecar.leases.lease import Lease
from entitlement_sidecar.sidecar.leases.sizing import MAX_LEASE
from entitlement_sidecar.sidecar.leases.slot import Slot, Tally
from entitlement_sidecar.telemetry import metrics

MAX_SLOTS = 100_000
"""Tenants' features that leases are held of at most; the one that was asked for longest ago is given back."""

_log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between two rounds of what is due."""

SEE_EVERY = 5.0
"""Seconds between two looks at a slot: what is over, idle, or to be renewed."""

IDLE_AFTER = 10.0
"""Seconds after which a lease that nothing is used of is given back."""

MEASURE_EVERY = 5.0
"""Seconds between two readings for metrics."""

ROUNDS = 2
"""Requests that one caller waits for: the first may have been under way before it came."""

NEAR = 2
"""A lease is asked for where this many times as much is left: half of the rest is granted at most."""

VIEW_WITHIN = 0.1
"""Seconds that the first use of a lease waits for a view of usage that its answer can tell."""

VIEW_AFTER = 10.0
"""Seconds after which new tokens that came without a view of usage have one asked for. Nobody hangs on it:
who looks (PEEK) has a younger one, and so has who asks near the limit."""

BACK_WITHIN = 0.1
"""Seconds that a use of several credit grants waits for what is left of one here to be back."""

_Key = tuple[str, str]


class LeaseBook:
    """An authority that admits from leases."""

    def __init__(self, behind: QuotaAuthority, means: Means) -> None:
        self._behind = behind
        self._clock = means.clock
        self._slots: OrderedDict[_Key, Slot] = OrderedDict()
        self._named: dict[str, Lease] = {}
        self._endings = Endings(means, self._forget)
        self._asking = Asking(means, self._remember)
        self._due: list[tuple[float, int, Slot]] = []
        self._numbers = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._measured_at = float("-inf")
        self._tally = Tally()

    def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage | Awaitable[QuotaUsage]:
        """Admits from a lease in memory, else as soon as one is granted, else the authority says."""
        slot = self._slots.get((tenant_id, ask.feature.key))
        if slot is not None:
            usage = slot.admit(ask, self._clock.now())
            if usage is not None:
                return usage
        if not _is_leased(ask):
            return self._behind.consume(tenant_id, ask, request_id)
        return self._otherwise(self._slot(tenant_id, ask), ask, request_id)

    def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> tuple[bool, list[QuotaUsage]] | Awaitable[tuple[bool, list[QuotaUsage]]]:
        """Admits everything from leases, or asks the authority for all of it."""
        answers: list[QuotaUsage] = []
        for ask, _ in asks:
            slot = self._slots.get((tenant_id, ask.feature.key))
            usage = None if slot is None else self._taken(slot, ask)
            if usage is None:
                break
            answers.append(usage)
        if len(answers) == len(asks):
            return True, answers
        for (ask, _), usage in zip(asks, answers, strict=False):
            self.void(tenant_id, usage.lease_id, ask.quantity)
        return self._behind.consume_all(tenant_id, asks)

    def view(
        self, tenant_id: str, ask: QuotaAsk, max_age: float | None
    ) -> QuotaUsage | Awaitable[QuotaUsage]:
        """What the authority sees, with what is held and pending here."""
        outcome = self._behind.view(tenant_id, ask, max_age)
        slot = self._slots.get((tenant_id, ask.feature.key))
        if slot is None or not slot.leases or not _is_leased(ask) or not slot.accepts(ask.resolution):
            return outcome
        if not isinstance(outcome, QuotaUsage):
            return self._seen(slot, outcome)
        if outcome.unavailable and max_age is not None:
            return outcome
        return slot.seen(outcome, self._clock.monotonic())

    def grip(self, tenant_id: str, feature: str) -> Grip | None:
        """What is leased of a feature, by the resolution that was consumed by last."""
        slot = self._slots.get((tenant_id, feature))
        return None if slot is None or slot.current is None else slot

    def kept(self, lease_id: str, quantity: int) -> None:
        """What was taken is in the outbox: its grantor is told with the next renewal."""
        lease = self._named.get(lease_id)
        if lease is not None:
            lease.kept += quantity

    def void(self, tenant_id: str, lease_id: str, quantity: int) -> None:
        """What was taken is left again."""
        lease = self._named.get(lease_id)
        if lease is None:
            return
        slot = self._slots.get((tenant_id, lease.opening.feature))
        if slot is None:
            lease.void(quantity)
        else:
            slot.void(lease, quantity)

    async def run(self) -> None:
        """Renews, gives back and tells, until it is cancelled; first of all for earlier starts."""
        settled = False
        while True:
            settled = settled or await self.settle_former()
            self.tick()
            await asyncio.sleep(TICK)

    def tick(self) -> None:
        """Does what is due."""
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            slot = heappop(self._due)[2]
            if self._slots.get((slot.tenant_id, slot.feature.key)) is slot:
                self._see_to(slot, now)
        self._endings.tick()
        self._tally.publish()
        if now >= self._measured_at + MEASURE_EVERY:
            self._measured_at = now
            metrics.leases_held.set(len(self._named))
            metrics.lease_tokens_held.set(sum(slot.held for slot in self._slots.values()))

    async def close(self, within: float) -> None:
        """Gives everything back, in so many seconds at most, and leases nothing any more."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=within)
        for slot in list(self._slots.values()):
            self._give_back(slot.drop(lambda _: True))
        self._slots.clear()
        await self._endings.drain(within)
        self._tally.publish()

    async def settle_former(self) -> bool:
        """Begins to settle for earlier starts; False where the journal cannot be read now."""
        try:
            await self._endings.settle_former()
        except SourceUnavailableError as error:
            _log.warning("what earlier starts leased cannot be settled for yet: %s", error)
            return False
        return True

    def _otherwise(self, slot: Slot, ask: QuotaAsk, request_id: str) -> QuotaUsage | Awaitable[QuotaUsage]:
        now = self._clock.monotonic()
        if (usage := self._taken(slot, ask)) is not None:
            return usage
        if (refusal := slot.refused(ask, now)) is not None:
            self._tally.refused += 1
            return refusal
        if self._is_dry(slot, ask):
            return self._at_authority(slot, ask, request_id)
        return self._once_granted(slot, ask, request_id)

    def _taken(self, slot: Slot, ask: QuotaAsk) -> QuotaUsage | None:
        wall = self._clock.now()
        usage = slot.admit(ask, wall)
        if usage is None and slot.accepts(ask.resolution) and slot.choose(ask.quantity, wall):
            usage = slot.admit(ask, wall)
        return usage

    async def _once_granted(self, slot: Slot, ask: QuotaAsk, request_id: str) -> QuotaUsage:
        """Waits for one request to the grantors, together with all who miss something of this slot."""
        for _ in range(ROUNDS):
            slot.waiting += ask.quantity
            try:
                await asyncio.wait([self._more(slot)])
            finally:
                slot.waiting -= ask.quantity
            usage = self._taken(slot, ask)
            if usage is not None:
                return usage
            if self._is_dry(slot, ask):
                break
        return slot.refused(ask, self._clock.monotonic()) or await self._at_authority(slot, ask, request_id)

    def _is_dry(self, slot: Slot, ask: QuotaAsk) -> bool:
        """Whether no lease can be had that holds so much."""
        if self._closing or ask.quantity > MAX_LEASE or self._clock.monotonic() < slot.dry_until:
            return True
        if slot.splits(ask.quantity):
            return True
        there = slot.remaining
        if there is None or there >= NEAR * ask.quantity:
            return False
        # The authority has it alone, or nobody has; else what is left there does together with what is here.
        return not there < ask.quantity <= there + slot.held

    async def _at_authority(self, slot: Slot, ask: QuotaAsk, request_id: str) -> QuotaUsage:
        self._tally.direct += 1
        if leftovers := slot.leftovers(ask.quantity):
            self._give_back(leftovers)
            await self._endings.soon(BACK_WITHIN)
        outcome = self._behind.consume(slot.tenant_id, ask, request_id)
        usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
        if not usage.admitted and (taken := await self._come_meanwhile(slot, ask)) is not None:
            return taken
        now = self._clock.monotonic()
        if not usage.unavailable:
            slot.learn(usage.limits, usage.as_of, now)
            usage = slot.as_used_here(usage)
        if usage.admitted is False and not usage.unavailable:
            slot.refuse(ask.quantity, usage, now)
        return usage

    async def _come_meanwhile(self, slot: Slot, ask: QuotaAsk) -> QuotaUsage | None:
        """What the authority did not have may be what this sidecar itself was granted just now."""
        if slot.asking is not None:
            await asyncio.wait([slot.asking])
        return self._taken(slot, ask)

    def _refill(self, slot: Slot) -> None:
        """Asks for more in the background, before it is missed."""
        if not self._closing and self._clock.monotonic() >= slot.dry_until:
            self._more(slot)

    def _more(self, slot: Slot) -> asyncio.Task[None]:
        """The request that is under way, or a new one."""
        return slot.asking or self._doing(slot, self._get_more(slot))

    def _doing(self, slot: Slot, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        slot.asking = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(slot, done))
        return task

    def _done(self, slot: Slot, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        slot.asking = None
        if self._slots.get((slot.tenant_id, slot.feature.key)) is not slot:
            # It was given up meanwhile; what came goes back.
            self._give_back(slot.drop(lambda _: True))
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a request for leases failed unexpectedly", exc_info=error)

    async def _get_more(self, slot: Slot) -> None:
        self._drop_over(slot)
        await self._asking.more(slot)
        self._drop_over(slot)
        slot.order()
        key = (slot.tenant_id, slot.feature.key)
        if key in self._slots:
            self._slots.move_to_end(key)
        await self._look(slot)

    async def _renew(self, slot: Slot, leases: Sequence[Lease]) -> None:
        await self._asking.renew(slot, leases)
        self._drop_over(slot)
        slot.order()
        await self._look(slot)

    async def _look(self, slot: Slot) -> None:
        """Has a view of usage to tell, where none came with the tokens; waits only for the first."""
        if self._clock.monotonic() - slot.viewed_at < VIEW_AFTER:
            return
        outcome = self._behind.view(slot.tenant_id, slot.question, None)
        if not isinstance(outcome, QuotaUsage):
            looking = asyncio.ensure_future(outcome)
            looking.add_done_callback(lambda done: self._looked(slot, done))
            await asyncio.wait([looking], timeout=0 if slot.sees(self._clock.now()) else VIEW_WITHIN)
        else:
            slot.learn(outcome.limits, outcome.as_of, self._clock.monotonic())
        slot.learn_nothing(self._clock.now())

    def _looked(self, slot: Slot, done: asyncio.Future[QuotaUsage]) -> None:
        if not done.cancelled() and done.exception() is None:
            usage = done.result()
            slot.learn(usage.limits, usage.as_of, self._clock.monotonic())

    async def _seen(self, slot: Slot, outcome: Awaitable[QuotaUsage]) -> QuotaUsage:
        usage = await outcome
        return usage if usage.unavailable else slot.seen(usage, self._clock.monotonic())

    def _slot(self, tenant_id: str, ask: QuotaAsk) -> Slot:
        """The slot, by the resolution asked about: what was leased by another one is given back."""
        key = (tenant_id, ask.feature.key)
        slot = self._slots.get(key)
        if slot is not None:
            if slot.accepts(ask.resolution):
                return slot
            self._give_back(slot.drop(lambda _: True))
        slot = self._slots[key] = Slot(tenant_id, ask, self._clock, self._tally, self._refill)
        self._see_to_at(slot, self._clock.monotonic() + SEE_EVERY)
        if len(self._slots) > MAX_SLOTS:
            _, oldest = self._slots.popitem(last=False)
            self._give_back(oldest.drop(lambda _: True))
        return slot

    def _see_to(self, slot: Slot, now: float) -> None:
        """What a slot needs now: over, idle, or to be renewed."""
        self._drop_over(slot)
        if slot.asking is None:
            self._give_back(slot.drop(lambda lease: _is_idle(lease, now)))
            due = [lease for lease in slot.leases if not lease.closed and now - lease.asked_at >= RENEW_AFTER]
            if due and not self._closing:
                self._doing(slot, self._renew(slot, due))
        if slot.leases or slot.asking is not None:
            self._see_to_at(slot, now + SEE_EVERY)
        else:
            del self._slots[slot.tenant_id, slot.feature.key]

    def _see_to_at(self, slot: Slot, at: float) -> None:
        heappush(self._due, (at, next(self._numbers), slot))

    def _drop_over(self, slot: Slot) -> None:
        now, wall = self._clock.monotonic(), self._clock.now()
        self._give_back(slot.drop(lambda lease: _is_over(lease, now, wall)))

    def _give_back(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            self._endings.add(lease)

    def _remember(self, lease: Lease) -> None:
        self._named[lease.id] = lease

    def _forget(self, lease: Lease) -> None:
        self._named.pop(lease.id, None)


def _is_leased(ask: QuotaAsk) -> bool:
    """Whether a lease can be had of it: credits, or metered with a limit, and no limit forbids it."""
    limits = ask.resolution.limits
    return bool(ask.resolution.buckets) or (
        ask.feature.kind is FeatureKind.METERED
        and any(limit.amount is not None for limit in limits)
        and mode_of(limits) is LimitMode.LEASED
    )


def _is_over(lease: Lease, now: float, wall: datetime) -> bool:
    """Nothing of it can be used any more, or its grantor wants it back."""
    if lease.busy:
        return False
    return wall >= lease.ends_at or bool(lease.id and (now >= lease.until or lease.holding.closed))


def _is_idle(lease: Lease, now: float) -> bool:
    """Nothing was used of it for a while. One that was not heard of is asked after when it is given back."""
    if lease.taken != lease.seen:
        lease.seen, lease.seen_at = lease.taken, now
    return not lease.busy and now - max(lease.seen_at, lease.asked_at) >= IDLE_AFTER
