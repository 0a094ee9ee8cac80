"""Sends what the outbox holds to the plan store until it is settled (DESIGN 8).

    next window ─▶ its batches, side by side: ─▶ send ─▶ settled ─▶ all are settled: next window
                                                  │ ▲
            away, overloaded, answered in part: ──┘ │   wait (1 s → 2 min, full jitter, server's hints)
            credentials refused: ───────────────────┤   wait 30 s, say so
            refused as a whole: ────────────────────┘   halve until the bad event stands alone

Batches of one window share no tenant and metric, so order holds for each of these. A batch that has to be
sent again holds up the next window, not its neighbours. What the plan store misses of earlier windows is
looked up in the outbox, and declared where it will not come. Where there is no plan store, `unshipped` stands
here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import (
    EntitlementsError,
    ForbiddenError,
    OutboxStoppedError,
    RetryableError,
    UnauthenticatedError,
)
from entitlement_sidecar.sidecar.usage.delivery import Delivery, Receipt, UsageSink
from entitlement_sidecar.sidecar.usage.outbox import Batch, Outbox, SequenceRange
from entitlement_sidecar.telemetry import metrics

MAX_EVENTS = 500
"""Events of one batch."""

MAX_BYTES = 1 << 20
"""Bytes of one batch's events."""

LINGER = 0.25
"""Seconds between two looks at an outbox that had less than a full batch: lets batches grow."""

FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 120.0
"""Seconds; each wait is drawn between zero and a bound that doubles from the first to the longest."""

CREDENTIALS_PAUSE = 30.0
"""Seconds to wait after the plan store refused the credentials: somebody has to replace them."""

STOPPED_PAUSE = 5.0
"""Seconds between two looks at an outbox whose dead letters have stopped it."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class ShippingState(msgspec.Struct):
    """How shipping goes, for operators.

    Attributes:
        last_settled_at: When the plan store last settled something, in seconds since 1970; None: not since
            the start.
        failing: The last attempt failed; the log says why.
        stopped: Too many dead letters have stopped the line.
    """

    last_settled_at: float | None = None
    failing: bool = False
    stopped: bool = False


class _Parcel:
    """A batch on its way: what is left of it to settle."""

    def __init__(self, batch: Batch, floor: int) -> None:
        self.batch = batch
        self.floor = floor


class Shipper:
    """Empties an outbox into a sink, one window of batches at a time."""

    def __init__(
        self,
        outbox: Outbox,
        sink: UsageSink,
        clock: Clock,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        max_events: int = MAX_EVENTS,
    ) -> None:
        self.state = ShippingState()
        self._outbox = outbox
        self._delivery = Delivery(sink)
        self._clock = clock
        self._sleep = sleep
        self._max_events = max_events
        self._jitter = wait_random_exponential(multiplier=FIRST_BACKOFF, max=LONGEST_BACKOFF)
        self._kicked = asyncio.Event()
        self._turn = asyncio.Lock()
        self._draining = asyncio.Event()

    def kick(self) -> None:
        """Looks at the outbox now instead of a moment later."""
        self._kicked.set()

    async def run(self) -> None:
        """Ships until it is cancelled or `drain` takes over."""
        while not self._draining.is_set():
            if not await self._ship_window():
                await self._linger()

    async def drain(self, deadline: float) -> None:
        """Ships what is left for so many seconds at most, and while it succeeds. The rest stays on disk."""
        self._draining.set()
        self.kick()
        try:
            async with asyncio.timeout(deadline):
                while await self._ship_window():
                    pass
        except TimeoutError:
            _log.warning("stopped shipping, the rest stays in the outbox: out of time")

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER):
                await self._kicked.wait()
        except TimeoutError:
            pass
        self._kicked.clear()

    async def _pause(self, seconds: float) -> None:
        """Waits, unless draining begins: then there is no time to wait."""
        waits = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._draining.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _ship_window(self) -> bool:
        """Ships one window, however often that takes. Whether there may be more at once."""
        async with self._turn:
            batches = await self._patiently(self._next_batches)
            if not batches:
                return batches is not None and await self._second_ends()
            async with asyncio.TaskGroup() as group:
                parcels = _parcels(batches)
                under_way = [
                    group.create_task(self._patiently(partial(self._ship, parcel))) for parcel in parcels
                ]
            settled = all(task.result() for task in under_way)
            full = sum(len(batch.events) for batch in batches) >= self._max_events
            return settled and (full or _was_cut(batches) or self._draining.is_set())

    async def _second_ends(self) -> bool:
        """While draining, gives rollups that may still grow the time to end. Whether there were any."""
        if not self._draining.is_set():
            return False
        stats = await self._patiently(self._outbox.stats)
        if stats is None or not stats.queued:
            return False
        await self._sleep(LINGER)
        return True

    async def _next_batches(self) -> Sequence[Batch]:
        batches = await self._outbox.next_batches(self._max_events, MAX_BYTES)
        self._stand_still(stopped=False)
        return batches

    async def _patiently(self, work: Callable[[], Awaitable[_T]]) -> _T | None:
        """What work makes, however often it has to be done again; None once draining leaves no time."""
        # One for each: it keeps what it counts in itself.
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(EntitlementsError),
            wait=self._wait,
            sleep=self._pause,
            stop=lambda _: self._draining.is_set(),
            retry_error_callback=lambda _: None,
        )
        return await retrying(work)

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        self.state.failing = True
        if isinstance(error, OutboxStoppedError):
            self._stand_still(stopped=True, why=str(error))
            return STOPPED_PAUSE
        if isinstance(error, UnauthenticatedError | ForbiddenError):
            metrics.shipped_batches.labels("unauthenticated").inc()
            _log.error(
                "the plan store refuses the credentials: %s; trying again in %.0f s", error, CREDENTIALS_PAUSE
            )
            return CREDENTIALS_PAUSE
        metrics.shipped_batches.labels("retried").inc()
        hint = (error.retry_after or 0.0) if isinstance(error, RetryableError) else 0.0
        _log.warning("usage was not shipped (attempt %d): %s", state.attempt_number, error)
        # Jitter on top of the hint: everyone who was told the same does not come back at once.
        return hint + self._jitter(state)

    def _stand_still(self, *, stopped: bool, why: str = "") -> None:
        if stopped and not self.state.stopped:
            _log.error("shipping has stopped, and usage is kept on disk: %s", why)
        elif self.state.stopped and not stopped:
            _log.warning("shipping goes on")
        self.state.stopped = stopped
        metrics.shipping_stopped.set(stopped)

    async def _ship(self, parcel: _Parcel) -> bool:
        """Ships what is left of a batch once. True: all of it is settled.

        Raises:
            EntitlementsError: The batch, or a part of it, has to be sent again.
        """
        batch = parcel.batch
        receipt = await self._delivery.send(batch)
        await self._outbox.settle(batch, receipt.results)
        self._note(batch, receipt)
        await self._account_for(parcel, receipt.missing)
        left = tuple(
            one for one, result in zip(batch.events, receipt.results, strict=True) if result.retriable
        )
        if left:
            parcel.batch = msgspec.structs.replace(batch, events=left)
            raise RetryableError(f"the plan store wants {len(left)} events again", receipt.slow_down or None)
        if receipt.slow_down:
            await self._pause(receipt.slow_down)
        return True

    def _note(self, batch: Batch, receipt: Receipt) -> None:
        """Counts what was settled, and how long it took."""
        metrics.shipped_batches.labels("settled").inc()
        settled = Counter(result.outcome for result in receipt.results if not result.retriable)
        if not settled:
            return
        for outcome, number in settled.items():
            metrics.shipped_events.labels(outcome.name).inc(number)
        now = self._clock.now().timestamp()
        self.state.last_settled_at, self.state.failing = now, False
        metrics.shipped_last.set(now)
        metrics.shipped_lag_seconds.observe(max(0.0, now - batch.events[0].event.recorded_at.timestamp()))

    async def _account_for(self, parcel: _Parcel, missing: Sequence[SequenceRange]) -> None:
        """Looks up what the plan store misses of earlier windows, and declares what will not come.

        What is of this window is on its way beside this batch.
        """
        batch = parcel.batch
        earlier = [
            SequenceRange(one.first, min(one.last, parcel.floor - 1))
            for one in missing
            if one.first < parcel.floor
        ]
        if not earlier:
            return
        try:
            before = (await self._outbox.stats()).lost
            declared = await self._outbox.declare(batch.instance, batch.epoch, earlier)
            _say_lost((await self._outbox.stats()).lost - before)
            if declared:
                await self._delivery.declare(batch, declared)
        except EntitlementsError as error:
            # The plan store says again what it misses.
            _log.warning("what the plan store misses could not be accounted for yet: %s", error)


def _parcels(batches: Sequence[Batch]) -> list[_Parcel]:
    """The batches of a window, each with the first place of its source in the window."""
    floors: dict[tuple[str, int], int] = {}
    for batch in batches:
        source, first = (batch.instance, batch.epoch), batch.events[0].sequence
        floors[source] = min(floors.get(source, first), first)
    return [_Parcel(batch, floors[batch.instance, batch.epoch]) for batch in batches]


def _was_cut(batches: Sequence[Batch]) -> bool:
    """Whether more than these had been accepted: a window also ends before a correction, full or not."""
    return max(batch.events[-1].sequence for batch in batches) < batches[0].accepted_total


def _say_lost(lost: int) -> None:
    if lost > 0:
        _log.error(
            "the plan store misses %d events that it had settled: it was restored from an older backup, or "
            "another database stands behind it; they are declared lost",
            lost,
        )
