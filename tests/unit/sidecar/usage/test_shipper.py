"""Shipping: until it is settled, however the plan store behaves, and in order."""

from __future__ import annotations

import asyncio

import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import ExhaustedError, SourceUnavailableError, UnauthenticatedError
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.sidecar.usage.delivery import Receipt
from entitlement_sidecar.sidecar.usage.outbox import Batch
from entitlement_sidecar.sidecar.usage.shipper import CREDENTIALS_PAUSE, LONGEST_BACKOFF, Shipper
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from support.shipping import Ledger, Waits, emptied, fill, run_until, shipper_of
from support.usage import records, settled


@pytest.fixture
def outbox() -> MemoryOutbox:
    """What is to be shipped."""
    return MemoryOutbox()


@pytest.fixture
def waits() -> Waits:
    """How long the shipper waited."""
    return Waits()


async def test_everything_arrives_in_order_and_in_full_batches(outbox: MemoryOutbox, waits: Waits) -> None:
    """Batches of the size given, the rest in a last one."""
    names, ledger = await fill(outbox, 25), Ledger()

    await run_until(shipper_of(outbox, ledger, waits), emptied(outbox))

    assert ledger.stored == names
    assert [len(batch) for batch in ledger.sent] == [10, 10, 5]
    assert not waits.seconds


async def test_what_fails_is_sent_again_until_it_arrives(outbox: MemoryOutbox, waits: Waits) -> None:
    """Any number of times, the same batch, with waits between zero and a bound that doubles."""
    names = await fill(outbox, 3)
    ledger = Ledger(*[SourceUnavailableError("away")] * 12)

    await run_until(shipper_of(outbox, ledger, waits), emptied(outbox))

    assert ledger.sent == [names] * 13
    assert ledger.stored == names
    assert all(0 <= wait <= min(2**number, LONGEST_BACKOFF) for number, wait in enumerate(waits.seconds))


async def test_the_servers_hint_is_waited_for(outbox: MemoryOutbox, waits: Waits) -> None:
    """RetryInfo is a lower bound; jitter comes on top."""
    await fill(outbox, 1)
    ledger = Ledger(ExhaustedError("overload", retry_after=42.0))

    await run_until(shipper_of(outbox, ledger, waits), emptied(outbox))

    assert len(waits.seconds) == 1
    assert 42.0 <= waits.seconds[0] <= 43.0


async def test_a_server_may_slow_the_shipper_down(outbox: MemoryOutbox, waits: Waits) -> None:
    """Before the next batch, not by refusing this one."""
    await fill(outbox, 20)
    ledger = Ledger()
    ledger.slow_down = 3.0

    await run_until(shipper_of(outbox, ledger, waits), emptied(outbox))

    assert set(waits.seconds) == {3.0}
    assert len(ledger.sent) == 2


async def test_refused_credentials_pause_the_line(outbox: MemoryOutbox, waits: Waits) -> None:
    """Nothing is given up; someone has to replace the token."""
    names, ledger = await fill(outbox, 2), Ledger(UnauthenticatedError("who?"), UnauthenticatedError("who?"))

    await run_until(shipper_of(outbox, ledger, waits), emptied(outbox))

    assert waits.seconds == [CREDENTIALS_PAUSE] * 2
    assert ledger.stored == names
    assert not outbox.dead


async def test_one_bad_event_does_not_stop_its_neighbours(outbox: MemoryOutbox, waits: Waits) -> None:
    """A batch refused as a whole is halved until the bad event stands alone and becomes a dead letter."""
    names, ledger = await fill(outbox, 10), Ledger()
    ledger.poisoned = {"e3"}

    await run_until(shipper_of(outbox, ledger, waits), emptied(outbox))

    assert ledger.stored == [name for name in names if name != "e3"]
    [(event, result)] = outbox.dead
    assert event.id == "e3"
    assert "refused alone" in result.reason
    assert "expected events that can be read" in result.reason


async def test_when_every_event_is_refused_the_line_stops(outbox: MemoryOutbox, waits: Waits) -> None:
    """Such a refusal is not about the events: they wait until its cause is gone."""
    names, ledger = await fill(outbox, 4), Ledger()
    ledger.poisoned = set(names)

    async def tried_thrice() -> bool:
        return len(waits.seconds) >= 3

    await run_until(shipper_of(outbox, ledger, waits), tried_thrice)
    assert not outbox.dead
    ledger.poisoned = set()
    await run_until(shipper_of(outbox, ledger, waits), emptied(outbox))

    assert ledger.stored == names


async def test_a_sink_that_refuses_everything_buries_nothing(outbox: MemoryOutbox, waits: Waits) -> None:
    """Also where batches hold one event each, and also after it took some."""
    names, ledger = await fill(outbox, 6), Ledger()
    shipper = shipper_of(outbox, ledger, waits, max_events=1)

    async def tried_thrice() -> bool:
        return len(waits.seconds) >= 3

    for taken in (0, 3):
        waits.seconds.clear()
        ledger.refuses_after = taken
        await run_until(shipper, tried_thrice)

    assert ledger.stored == names[:3]
    assert not outbox.dead


async def test_a_bad_event_alone_in_its_batch_is_buried_while_others_are_taken(
    outbox: MemoryOutbox, waits: Waits
) -> None:
    """What was taken before is sent again to find out, and counts once."""
    names, ledger = await fill(outbox, 5), Ledger()
    ledger.poisoned = {"e1", "e2"}

    await run_until(shipper_of(outbox, ledger, waits, max_events=1), emptied(outbox))

    assert [event.id for event, _ in outbox.dead] == ["e1", "e2"]
    assert ledger.stored == [name for name in names if name not in ledger.poisoned]
    assert not waits.seconds


async def test_bad_events_that_fill_a_batch_are_buried_while_others_are_taken(
    outbox: MemoryOutbox, waits: Waits
) -> None:
    """As one that is alone in its batch: else they would hold up what comes after them for good."""
    names, ledger = await fill(outbox, 6), Ledger()
    ledger.poisoned = {"e2", "e3"}

    await run_until(shipper_of(outbox, ledger, waits, max_events=2), emptied(outbox))

    assert [event.id for event, _ in outbox.dead] == ["e2", "e3"]
    assert ledger.stored == [name for name in names if name not in ledger.poisoned]


async def test_a_lost_answer_counts_nothing_twice(outbox: MemoryOutbox, waits: Waits) -> None:
    """The plan store stored the batch and its answer was lost: the same batch again is a duplicate."""
    names, ledger = await fill(outbox, 5), Ledger(SourceUnavailableError("timeout"))
    ledger.stored = list(names)

    await run_until(shipper_of(outbox, ledger, waits), emptied(outbox))

    assert ledger.stored == names
    assert (await outbox.stats()).settled == 5


async def test_retriable_events_are_sent_again_alone(outbox: MemoryOutbox, waits: Waits) -> None:
    """The rest of the batch is settled; later events wait their turn."""
    await fill(outbox, 12)
    ledger = Ledger()
    ledger.not_yet = {"e2"}

    async def sent_thrice() -> bool:
        return len(ledger.sent) >= 3

    await run_until(shipper_of(outbox, ledger, waits), sent_thrice)
    assert ledger.sent[1:3] == [["e2"], ["e2"]]
    assert "e10" not in ledger.stored
    ledger.not_yet = set()
    await run_until(shipper_of(outbox, ledger, waits), emptied(outbox))

    assert ledger.stored[-3:] == ["e2", "e10", "e11"]


async def test_draining_ships_what_is_left(outbox: MemoryOutbox, waits: Waits) -> None:
    """All of it, also partial batches, while the shipper runs."""
    names, ledger = await fill(outbox, 25), Ledger()
    shipper = shipper_of(outbox, ledger, waits)
    running = asyncio.create_task(shipper.run())

    await shipper.drain(20)
    await running

    assert ledger.stored == names
    assert (await outbox.stats()).queued == 0


async def test_draining_ends_with_the_first_failure(outbox: MemoryOutbox, waits: Waits) -> None:
    """What is left is safe in the outbox, so that stopping does not wait for a plan store that is away."""
    await fill(outbox, 25)
    ledger = Ledger(SourceUnavailableError("away"))
    shipper = shipper_of(outbox, ledger, waits)

    await shipper.drain(20)

    assert len(ledger.sent) == 1
    assert (await outbox.stats()).queued == 25


async def test_draining_ends_at_its_deadline(outbox: MemoryOutbox, waits: Waits) -> None:
    """A plan store that does not answer cannot hold up the end of the process."""
    await fill(outbox, 1)
    ledger = Ledger()
    ledger.gate = asyncio.Event()

    await shipper_of(outbox, ledger, waits).drain(0.01)

    assert (await outbox.stats()).queued == 1


async def test_draining_wakes_a_shipper_that_waits(outbox: MemoryOutbox) -> None:
    """A long backoff does not keep the last events from being sent."""
    names, ledger = await fill(outbox, 2), Ledger(SourceUnavailableError("away", retry_after=3600))
    backing_off = asyncio.Event()

    async def sleep_long(seconds: float) -> None:
        backing_off.set()
        await asyncio.sleep(seconds)

    shipper = Shipper(outbox, ledger, FakeClock(), sleep=sleep_long)
    running = asyncio.create_task(shipper.run())
    await backing_off.wait()
    await shipper.drain(20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert ledger.stored == names


async def test_a_kick_ships_at_once(outbox: MemoryOutbox, waits: Waits) -> None:
    """What was appended while the shipper rested arrives without another append."""
    ledger = Ledger()
    shipper = shipper_of(outbox, ledger, waits)
    await outbox.append(records("a"), Durability.DURABLE)
    shipper.kick()

    await run_until(shipper, emptied(outbox))

    assert ledger.stored == ["a"]


async def test_results_are_settled_as_answered(outbox: MemoryOutbox, waits: Waits) -> None:
    """What the plan store refuses for good becomes a dead letter with the plan store's own reason."""

    class Refusing(Ledger):
        async def send(self, batch: Batch) -> Receipt:
            return Receipt(tuple(settled(batch, UsageOutcome.UNKNOWN_METRIC)))

    await fill(outbox, 2)
    await run_until(shipper_of(outbox, Refusing(), waits), emptied(outbox))

    assert [(event.id, result.reason) for event, result in outbox.dead] == [
        ("e0", "because"),
        ("e1", "because"),
    ]
