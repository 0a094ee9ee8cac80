"""Several sidecars, one root, one block, and everything that goes wrong between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.sidecar.leases.asking import Means
from entitlement_sidecar.sidecar.leases.book import LeaseBook
from entitlement_sidecar.sidecar.leases.slot import Slot
from entitlement_sidecar.testing.memory_journal import MemoryJournal
from support.bad_ways import RootWay, SkewedClock, State, Way
from support.leased_books import CALLS, TENANT, Site, ask_for

LIMIT = 20
SIDECARS = 3
HOUR = 3600.0

WHO = st.integers(0, SIDECARS - 1)
STATES = st.sampled_from([*[State.WHOLE] * 5, *State])
QUANTITIES = st.sampled_from([1, 1, 1, 2, 3, 7])


class Place:
    """One sidecar: its book, its ways, and what its callers were told."""

    def __init__(self, site: Site, number: int, late: list[Callable[[], Coroutine[Any, Any, Any]]]) -> None:
        assert site.block is not None
        self.site = site
        self.clock = SkewedClock(site.clock, (number - 1) * 40.0)
        self.to_root = RootWay(site.root, late)
        self.to_block = Way(site.block, late)
        self.admitted = 0
        self.under_way: list[tuple[str, int]] = []
        self.paused = False
        self.start(MemoryJournal(f"sidecar{number}"))

    def start(self, journal: MemoryJournal) -> None:
        """A new process finds what the journal has."""
        self.journal = journal
        self.under_way = []
        self.book = LeaseBook(self.site, Means(self.to_root, self.to_block, journal, self.clock))

    @property
    def may_use(self) -> int:
        """Tokens that it may use without asking anybody."""
        now, slot = self.clock.monotonic(), self.book.grip(TENANT, CALLS.key)
        leases = slot.leases if isinstance(slot, Slot) else []
        return sum(lease.left for lease in leases if now < lease.until)

    def answered(self, usage: QuotaUsage, quantity: int) -> None:
        """A use is admitted; its caller hears of it once it is kept."""
        if usage.admitted:
            self.under_way.append((usage.lease_id, quantity))

    def keep(self) -> None:
        """The outbox commits: callers are told yes."""
        for lease_id, quantity in self.under_way:
            self.admitted += quantity
            self.journal.use(lease_id, quantity)
            self.book.kept(lease_id, quantity)
        self.under_way = []

    def void(self) -> None:
        """The outbox has no room: nobody is told yes. What the authority itself admitted stays admitted."""
        for lease_id, quantity in self.under_way:
            self.book.void(TENANT, lease_id, quantity)
        self.under_way = []


class Books(RuleBasedStateMachine):
    """What callers were told yes is never more than the limit."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.site = Site(LIMIT, block=LIMIT // 2)
        self.late: list[Callable[[], Coroutine[Any, Any, Any]]] = []
        self.places = [Place(self.site, number, self.late) for number in range(SIDECARS)]
        # Tokens may stay spent that nobody used: an instant was lost that nobody can know of.
        self.strands = False
        self.voided = 0
        self.requests = 0

    def run(self, what: Coroutine[Any, Any, object]) -> None:
        """Runs to its end, with whatever it sets going."""
        self.loop.run_until_complete(what)

    @rule(who=WHO, quantity=QUANTITIES, callers=st.integers(1, 4), keep=st.booleans())
    def consume(self, who: int, quantity: int, callers: int, keep: bool) -> None:
        """Some callers at once."""
        place = self.places[who]

        async def one() -> None:
            self.requests += 1
            outcome = place.book.consume(TENANT, ask_for(quantity), f"request {self.requests}")
            usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
            place.answered(usage, quantity)

        async def all_of_them() -> None:
            await asyncio.gather(*(one() for _ in range(callers)))
            await self.rest()

        self.run(all_of_them())
        if keep:
            place.keep()

    @rule(who=WHO)
    def keep(self, who: int) -> None:
        """The outbox commits."""
        self.places[who].keep()

    @rule(who=WHO)
    def void(self, who: int) -> None:
        """The outbox refuses."""
        place = self.places[who]
        self.voided += sum(quantity for lease_id, quantity in place.under_way if lease_id == "admission")
        place.void()

    @rule(seconds=st.sampled_from([0.2, 1.0, 3.0, 10.0, 31.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes; whoever is not paused does what is due."""
        self.site.clock.advance(seconds)
        self.run(self.rest())

    @rule(who=WHO)
    def pause(self, who: int) -> None:
        """A sidecar does nothing in the background for a while, or goes on."""
        self.places[who].paused = not self.places[who].paused

    @rule(who=WHO, state=STATES)
    def root_way(self, who: int, state: State) -> None:
        """The way to the root changes."""
        self.places[who].to_root.state = state

    @rule(who=WHO, state=STATES)
    def block_way(self, who: int, state: State) -> None:
        """The way to Redis changes."""
        self.places[who].to_block.state = state

    @rule(which=st.integers(0, 100))
    @precondition(lambda self: bool(self.late))
    def deliver(self, which: int) -> None:
        """A message arrives that everybody had given up."""
        self.strands = True
        call = self.late.pop(which % len(self.late))

        async def arrives() -> None:
            await call()

        self.run(arrives())

    @rule()
    def lose_holders(self) -> None:
        """The grantors close the accounts of those that they have not heard of in time."""
        self.site.root.lose()
        if self.site.block is not None:
            self.site.block.lose()

    @rule()
    def sync(self) -> None:
        """The block tells the root."""
        self.site.sync()

    @rule()
    def lose_block(self) -> None:
        """Redis is emptied, and another block laid."""
        self.strands = True
        if self.site.block is not None and self.site.block.name:
            self.site.lose_block()

    @rule(size=st.integers(1, 10))
    @precondition(lambda self: not self.site.block.name)
    def lay_block(self, size: int) -> None:
        """Another block is delegated from what is free."""
        self.site.delegate(size)

    @rule(who=WHO, proved=st.booleans())
    def crash(self, who: int, proved: bool) -> None:
        """A sidecar is killed, and starts again; perhaps with the whole machine."""
        self.strands = True
        place = self.places[who]
        journal = place.journal.restarted(proved=proved)
        if not proved:
            # What was not forced to disk is gone, and the callers were told yes all the same.
            forgotten = {name: replace(one, used=0) for name, one in journal.accounts.items()}
            journal.accounts.update(forgotten)
        place.start(journal)
        self.run(place.book.settle_former())

    @rule(who=WHO)
    def stop(self, who: int) -> None:
        """A sidecar stops in order, and starts again."""
        place = self.places[who]
        place.keep()
        place.to_root.state = place.to_block.state = State.WHOLE
        self.run(place.book.close(20))
        place.start(place.journal.restarted())
        self.run(place.book.settle_former())

    @invariant()
    def never_more_than_the_limit(self) -> None:
        """What callers were told, or will be, and all that anybody may still admit, is in the limit."""
        told = sum(place.admitted + sum(q for _, q in place.under_way) for place in self.places)
        may = sum(place.may_use for place in self.places)
        assert self.site.block is not None
        free = self.site.root.free + self.site.block.free
        assert told + may + free <= LIMIT, f"{told} told, {may} leased, {free} free, of {LIMIT}"

    def teardown(self) -> None:
        """When all is whole again, all is known, and what nobody used is back."""
        self.loop.run_until_complete(self.calm())
        self.never_more_than_the_limit()
        admitted = sum(place.admitted for place in self.places)
        root, block = self.site.root, self.site.block
        assert block is not None
        self.site.sync()
        if not self.strands:
            assert root.used - self.voided == admitted
            assert root.free + block.free + root.used == LIMIT
        self.loop.close()

    async def calm(self) -> None:
        """Everything works for a long time, and nobody consumes."""
        for place in self.places:
            place.keep()
            place.paused = False
            place.to_root.state = place.to_block.state = State.WHOLE
        for _ in range(30):
            self.site.clock.advance(5)
            await self.rest()

    async def rest(self) -> None:
        """Lets what is under way end."""
        for _ in range(12):
            for place in self.places:
                if not place.paused:
                    place.book.tick()
            await asyncio.sleep(0)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
