"""Shipping window by window: side by side, and with an account of what the plan store misses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import OutboxStoppedError, SourceUnavailableError
from entitlement_sidecar.sidecar.usage import shipper
from entitlement_sidecar.sidecar.usage.delivery import Receipt
from entitlement_sidecar.sidecar.usage.outbox import Batch, OutboxRecord, SequenceRange
from entitlement_sidecar.sidecar.usage.shipper import STOPPED_PAUSE
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from support.shipping import Ledger, Waits, emptied, fill, run_until, shipper_of
from support.usage import event, records

DURABLE = Durability.DURABLE


@pytest.fixture
def outbox() -> MemoryOutbox:
    """What is to be shipped."""
    return MemoryOutbox()


@pytest.fixture
def waits() -> Waits:
    """How long the shipper waited."""
    return Waits()


async def fill_lanes(outbox: MemoryOutbox, *names: str) -> None:
    """Appends events; the first letter of each names its tenant."""
    facts = [OutboxRecord(event(name, tenant_id=name[0])) for name in names]
    await outbox.append(facts, DURABLE)


async def test_batches_of_a_window_travel_side_by_side(waits: Waits) -> None:
    """One that waits for its answer keeps no other from being sent, and the next window from none."""
    outbox, ledger = MemoryOutbox(), Ledger()
    await fill_lanes(outbox, "a1", "b1", "a2", "b2", "a3")
    ledger.gate = asyncio.Event()
    running = asyncio.create_task(shipper_of(outbox, ledger, waits, max_events=2).run())

    while len(ledger.sent) < 2:
        await asyncio.sleep(0)
    assert ledger.sent == [["a1", "a2"], ["b1", "b2"]]
    ledger.gate.set()
    while (await outbox.stats()).queued:
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert ledger.sent[2:] == [["a3"]]


async def test_a_batch_that_fails_holds_up_the_next_window_alone(waits: Waits) -> None:
    """Its neighbours are settled; what comes later of anything waits, so that order holds."""
    outbox, ledger = MemoryOutbox(), Ledger()
    await fill_lanes(outbox, "a1", "b1", "a2", "b2")
    ledger.not_yet = {"a1"}

    async def sent_again() -> bool:
        return ledger.sent.count(["a1"]) >= 3

    shipper = shipper_of(outbox, ledger, waits, max_events=1)
    await run_until(shipper, sent_again)
    assert ledger.stored == ["b1"]
    ledger.not_yet = set()
    await run_until(shipper, emptied(outbox))

    assert ledger.stored == ["b1", "a1", "a2", "b2"]


class Forgetful(Ledger):
    """A sink that says what it misses, and hears what is declared."""

    def __init__(self, *missing: SequenceRange) -> None:
        super().__init__()
        self.missing = missing
        self.declared: list[tuple[int, tuple[SequenceRange, ...]]] = []

    async def send(self, batch: Batch) -> Receipt:
        """Settles a batch; says that it misses what was not declared."""
        receipt = await super().send(batch)
        if batch.declared:
            self.declared.append((len(batch.events), batch.declared))
            self.missing = ()
        return msgspec.structs.replace(receipt, missing=self.missing)


async def test_what_the_plan_store_forgot_is_declared_lost(
    outbox: MemoryOutbox, waits: Waits, caplog: pytest.LogCaptureFixture
) -> None:
    """It was settled and is gone there: said once, counted, and declared with an event that counts once."""
    await fill(outbox, 4)
    await run_until(shipper_of(outbox, Ledger(), waits), emptied(outbox))
    await outbox.append(records("later"), DURABLE)
    restored = Forgetful(SequenceRange(2, 3))

    await run_until(shipper_of(outbox, restored, waits), emptied(outbox))
    await run_until(shipper_of(outbox, restored, waits), heard(restored))

    assert restored.declared == [(1, (SequenceRange(2, 3),))]
    assert restored.stored == ["later"]
    stats = await outbox.stats()
    assert (stats.accepted, stats.settled, stats.lost, stats.dead) == (5, 3, 2, 0)
    assert "misses 2 events that it had settled" in caplog.text


async def test_dead_letters_are_declared_and_not_lost(outbox: MemoryOutbox, waits: Waits) -> None:
    """They are kept here, and may be sent again."""
    await fill(outbox, 3)
    refusing = Ledger()
    refusing.poisoned = {"e1"}
    await run_until(shipper_of(outbox, refusing, waits), emptied(outbox))
    await outbox.append(records("later"), DURABLE)
    missing = Forgetful(SequenceRange(2, 2))

    await run_until(shipper_of(outbox, missing, waits), heard(missing))

    assert missing.declared == [(1, (SequenceRange(2, 2),))]
    assert ((await outbox.stats()).dead, (await outbox.stats()).lost) == (1, 0)


async def test_a_window_that_ends_before_a_correction_is_followed_at_once(
    outbox: MemoryOutbox, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small it is: else corrections would slow down everything behind them."""
    monkeypatch.setattr(shipper, "LINGER", 3600.0)
    ledger = Ledger()
    correction = msgspec.structs.replace(event("k1"), metric="", corrects="e1")
    facts = [OutboxRecord(event("e1")), OutboxRecord(correction), OutboxRecord(event("e2"))]
    await outbox.append([*facts, OutboxRecord(msgspec.structs.replace(correction, id="k2"))], DURABLE)

    await run_until(shipper_of(outbox, ledger, waits), emptied(outbox))

    assert ledger.stored == ["e1", "k1", "e2", "k2"]


async def test_what_is_on_its_way_is_not_declared(waits: Waits) -> None:
    """Of the same window, which overtakes itself, nothing is asked of the outbox."""
    outbox, overtaken = MemoryOutbox(), Forgetful(SequenceRange(1, 3))
    await fill_lanes(outbox, "a1", "b1", "a2", "b2")

    await run_until(shipper_of(outbox, overtaken, waits, max_events=2), emptied(outbox))

    assert overtaken.declared == []
    assert (await outbox.stats()).lost == 0


def heard(sink: Forgetful) -> Callable[[], Awaitable[bool]]:
    """Whether something was declared."""

    async def condition() -> bool:
        return bool(sink.declared)

    return condition


async def test_a_declaration_that_is_not_heard_is_made_again(
    outbox: MemoryOutbox, waits: Waits, caplog: pytest.LogCaptureFixture
) -> None:
    """By the next batch after which the plan store says that it misses something."""

    class Deaf(Forgetful):
        deaf = True

        async def send(self, batch: Batch) -> Receipt:
            if batch.declared and self.deaf:
                self.deaf = False
                raise SourceUnavailableError("away again")
            return await super().send(batch)

    await fill(outbox, 2)
    await run_until(shipper_of(outbox, Ledger(), waits), emptied(outbox))
    deaf = Deaf(SequenceRange(1, 2))
    for name in ("later", "latest"):
        await outbox.append(records(name), DURABLE)
        await run_until(shipper_of(outbox, deaf, waits), emptied(outbox))

    await run_until(shipper_of(outbox, deaf, waits), heard(deaf))
    assert deaf.declared == [(1, (SequenceRange(1, 2),))]
    assert (await outbox.stats()).lost == 2
    assert "could not be accounted for yet" in caplog.text


async def test_an_outbox_that_is_stopped_is_looked_at_again(
    waits: Waits, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, shown, and over as soon as an operator has dealt with the dead letters."""

    class Stopped(MemoryOutbox):
        looks = 3

        async def next_batches(self, max_events: int, max_bytes: int) -> Sequence[Batch]:
            self.looks -= 1
            if self.looks >= 0:
                raise OutboxStoppedError("too many dead letters")
            return await super().next_batches(max_events, max_bytes)

    outbox, ledger = Stopped(), Ledger()
    await fill(outbox, 2)
    shipper = shipper_of(outbox, ledger, waits)

    stopped: list[bool] = []
    waits.meanwhile = lambda: stopped.append(shipper.state.stopped)

    await run_until(shipper, emptied(outbox))

    assert (stopped, waits.seconds) == ([True] * 3, [STOPPED_PAUSE] * 3)
    assert caplog.text.count("too many dead letters") == 1
    assert not shipper.state.stopped
    assert "shipping goes on" in caplog.text


async def test_how_shipping_fares_is_known(outbox: MemoryOutbox, waits: Waits) -> None:
    """Failing while attempts fail; well, and since when, as soon as something was settled."""
    await fill(outbox, 1)
    ledger = Ledger(*[SourceUnavailableError("away")] * 3)
    shipper = shipper_of(outbox, ledger, waits)

    seen: list[tuple[bool, float | None]] = []
    waits.meanwhile = lambda: seen.append((shipper.state.failing, shipper.state.last_settled_at))

    await run_until(shipper, emptied(outbox))

    assert seen == [(True, None)] * 3
    assert not shipper.state.failing
    assert shipper.state.last_settled_at == FakeClock().now().timestamp()


async def test_draining_waits_for_the_second_of_rollups_to_end(waits: Waits) -> None:
    """They may grow until then; nothing of them stays behind for want of a moment."""
    clock = FakeClock()
    outbox, ledger = MemoryOutbox(clock=clock), Ledger()
    await outbox.append([OutboxRecord(event("a"), rollup=True)], DURABLE)
    waits.meanwhile = lambda: clock.advance(0.3)

    await shipper_of(outbox, ledger, waits).drain(60)

    assert len(ledger.stored) == 1
    assert (await outbox.stats()).queued == 0
