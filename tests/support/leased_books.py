"""Lease books around one root and one block in memory, for tests that say what everyone does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

import msgspec

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.lease import Account
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.sidecar.leases.asking import Means
from entitlement_sidecar.sidecar.leases.authority import NothingLeased
from entitlement_sidecar.sidecar.leases.book import LeaseBook
from entitlement_sidecar.testing.builders import limit, metered
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.testing.memory_journal import MemoryJournal
from entitlement_sidecar.testing.memory_leases import MemoryLeases, MemoryRoot

TENANT = "acme"
CALLS = metered("calls")
DIRECT = "direct"


def ask_for(quantity: int, *limits: Limit) -> QuotaAsk:
    """Quota of calls, by default of 100 a month."""
    return QuotaAsk(CALLS, quantity, Resolution(None, limits=limits or (limit(100),)))


class Block(MemoryLeases):
    """A block in memory, which the root delegates to."""

    source = "block"


class Site(NothingLeased):
    """One root with a limit, perhaps a block, and the authority that sidecars ask directly."""

    def __init__(self, size: int = 100, *, block: int | None = None) -> None:
        self.clock = FakeClock()
        self.root = MemoryRoot(size, self.clock.monotonic)
        self.root.accounts[DIRECT] = Account(expires_at=float("inf"))
        self.block: Block | None = None
        self.blocks = 0
        if block is not None:
            self.delegate(block)
        self.away = False
        self.consumed = 0
        self.viewed = 0

    def delegate(self, size: int) -> None:
        """Lays a new block with so much of what is free."""
        self.blocks += 1
        name = f"block{self.blocks}"
        size = min(size, self.root.free)
        self.root.accounts[name] = Account(granted=size, expires_at=float("inf"))
        if self.block is None:
            self.block = Block(size, self.clock.monotonic, name)
        else:
            self.block.lay(name, size)

    def lose_block(self) -> None:
        """Redis forgets the block; the root closes its account."""
        assert self.block is not None
        name = self.block.name
        self.root.accounts[name] = msgspec.structs.replace(self.root.accounts[name], closed=True)
        self.block.forget()

    def sync(self) -> None:
        """The block tells the root what its holders used."""
        if self.block is None or not self.block.name:
            return
        name, used = self.block.name, self.block.used
        account = self.root.accounts[name]
        self.root.accounts[name] = msgspec.structs.replace(account, used=max(used, account.used))

    def view(self, tenant_id: str, ask: QuotaAsk, max_age: float | None) -> QuotaUsage:  # noqa: ARG002 - always now
        """Usage now."""
        self.viewed += 1
        if self.away:
            return QuotaUsage(unavailable=True)
        return QuotaUsage(self.usage(ask), as_of=self.clock.now())

    def usage(self, ask: QuotaAsk) -> tuple[LimitUsage, ...]:
        """As the root tells it."""
        now, found = self.clock.now(), []
        free = self.block.free if self.block is not None and self.block.name else 0
        for one in ask.resolution.limits:
            window = window_at(one.window, now)
            outstanding = max(0, self.root.held - self.root.used - free)
            found.append(
                LimitUsage(
                    one.key, one.amount, one.soft, window.start, window.end, self.root.used, outstanding
                )
            )
        return tuple(found)

    async def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:  # noqa: ARG002 - each is new
        """Admits from what is free, and from what is free in the block."""
        self.consumed += 1
        await asyncio.sleep(0)
        if self.away:
            return QuotaUsage(unavailable=True)
        admitted = self.admit(ask.quantity)
        return QuotaUsage(self.usage(ask), admitted=admitted, as_of=self.clock.now(), lease_id="admission")

    async def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> tuple[bool, list[QuotaUsage]]:
        """Admits everything or nothing."""
        whole = self.root.free >= sum(ask.quantity for ask, _ in asks)
        if whole:
            return True, [await self.consume(tenant_id, ask, request_id) for ask, request_id in asks]
        return False, [QuotaUsage(self.usage(ask), admitted=False) for ask, _ in asks]

    def admit(self, quantity: int) -> bool:
        """Takes from the root, which calls back what it lacks from the block."""
        lacking = quantity - self.root.free
        if lacking > 0 and self.block is not None and self.block.name:
            back = self.block.shrink(lacking)
            account = self.root.accounts[self.block.name]
            self.root.accounts[self.block.name] = msgspec.structs.replace(
                account, returned=account.returned + back
            )
        if self.root.free < quantity:
            return False
        direct = self.root.accounts[DIRECT]
        self.root.accounts[DIRECT] = msgspec.structs.replace(
            direct, granted=direct.granted + quantity, used=direct.used + quantity
        )
        return True


class Sidecar:
    """One lease book, its journal, and a caller that counts the answers it got."""

    def __init__(self, site: Site, name: str = "one", journal: MemoryJournal | None = None) -> None:
        self.site = site
        self.clock = site.clock
        self.journal = journal or MemoryJournal(name)
        self.book = LeaseBook(site, Means(site.root, site.block, self.journal, self.clock))
        self.admitted = 0
        self._requests = 0

    def take(self, quantity: int = 1, ask: QuotaAsk | None = None) -> QuotaUsage | Awaitable[QuotaUsage]:
        """One consumption, perhaps from memory."""
        self._requests += 1
        return self.book.consume(TENANT, ask or ask_for(quantity), f"request {self._requests}")

    async def consume(self, quantity: int = 1, ask: QuotaAsk | None = None) -> QuotaUsage:
        """One consumption, kept if it is admitted."""
        outcome = self.take(quantity, ask)
        usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
        if usage.admitted:
            self.keep(usage.lease_id, ask.quantity if ask else quantity)
        return usage

    def keep(self, lease_id: str, quantity: int) -> None:
        """The outbox has it."""
        self.admitted += quantity
        self.journal.use(lease_id, quantity)
        self.book.kept(lease_id, quantity)

    async def settled(self) -> None:
        """Lets what is under way end."""
        for _ in range(20):
            self.book.tick()
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        """Lets time pass as it does: a step at a time."""
        while seconds > 0:
            step = min(1.0, seconds)
            self.clock.advance(step)
            seconds -= step
            await self.settled()
