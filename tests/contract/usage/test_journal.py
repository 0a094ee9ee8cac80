"""The journal of leases and its twin: `used` grows with the events that were kept, and with no others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import SqliteOutbox
from entitlement_sidecar.sidecar.leases.journal import LeaseJournal
from entitlement_sidecar.sidecar.usage.outbox import Outbox
from entitlement_sidecar.testing.memory_journal import MemoryJournal
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from support.leased_usage import account, use
from support.usage import outcomes, settled

Start = tuple[Outbox, LeaseJournal]
Starter = Callable[[], Awaitable[Start]]

BOTH = pytest.mark.parametrize("durability", Durability, ids=lambda one: one.name)


@pytest.fixture(params=["memory", "sqlite"])
async def start(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Starter]:
    """Starts a sidecar's outbox with its journal, after the one before was stopped."""
    outboxes: list[Outbox] = []
    journals = [MemoryJournal()]

    async def next_start() -> Start:
        if outboxes:
            await outboxes[-1].close()
        if request.param == "sqlite":
            durable = SqliteOutbox(tmp_path / "state")
            outboxes.append(durable)
            return durable, durable.leases
        if outboxes:
            journals.append(journals[-1].restarted())
        outboxes.append(MemoryOutbox(journal=journals[-1]))
        return outboxes[-1], journals[-1]

    yield next_start
    await outboxes[-1].close()


async def former(start: Starter) -> dict[str, int]:
    """What the next start finds that was used, by lease."""
    _, journal = await start()
    return {one.lease_id: one.used for one in await journal.former()}


@BOTH
async def test_what_was_used_is_what_was_kept(start: Starter, durability: Durability) -> None:
    """Each event adds its value to the lease that it names, whatever others the call is about."""
    outbox, journal = await start()
    for lease_id in ("lease:a", "lease:b"):
        await journal.open(account(lease_id, journal.holder), durability)

    await outbox.append([use("1", "lease:a", 3), use("2", "lease:b"), use("3", "lease:a", 4)], durability)
    await outbox.append([use("4", "root:5f", 9), use("5", "", 9), use("6", "lease:unknown", 9)], durability)

    assert await former(start) == {"lease:a": 7, "lease:b": 1}


async def test_an_account_is_told_as_it_was_opened(start: Starter) -> None:
    """All that is needed to settle for it comes back with what was used."""
    outbox, journal = await start()
    ends_at = datetime(2026, 2, 1, 0, 0, 0, 17, tzinfo=UTC)
    opened = [
        account("block:7/edge", journal.holder, ends_at=ends_at, block="block:7"),
        account("lease:a", journal.holder),
    ]
    for one in opened:
        await journal.open(one)
    await outbox.append([use("1", "block:7/edge", 5)], Durability.DURABLE)

    _, after = await start()

    assert list(await after.former()) == [msgspec.structs.replace(opened[0], used=5), opened[1]]


async def test_an_account_is_opened_once(start: Starter) -> None:
    """Opening it again takes nothing away, and what a caller says was used is not taken over."""
    outbox, journal = await start()
    await journal.open(account("lease:a", journal.holder, used=50, proved=False))
    await outbox.append([use("1", "lease:a", 2)], Durability.DURABLE)
    await journal.open(account("lease:a", journal.holder))

    assert await former(start) == {"lease:a": 2}


async def test_an_event_that_came_before_uses_nothing(start: Starter) -> None:
    """Neither what is held already, nor what conflicts with it."""
    outbox, journal = await start()
    await journal.open(account("lease:a", journal.holder))
    await outbox.append([use("1", "lease:a", 2)], Durability.DURABLE)

    told = await outbox.append(
        [use("1", "lease:a", 2), use("1", "lease:a", 3), use("2", "lease:a")], Durability.DURABLE
    )

    assert outcomes(told) == ["DUPLICATE", "CONFLICT", "ACCEPTED"]
    assert await former(start) == {"lease:a": 3}


async def test_an_atomic_call_that_is_taken_back_uses_nothing(start: Starter) -> None:
    """One conflict keeps nothing of it."""
    outbox, journal = await start()
    await journal.open(account("lease:a", journal.holder))
    await outbox.append([use("1", "lease:a", 2)], Durability.DURABLE)

    await outbox.append([use("2", "lease:a"), use("1", "lease:a", 9)], Durability.DURABLE, atomic=True)

    assert await former(start) == {"lease:a": 2}


@BOTH
async def test_rollups_use_what_they_sum_up(start: Starter, durability: Durability) -> None:
    """Each event that is merged adds; one that came before does not."""
    outbox, journal = await start()
    await journal.open(account("lease:a", journal.holder), durability)

    for _ in range(2):
        await outbox.append([use(f"{n}", "lease:a", 5, rollup=True) for n in range(4)], durability)

    assert (await outbox.stats()).queued == 1
    assert await former(start) == {"lease:a": 20}


async def test_what_is_settled_stays_used(start: Starter) -> None:
    """Events leave, and what they used is still to be settled with who granted it."""
    outbox, journal = await start()
    await journal.open(account("lease:a", journal.holder))
    await outbox.append([use("1", "lease:a", 2)], Durability.DURABLE)

    for batch in await outbox.next_batches(10, 1 << 20):
        await outbox.settle(batch, settled(batch))

    assert await former(start) == {"lease:a": 2}


async def test_closed_accounts_are_forgotten(start: Starter) -> None:
    """Those of this start and of earlier ones; closing one that there is not is harmless."""
    _, first = await start()
    for lease_id in ("lease:a", "lease:b", "lease:c"):
        await first.open(account(lease_id, first.holder))
    await first.close(["lease:a", "lease:unknown"])
    await first.close([])
    _, second = await start()
    await second.close(["lease:b"])

    assert await former(start) == {"lease:c": 0}


async def test_only_other_starts_are_former(start: Starter) -> None:
    """What this start has opened it knows itself; and each start has a name of its own."""
    _, first = await start()
    await first.open(account("lease:a", first.holder))
    assert list(await first.former()) == []

    outbox, second = await start()
    await second.open(account("lease:b", second.holder))
    await outbox.append([use("1", "lease:a", 2), use("2", "lease:b", 3)], Durability.DURABLE)

    assert [one.lease_id for one in await second.former()] == ["lease:a"]
    assert second.holder != first.holder
    assert await former(start) == {"lease:a": 0, "lease:b": 3}
