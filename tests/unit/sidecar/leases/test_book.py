"""The lease book answers from memory, and never admits what it was not granted."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from msgspec import structs

from entitlement_sidecar.domain.catalogue import Durability, LimitMode
from entitlement_sidecar.domain.errors import OutboxFullError
from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.domain.window import WindowUnit
from entitlement_sidecar.sidecar.leases import book
from entitlement_sidecar.sidecar.leases.journal import LeaseAccount
from entitlement_sidecar.sidecar.leases.slot import FEW
from entitlement_sidecar.testing.builders import limit
from entitlement_sidecar.testing.memory_journal import MemoryJournal
from support.leased_books import TENANT, Sidecar, Site, ask_for


async def test_the_second_use_is_answered_from_memory() -> None:
    """Given a first use that was granted a lease, then the next one is answered without a call."""
    site = Site(100)
    sidecar = Sidecar(site)
    first = await sidecar.consume()
    calls = site.root.calls

    usage = sidecar.take()

    assert first.admitted
    assert isinstance(usage, QuotaUsage)
    assert (usage.admitted, usage.lease_id) == (True, first.lease_id)
    assert (site.root.calls, site.consumed) == (calls, 0)


async def test_all_of_a_limit_is_admitted_and_no_more() -> None:
    """Given two sidecars at a limit of 100, then exactly 100 are admitted between them."""
    site = Site(100)
    sidecars = [Sidecar(site, "one"), Sidecar(site, "two")]
    for _ in range(80):
        for sidecar in sidecars:
            await sidecar.consume()
            await sidecar.settled()

    await asyncio.gather(*(sidecar.pass_time(12) for sidecar in sidecars))
    for sidecar in sidecars:
        while (await sidecar.consume()).admitted:
            await sidecar.settled()

    assert sum(sidecar.admitted for sidecar in sidecars) == 100


async def test_concurrent_first_uses_make_one_request() -> None:
    """Given 20 callers at once, then one request to the grantor serves all of them."""
    site = Site(1000)
    sidecar = Sidecar(site)

    answers = await asyncio.gather(*(sidecar.consume() for _ in range(20)))

    assert all(answer.admitted for answer in answers)
    assert (site.root.calls, site.consumed) == (1, 0)


async def test_a_refusal_is_remembered_for_a_moment() -> None:
    """Given that nothing is left, then a tenant that goes on asking does not hammer the authority."""
    site = Site(1)
    sidecar = Sidecar(site)
    assert (await sidecar.consume()).admitted
    for _ in range(FEW):
        assert (await sidecar.consume()).admitted is False
    consumed = site.consumed
    assert consumed == FEW

    again = sidecar.take()

    assert isinstance(again, QuotaUsage)
    assert again.admitted is False
    assert site.consumed == consumed
    sidecar.clock.advance(0.2)
    assert (await sidecar.consume()).admitted is False
    assert site.consumed == consumed + 1


async def test_who_asks_now_and_then_hears_what_is_true() -> None:
    """Given one refusal, when a raised limit has room at once, then the next use is admitted."""
    site = Site(1)
    sidecar = Sidecar(site)
    await sidecar.consume()
    assert (await sidecar.consume()).admitted is False

    site.root.granted = 2

    assert (await sidecar.consume()).admitted


async def test_an_authoritys_answer_counts_what_was_used_here() -> None:
    """Given a lease used up and not told yet, then a refusal says that all is used, nothing outstanding."""
    site = Site(5)
    sidecar = Sidecar(site)
    await sidecar.consume(5)

    refused = await sidecar.consume()

    assert refused.admitted is False
    assert [(one.used, one.outstanding) for one in refused.limits] == [(5, 0)]


async def test_what_is_not_used_for_a_while_is_given_back() -> None:
    """Given a lease that nothing is used of for 10 s, then all that was not used is free again."""
    site = Site(100)
    sidecar = Sidecar(site)
    await sidecar.consume()

    await sidecar.pass_time(25)

    assert site.root.free == 99
    assert not sidecar.journal.accounts


async def test_a_lease_in_use_is_renewed() -> None:
    """Given a use every second for two minutes, then every one is admitted, with few calls."""
    site = Site(1000)
    sidecar = Sidecar(site)
    for _ in range(120):
        assert (await sidecar.consume()).admitted
        await sidecar.pass_time(1)

    assert sidecar.admitted == 120
    assert site.root.calls < 60


async def test_uses_under_way_are_not_told_and_voids_come_back() -> None:
    """Given a use that is not kept, then the grantor does not hear of it; voided, it is left again."""
    site = Site(100)
    sidecar = Sidecar(site)
    await sidecar.consume()
    usage = sidecar.take()
    assert isinstance(usage, QuotaUsage)

    await sidecar.pass_time(12)
    assert site.root.used == 1
    sidecar.book.void(TENANT, usage.lease_id, 1)
    await sidecar.pass_time(25)

    assert (site.root.used, site.root.free) == (1, 99)


async def test_closing_gives_everything_back_after_what_is_under_way() -> None:
    """Given a use under way, then closing waits for it, and gives the rest back."""
    site = Site(100)
    sidecar = Sidecar(site)
    await sidecar.consume()
    usage = sidecar.take()
    assert isinstance(usage, QuotaUsage)

    closing = asyncio.create_task(sidecar.book.close(20))
    await asyncio.sleep(0)
    sidecar.keep(usage.lease_id, 1)
    await closing

    assert (site.root.used, site.root.free) == (2, 98)


async def test_the_block_is_asked_before_the_root() -> None:
    """Given a block, then the lease is its, and named for it."""
    site = Site(100, block=50)
    sidecar = Sidecar(site)

    usage = await sidecar.consume()

    assert usage.lease_id.startswith("block1/")
    assert site.root.calls == 0


async def test_a_lost_block_is_settled_for_at_the_root() -> None:
    """Given a block that is lost, then what was held is used on, and the rest is told to the root."""
    site = Site(100, block=50)
    sidecar = Sidecar(site)
    assert (await sidecar.consume()).lease_id.startswith("block1/")

    site.lose_block()
    for _ in range(40):
        await sidecar.consume()
        await sidecar.pass_time(1)
    await sidecar.pass_time(40)

    assert sidecar.admitted == 41
    # Grants that the lost block made to nobody stay spent.
    assert site.root.free + site.root.used + site.root.accounts["block1"].outstanding == 100
    assert site.root.used == 41


async def test_an_answer_that_is_lost_is_asked_for_again() -> None:
    """Given grants whose answers are lost, then they come back in the end."""
    site = Site(100)
    sidecar = Sidecar(site)
    site.root.deaf = True
    assert (await sidecar.consume()).admitted
    assert site.root.free < 99

    site.root.deaf = False
    await sidecar.pass_time(40)

    assert site.root.free == 99


async def test_a_restart_settles_for_the_start_before() -> None:
    """Given a sidecar that was killed, then its next start tells what it used, and gives back the rest."""
    site = Site(100)
    sidecar = Sidecar(site)
    await sidecar.consume()
    await sidecar.consume(2)

    after = Sidecar(site, journal=sidecar.journal.restarted())
    running = asyncio.create_task(after.book.run())
    while after.journal.accounts:
        await asyncio.sleep(0)
    running.cancel()

    assert (site.root.used, site.root.free) == (3, 97)


async def test_a_lowered_limit_gives_the_lease_back() -> None:
    """Given another, lower limit, then what was leased by the former is given back."""
    site = Site(100)
    sidecar = Sidecar(site)
    await sidecar.consume()

    assert (await sidecar.consume(ask=ask_for(1, limit(50)))).admitted
    await sidecar.settled()

    assert len(sidecar.journal.accounts) == 1


async def test_a_raised_limit_keeps_the_lease() -> None:
    """Given a higher limit, then the lease goes on."""
    site = Site(100)
    sidecar = Sidecar(site)
    first = await sidecar.consume()

    usage = sidecar.take(ask=ask_for(1, limit(200)))

    assert isinstance(usage, QuotaUsage)
    assert usage.lease_id == first.lease_id


async def test_nothing_is_used_after_the_time_of_a_lease() -> None:
    """Given grantors that are away, then what is held is used until its end, and not longer."""
    site = Site(100)
    sidecar = Sidecar(site)
    await sidecar.consume(2)
    site.away = site.root.away = True

    assert (await sidecar.consume()).admitted
    sidecar.clock.advance(28)
    usage = await sidecar.consume()

    assert usage.unavailable


async def test_a_view_counts_own_tokens_as_there_and_pending_as_gone() -> None:
    """Given a lease, then what is left of it remains, and what was used of it does not."""
    site = Site(100)
    sidecar = Sidecar(site)
    await sidecar.consume()
    for _ in range(3):
        await sidecar.consume()

    view = sidecar.book.view(TENANT, ask_for(0), None)

    assert isinstance(view, QuotaUsage)
    assert view.limits[0].remaining == 96
    assert view.limits[0].used == 4
    assert view.held > 0
    assert sidecar.book.view(TENANT, ask_for(0), None).limits == view.limits  # type: ignore[union-attr]  # in memory


async def test_a_batch_takes_from_leases_all_or_nothing() -> None:
    """Given a lease that has enough for a batch, then no call, else the lease is untouched."""
    site = Site(1000)
    sidecar = Sidecar(site)
    await sidecar.consume(10)

    outcome = sidecar.book.consume_all(TENANT, [(ask_for(3), "a"), (ask_for(4), "b")])
    assert isinstance(outcome, tuple)
    assert outcome[0]
    held = outcome[1][1].held
    later = sidecar.book.consume_all(TENANT, [(ask_for(1), "c"), (ask_for(900), "d")])
    assert not isinstance(later, tuple)
    assert (await later)[0]

    last = sidecar.take()
    assert isinstance(last, QuotaUsage)
    assert last.held == held - 1


async def test_a_lease_ends_with_its_window() -> None:
    """Given a window that ends, then nothing more is used of its lease, and the next window has its own."""
    site = Site(100)
    sidecar = Sidecar(site)
    site.root.ends_at = site.clock.now() + timedelta(seconds=5)
    first = await sidecar.consume()

    site.clock.advance(6)
    site.root.ends_at = None
    second = await sidecar.consume()

    assert second.admitted
    assert second.lease_id != first.lease_id


async def test_a_clock_that_is_set_back_does_not_prolong() -> None:
    """Given a wall clock that goes back an hour, then the lease is over all the same."""
    site = Site(100)
    sidecar = Sidecar(site)
    await sidecar.consume()
    site.root.away = site.away = True

    site.clock.jump(-3600)
    site.clock.advance(28)

    assert (await sidecar.consume()).unavailable


async def test_the_root_stands_in_for_a_block_that_is_away() -> None:
    """Given Redis away, then the root grants, and Redis is left alone for a moment."""
    site = Site(100, block=50)
    assert site.block is not None
    site.block.away = True
    sidecar = Sidecar(site)

    first = await sidecar.consume()
    await sidecar.consume(20)

    assert first.admitted
    assert not first.lease_id.startswith("block1/")
    assert site.block.calls == 1


async def test_the_last_tokens_are_asked_for_one_by_one() -> None:
    """Given a request for more than half of what is left, then the authority has the last word."""
    site = Site(10)
    sidecar = Sidecar(site)
    await sidecar.consume(ask=ask_for(1, limit(10)))
    calls = site.root.calls

    usage = await sidecar.consume(ask=ask_for(5, limit(10)))

    assert (usage.admitted, usage.lease_id) == (True, "admission")
    assert (site.root.calls, site.consumed) == (calls, 1)


async def test_strict_limits_are_never_leased() -> None:
    """Given a strict limit beside a leased one, then each use is asked for."""
    site = Site(100)
    sidecar = Sidecar(site)
    strict = structs.replace(limit(100), mode=LimitMode.STRICT)

    for _ in range(3):
        await sidecar.consume(ask=ask_for(1, strict, limit(1000, WindowUnit.YEAR)))

    assert (site.consumed, site.root.calls) == (3, 0)


async def test_the_oldest_leases_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more tenants' features than are held at most, then the oldest is given back."""
    monkeypatch.setattr(book, "MAX_SLOTS", 2)
    site = Site(100)
    sidecar = Sidecar(site)

    for tenant in ("one", "two", "three"):
        outcome = sidecar.book.consume(tenant, ask_for(1), f"of {tenant}")
        usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
        sidecar.keep(usage.lease_id, 1)
    await sidecar.settled()

    assert {one.tenant_id for one in sidecar.journal.accounts.values()} == {"two", "three"}


async def test_a_lease_that_is_wanted_back_is_replaced() -> None:
    """Given a grantor that closed the lease, then what is left goes back, and another one is opened."""
    site = Site(100)
    sidecar = Sidecar(site)
    first = await sidecar.consume()
    account = site.root.accounts[first.lease_id]
    site.root.accounts[first.lease_id] = structs.replace(account, closed=True)

    for _ in range(20):
        assert (await sidecar.consume()).admitted
        await sidecar.settled()
    await sidecar.pass_time(30)

    assert site.root.used == 21
    assert site.root.free == 79


async def test_nothing_is_used_of_what_the_journal_could_not_keep() -> None:
    """Given a journal that cannot be written, then no token of a grant is used: the authority admits."""
    site = Site(100)
    sidecar = Sidecar(site, journal=_FullJournal())

    usage = await sidecar.consume()
    await sidecar.settled()

    assert (usage.admitted, usage.lease_id) == (True, "admission")
    assert site.root.free == 99


class _FullJournal(MemoryJournal):
    """A journal on a disk that is full."""

    async def open(self, account: LeaseAccount, durability: Durability = Durability.DURABLE) -> None:
        """Refuses."""
        del account, durability
        raise OutboxFullError("full", 1.0)
