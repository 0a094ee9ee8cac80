"""Asks grantors for more: the block in Redis first, then the root.

One request is under way for a slot at a time: whoever calls sees to that. What is asked for and not heard of
stays a lease of the slot without an id: it is asked for again, by the same name, until it is known what it
brought.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import count

import msgspec

from entitlement_sidecar.domain.catalogue import Durability, Feature
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import EntitlementsError, SourceUnavailableError
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.sidecar.leases.grantor import Grantor, Heard, Opening, Request, Root
from entitlement_sidecar.sidecar.leases.journal import LeaseAccount, LeaseJournal
from entitlement_sidecar.sidecar.leases.lease import Lease
from entitlement_sidecar.sidecar.leases.sizing import MAX_LEASE
from entitlement_sidecar.sidecar.leases.slot import Slot
from entitlement_sidecar.telemetry import metrics

DRY_FOR = 1.0
"""Seconds that nobody is asked for more where nothing came; each use goes to the authority then."""

GRANTS = 2
"""Credit grants that are asked for in one go: the one in use, and the one that burns next."""

REST = 1.0
"""Seconds that a grantor is not asked after it did not answer."""


def _durable(feature: Feature) -> Durability:  # noqa: ARG001 - whatever it is
    return Durability.DURABLE


class Means(msgspec.Struct, frozen=True):
    """What leases are made of. `block` None: there is no Redis.

    `durability` is that of a feature's usage events: whether the journal is to prove uses of its leases also
    after the machine was lost.
    """

    root: Root
    block: Grantor | None
    journal: LeaseJournal
    clock: Clock
    durability: Callable[[Feature], Durability] = _durable

    @property
    def grantors(self) -> Sequence[Grantor]:
        """The nearest first."""
        return (self.root,) if self.block is None else (self.block, self.root)


class Asking:
    """Gets more tokens for a slot. `heard` is called with each lease once it may be used."""

    def __init__(self, means: Means, heard: Callable[[Lease], None]) -> None:
        self._means = means
        self._heard = heard
        self._clock = means.clock
        self._names: Iterator[int] = count(1)
        self._resting: dict[str, float] = {}

    async def more(self, slot: Slot) -> None:
        """Asks until what callers wait for is there, or nobody has it."""
        needs = min(slot.waiting, MAX_LEASE)
        size = max(needs, slot.size(self._clock.monotonic()))
        brought = 0
        for grantor in self._grantors(slot):
            brought += await self._ask(slot, grantor, max(needs, size - slot.held), needs)
            if brought and brought >= needs:
                break
        if brought:
            slot.forgive()
        else:
            slot.dry_until = self._clock.monotonic() + DRY_FOR

    async def renew(self, slot: Slot, leases: Sequence[Lease]) -> None:
        """Tells what was used, and prolongs."""
        size = slot.size(self._clock.monotonic())
        for lease in leases:
            if await self._ask_for(slot, lease, max(0, size - slot.held), 0):
                slot.forgive()

    def _grantors(self, slot: Slot) -> Sequence[Grantor]:
        """Who is asked in turn. Of credits the root alone: where a grant is burnt up, for the next one."""
        return self._means.grantors if slot.burning is None else (self._means.root,) * GRANTS

    async def _ask(self, slot: Slot, grantor: Grantor, wants: int, needs: int) -> int:
        if self._clock.monotonic() < self._resting.get(grantor.source, float("-inf")):
            return 0
        lease = slot.lease_of(grantor)
        if lease is None:
            lease = Lease(self._opening(slot), grantor)
            slot.leases.append(lease)
        return await self._ask_for(slot, lease, wants, needs)

    async def _ask_for(self, slot: Slot, lease: Lease, wants: int, needs: int) -> int:
        """How many tokens it brought."""
        grantor = lease.grantor
        told = lease.ask(self._clock.monotonic())
        lease.busy = True
        try:
            heard = await grantor.ask(lease.opening, lease.id, Request(told, wants, needs))
            brought = await self._take_over(slot, lease, heard, told.used)
        except SourceUnavailableError:
            self._resting[grantor.source] = self._clock.monotonic() + REST
            metrics.lease_requests.labels(grantor.source, "unavailable").inc()
            return 0
        finally:
            lease.busy = False
        metrics.lease_requests.labels(grantor.source, "granted" if brought else "nothing").inc()
        if slot.burning is not None and wants:
            lease.burnt_up = brought < max(1, needs)
        return brought

    async def _take_over(self, slot: Slot, lease: Lease, heard: Heard, told: int) -> int:
        if heard.gone:
            lease.estranged = bool(lease.id)
        if heard.terms is None or not heard.lease_id:
            if not lease.id:
                # It was answered, and nothing was opened.
                slot.drop(lambda one: one is lease)
            slot.learn(heard.usage, self._clock.now(), self._clock.monotonic())
            return 0
        if not lease.id:
            await self._open(slot, lease, heard)
        lease.credit_grant = lease.credit_grant or heard.credit_grant
        if slot.burning is not None and not slot.burning.knows(lease):
            # Not a grant that this sidecar knows (yet): it could not say what was burnt. It is given back.
            lease.holding = msgspec.structs.replace(lease.holding, closed=True)
            return 0
        brought = lease.hear(heard.terms, heard.ends_at, told)
        slot.learn(heard.usage, self._clock.now(), self._clock.monotonic())
        return brought

    async def _open(self, slot: Slot, lease: Lease, heard: Heard) -> None:
        """Writes it down before anything of it is used."""
        lease.id = heard.lease_id
        opening = lease.opening
        block = heard.lease_id.partition("/")[0] if lease.grantor is not self._means.root else ""
        account = LeaseAccount(
            heard.lease_id, opening.tenant_id, opening.feature, opening.holder, heard.ends_at, block
        )
        try:
            await self._means.journal.open(account, self._means.durability(slot.feature))
        except EntitlementsError as error:
            # Nothing is used of what a restart would not know: it is given back.
            lease.holding = msgspec.structs.replace(lease.holding, closed=True)
            raise SourceUnavailableError(f"the journal of leases: {error}") from error
        self._heard(lease)

    def _opening(self, slot: Slot) -> Opening:
        return Opening(
            tenant_id=slot.tenant_id,
            feature=slot.feature.key,
            ends_at=first_end(slot, self._clock.now()),
            holder=self._means.journal.holder,
            name=str(next(self._names)),
        )


def first_end(slot: Slot, now: datetime) -> datetime | None:
    """When the first of the windows ends that now is in; None: never."""
    ends = [window_at(limit.window, now).end for limit in slot.resolution.limits]
    return min((end for end in ends if end is not None), default=None)
