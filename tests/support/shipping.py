"""A shipper and where it ships to, for tests: nothing really waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import EntitlementsError, InvalidInputError
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.delivery import Receipt
from entitlement_sidecar.sidecar.usage.outbox import Batch
from entitlement_sidecar.sidecar.usage.shipper import Shipper
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from support.usage import ids, records


class Ledger:
    """A sink that counts each event once, fails as told first, and refuses poisoned events.

    A batch that holds a poisoned event is refused as a whole, as a malformed message would be.
    """

    def __init__(self, *failures: EntitlementsError) -> None:
        self.failures = list(failures)
        self.poisoned: set[str] = set()
        self.not_yet: set[str] = set()
        self.refuses_after: int | None = None
        self.stored: list[str] = []
        self.sent: list[list[str]] = []
        self.slow_down = 0.0
        self.gate: asyncio.Event | None = None

    async def send(self, batch: Batch) -> Receipt:
        """Settles a batch."""
        self.sent.append(ids(batch))
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.poisoned & set(ids(batch)) or len(self.stored) == self.refuses_after:
            raise InvalidInputError.of("events", "expected events that can be read")
        return Receipt(tuple(self._store(id_) for id_ in ids(batch)), self.slow_down)

    def _store(self, id_: str) -> UsageResult:
        if id_ in self.not_yet:
            return UsageResult(id_, UsageOutcome.UNKNOWN_METRIC, "not yet", retriable=True)
        if id_ in self.stored:
            return UsageResult(id_, UsageOutcome.DUPLICATE)
        self.stored.append(id_)
        return UsageResult(id_, UsageOutcome.ACCEPTED)


class Waits:
    """A sleep that takes no time and remembers what was asked of it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.meanwhile: Callable[[], object] = list

    async def sleep(self, seconds: float) -> None:
        """Lets others run instead."""
        self.seconds.append(seconds)
        self.meanwhile()
        await asyncio.sleep(0)


async def fill(outbox: MemoryOutbox, count: int) -> list[str]:
    """Appends so many events."""
    names = [f"e{number}" for number in range(count)]
    await outbox.append(records(*names), Durability.DURABLE)
    return names


def shipper_of(outbox: MemoryOutbox, sink: Ledger, waits: Waits, max_events: int = 10) -> Shipper:
    """A shipper that never really waits between attempts."""
    return Shipper(outbox, sink, FakeClock(), sleep=waits.sleep, max_events=max_events)


async def run_until(shipper: Shipper, condition: Callable[[], Awaitable[bool]]) -> None:
    """Runs the shipper until a condition holds."""
    running = asyncio.create_task(shipper.run())
    deadline = time.monotonic() + 60
    while not await condition():
        assert time.monotonic() < deadline
        assert not running.done()
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def emptied(outbox: MemoryOutbox) -> Callable[[], Awaitable[bool]]:
    """Whether nothing is queued any more."""

    async def condition() -> bool:
        return (await outbox.stats()).queued == 0

    return condition
