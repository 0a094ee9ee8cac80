"""Without a plan store an outbox must not fill up for good, and must tell retries apart all the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.sidecar.usage.outbox import KEEP_CONSUMPTIONS, Batch, OutboxRecord
from entitlement_sidecar.sidecar.usage.unshipped import UnshippedUsage
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from support.usage import event


class Time:
    """A sleep that moves the clock instead, up to an instant."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.until = 0.0

    async def sleep(self, seconds: float) -> None:
        """Waits for the clock to be moved so far."""
        wanted = self.clock.monotonic() + seconds
        while wanted > self.until:
            await asyncio.sleep(0.001)
        if wanted > self.clock.monotonic():
            self.clock.advance(wanted - self.clock.monotonic())
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> FakeClock:
    """The sidecar's clock."""
    return FakeClock()


async def keep(outbox: MemoryOutbox, clock: FakeClock, *names: str, age: float = 0.0) -> None:
    """Appends events that were recorded so long ago."""
    recorded_at = clock.now() - timedelta(seconds=age)
    facts = [msgspec.structs.replace(event(name), recorded_at=recorded_at) for name in names]
    await outbox.append([OutboxRecord(fact) for fact in facts], Durability.DURABLE)


async def run_until_queued(outbox: MemoryOutbox, moved: Time, seconds: float, queued: int) -> None:
    """Lets so much time go by, until so many events are left."""
    unshipped = UnshippedUsage(outbox, moved.clock, sleep=moved.sleep)
    moved.until = moved.clock.monotonic() + seconds
    running = asyncio.create_task(unshipped.run())
    deadline = time.monotonic() + 20
    await asyncio.sleep(0.01)
    while (await outbox.stats()).queued != queued:
        assert time.monotonic() < deadline
        assert not running.done()
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_is_old_enough_leaves(clock: FakeClock) -> None:
    """As settled, in any number; the outbox is as empty as before."""
    outbox = MemoryOutbox(clock=clock)
    await keep(outbox, clock, *(f"e{i}" for i in range(1200)))

    await run_until_queued(outbox, Time(clock), KEEP_CONSUMPTIONS * 2, 0)

    stats = await outbox.stats()
    assert (stats.settled, stats.dead, stats.bytes_used) == (1200, 0, 0)


async def test_what_is_young_stays(clock: FakeClock) -> None:
    """Its identity is still needed to tell a retry apart."""
    outbox, moved = MemoryOutbox(clock=clock), Time(clock)
    await keep(outbox, clock, "old")
    await keep(outbox, clock, *(f"e{i}" for i in range(499)))
    await keep(outbox, clock, "young", age=-10)

    await run_until_queued(outbox, moved, KEEP_CONSUMPTIONS + 9, 1)
    for _ in range(20):
        await asyncio.sleep(0.001)

    assert (await outbox.stats()).queued == 1


async def test_what_an_earlier_start_left_stays_a_while(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """However old it is: it may be there because the plan store was not named by mistake, so it is said."""
    outbox, moved = MemoryOutbox(clock=clock), Time(clock)
    await keep(outbox, clock, "a", age=86_400)

    await run_until_queued(outbox, moved, KEEP_CONSUMPTIONS - 1, 1)
    assert "1 events of earlier starts will not be kept" in caplog.text
    await run_until_queued(outbox, moved, KEEP_CONSUMPTIONS, 0)


async def test_a_failing_outbox_is_tried_again(clock: FakeClock) -> None:
    """And so is one whose events come from a clock that was set back since."""

    class Failing(MemoryOutbox):
        failures = 3

        async def next_batches(self, max_events: int, max_bytes: int) -> Sequence[Batch]:
            if self.failures:
                self.failures -= 1
                raise SourceUnavailableError("damaged")
            return await super().next_batches(max_events, max_bytes)

    outbox = Failing(clock=clock)
    await keep(outbox, clock, "a", age=-86_400)

    await run_until_queued(outbox, Time(clock), KEEP_CONSUMPTIONS * 3, 0)


async def test_stopping_waits_for_nothing(clock: FakeClock) -> None:
    """There is nowhere to bring anything."""
    outbox = MemoryOutbox(clock=clock)
    await keep(outbox, clock, "a")

    await asyncio.wait_for(UnshippedUsage(outbox, clock).drain(3600), 20)

    assert (await outbox.stats()).queued == 1
