"""The circuit breaker: when a source is asked, and what counts as a failure of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.errors import (
    EntitlementsError,
    SourceRefusedError,
    SourceUnavailableError,
    TenantUnknownError,
)
from entitlement_sidecar.sidecar.snapshots.breaker import JITTER, LONGEST_PAUSE, TROUBLE, Breaking
from entitlement_sidecar.sidecar.snapshots.ports import Fetched
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.wire.signing import BadSignatureError

LONGER = 1 + JITTER


class Source:
    """Answers as it is told to, and counts."""

    def __init__(self) -> None:
        self.error: EntitlementsError | None = None
        self.asked = 0
        self.waits: asyncio.Event | None = None

    async def snapshot(self, _tenant_id: str, _min_version: int = 0) -> Fetched | None:
        """Nothing, or the error."""
        self.asked += 1
        if self.waits is not None:
            await self.waits.wait()
        if self.error is not None:
            raise self.error
        return None

    async def catalogue(self) -> CatalogueDocument | None:
        """The same."""
        await self.snapshot("")
        return None


@pytest.fixture
def source() -> Source:
    """A source that answers."""
    return Source()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


@pytest.fixture
def breaking(source: Source, clock: FakeClock) -> Breaking:
    """The source behind a breaker."""
    return Breaking(source, "redis", clock)


async def fail(breaking: Breaking, times: int = 1) -> None:
    """Asks in vain."""
    for _ in range(times):
        with pytest.raises(SourceUnavailableError):
            await breaking.snapshot("acme")


async def opened(source: Source, breaking: Breaking) -> None:
    """Lets the source fail until its circuit is open."""
    source.error = SourceUnavailableError("away")
    await fail(breaking, TROUBLE)
    assert breaking.circuit.is_open


def shown(name: str) -> float:
    """A metric of the source."""
    return metrics.REGISTRY.get_sample_value(name, {"source": "redis"}) or 0.0


async def test_a_source_that_fails_again_and_again_is_not_asked(source: Source, breaking: Breaking) -> None:
    """Given failures in a row, then the next call fails at once, and metrics show it."""
    before = shown("entitlement_circuit_opened_total")
    await opened(source, breaking)

    await fail(breaking, 3)
    with pytest.raises(SourceUnavailableError, match="redis: not asked"):
        await breaking.catalogue()

    assert source.asked == TROUBLE
    assert shown("entitlement_circuit_open") == 1
    assert shown("entitlement_circuit_opened_total") == before + 1


async def test_an_answer_between_failures_starts_the_count_anew(source: Source, breaking: Breaking) -> None:
    """Given failures that are not in a row, then the circuit stays closed."""
    for _ in range(3):
        source.error = SourceUnavailableError("away")
        await fail(breaking, TROUBLE - 1)
        source.error = None
        await breaking.catalogue()

    assert not breaking.circuit.is_open


@pytest.mark.parametrize(
    "answer",
    [
        TenantUnknownError("acme"),
        BadSignatureError("forged", "not ours"),
        SourceRefusedError("malformed"),
    ],
    ids=["unknown tenant", "forged snapshot", "refused call"],
)
async def test_an_answer_that_is_of_no_use_is_no_outage(
    source: Source, breaking: Breaking, answer: EntitlementsError
) -> None:
    """Whoever asks for what one tenant does not have must not take the source from the others."""
    source.error = answer
    for _ in range(2 * TROUBLE):
        with pytest.raises(type(answer)):
            await breaking.snapshot("acme")

    assert source.asked == 2 * TROUBLE
    assert not breaking.circuit.is_open


async def test_one_call_probes_and_the_others_fail_at_once(
    source: Source, breaking: Breaking, clock: FakeClock
) -> None:
    """Given that the pause is over, then one call reaches the source, and its answer closes the circuit."""
    await opened(source, breaking)
    source.error, source.waits = None, asyncio.Event()
    clock.advance(LONGER)

    probe = asyncio.create_task(breaking.snapshot("acme"))
    await asyncio.sleep(0)
    await fail(breaking, 3)
    assert source.asked == TROUBLE + 1
    source.waits.set()
    await probe

    assert not breaking.circuit.is_open
    assert shown("entitlement_circuit_open") == 0
    await breaking.snapshot("acme")
    assert source.asked == TROUBLE + 2


async def test_pauses_grow_up_to_a_bound(source: Source, breaking: Breaking, clock: FakeClock) -> None:
    """Given probes that fail, then the next pause is twice as long, ten seconds at most."""
    await opened(source, breaking)
    pauses = []
    for _ in range(7):
        began = clock.monotonic()
        asked = source.asked
        while source.asked == asked:
            clock.advance(0.05)
            await fail(breaking)
        pauses.append(clock.monotonic() - began)

    expected = [min(2.0**number, LONGEST_PAUSE) for number in range(7)]
    for pause, middle in zip(pauses, expected, strict=True):
        assert middle * (1 - JITTER) <= pause <= min(middle * LONGER, LONGEST_PAUSE) + 0.1
    source.error = None
    clock.advance(LONGEST_PAUSE)
    await breaking.snapshot("acme")
    await opened(source, breaking)
    clock.advance(LONGER)
    source.error = None
    await breaking.snapshot("acme")
    assert not breaking.circuit.is_open


async def test_two_sidecars_do_not_probe_in_step(source: Source, clock: FakeClock) -> None:
    """Given many circuits that opened at the same instant, then their pauses differ."""
    circuits = [Breaking(source, "redis", clock) for _ in range(20)]
    for one in circuits:
        await opened(source, one)
    waits = set()
    for one in circuits:
        with pytest.raises(SourceUnavailableError) as refused:
            await one.snapshot("acme")
        waits.add(refused.value.retry_after)

    assert len(waits) > 1


async def test_a_probe_that_is_cancelled_leaves_its_place(
    source: Source, breaking: Breaking, clock: FakeClock
) -> None:
    """Given a probe whose caller gave up, then the next call probes."""
    await opened(source, breaking)
    source.error, source.waits = None, asyncio.Event()
    clock.advance(LONGER)
    probe = asyncio.create_task(breaking.snapshot("acme"))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    source.waits = None

    await breaking.snapshot("acme")

    assert not breaking.circuit.is_open


async def test_failures_of_calls_under_way_do_not_lengthen_the_pause(
    source: Source, breaking: Breaking, clock: FakeClock
) -> None:
    """Given many calls that fail together, then the circuit opens once, for the first pause."""
    before = shown("entitlement_circuit_opened_total")
    source.error, source.waits = SourceUnavailableError("slow"), asyncio.Event()
    calls = [asyncio.create_task(breaking.snapshot("acme")) for _ in range(4 * TROUBLE)]
    await asyncio.sleep(0)
    source.waits.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert shown("entitlement_circuit_opened_total") == before + 1

    clock.advance(LONGER)
    source.error = None
    await breaking.snapshot("acme")

    assert not breaking.circuit.is_open


ASKED: list[Callable[[Breaking], object]] = [lambda b: b.snapshot("acme", 3), lambda b: b.catalogue()]


@pytest.mark.parametrize("ask", ASKED, ids=["snapshot", "catalogue"])
async def test_what_the_source_says_passes(
    source: Source, breaking: Breaking, ask: Callable[..., object]
) -> None:
    """Given a closed circuit, then the source is asked, and its answer is returned."""
    answer: object = ask(breaking)
    assert asyncio.iscoroutine(answer)
    assert await answer is None
    assert source.asked == 1
