"""Sends what the outbox holds to the plan store, in order, until it is settled (DESIGN 8).

    next batch ─▶ send ─▶ settled ─▶ next batch
                   │ ▲
                   │ └── away, overloaded, answered in part: wait (1 s → 2 min, full jitter, server's hints)
                   │     credentials refused: wait 30 s, say so
                   └──── refused as a whole: halve until the bad event stands alone; it becomes a dead letter

An event is given up for one reason only: the plan store refused that event for good, while it takes others.
Where it refuses everything, or nothing else is known to be good, the line stops instead of being emptied.
Where there is no plan store, `unshipped` stands here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import (
    EntitlementsError,
    ForbiddenError,
    InvalidInputError,
    RetryableError,
    UnauthenticatedError,
)
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.outbox import Batch, Outbox
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

_log = logging.getLogger(__name__)


class Receipt(msgspec.Struct, frozen=True):
    """Outcomes in the order of the events; `slow_down` is what the server wants waited, in seconds."""

    results: tuple[UsageResult, ...]
    slow_down: float = 0.0


class UsageSink(Protocol):
    """Where batches go. Takes the same batch any number of times."""

    async def send(self, batch: Batch) -> Receipt:
        """Settles a batch: one result per event, in order.

        Raises:
            RetryableError: Nothing is known; the batch is sent again, after `retry_after` where given.
            UnauthenticatedError, ForbiddenError: The credentials are not good enough.
            InvalidInputError: Refused as a whole.
        """
        ...


class Shipper:
    """Empties an outbox into a sink, one batch at a time, so that order holds."""

    def __init__(
        self,
        outbox: Outbox,
        sink: UsageSink,
        clock: Clock,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        max_events: int = MAX_EVENTS,
    ) -> None:
        self._outbox = outbox
        self._sink = sink
        self._clock = clock
        self._sleep = sleep
        self._max_events = max_events
        self._jitter = wait_random_exponential(multiplier=FIRST_BACKOFF, max=LONGEST_BACKOFF)
        self._kicked = asyncio.Event()
        self._turn = asyncio.Lock()
        self._draining = False
        self._taken: Batch | None = None

    def kick(self) -> None:
        """Looks at the outbox now instead of a moment later."""
        self._kicked.set()

    async def run(self) -> None:
        """Ships until it is cancelled or `drain` takes over."""
        while not self._draining:
            if not await self._ship_with_patience():
                await self._linger()

    async def drain(self, deadline: float) -> None:
        """Ships what is left for so many seconds at most, and while it succeeds. The rest stays on disk."""
        self._draining = True
        self.kick()
        until = self._clock.monotonic() + deadline
        try:
            async with asyncio.timeout(deadline):
                while await self._ship() and self._clock.monotonic() < until:
                    pass
        except (TimeoutError, EntitlementsError) as error:
            _log.warning("stopped shipping, the rest stays in the outbox: %s", str(error) or "out of time")

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER):
                await self._kicked.wait()
        except TimeoutError:
            pass
        self._kicked.clear()

    async def _ship_with_patience(self) -> bool:
        """Ships one batch, however often that takes. Whether there may be more at once."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(EntitlementsError),
            wait=self._wait,
            sleep=self._sleep,
            stop=lambda _: self._draining,
            retry_error_callback=lambda _: False,
        )
        return await retrying(self._ship)

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, UnauthenticatedError | ForbiddenError):
            metrics.shipped_batches.labels("unauthenticated").inc()
            _log.error(
                "the plan store refuses the credentials: %s; trying again in %.0f s", error, CREDENTIALS_PAUSE
            )
            return CREDENTIALS_PAUSE
        metrics.shipped_batches.labels("retried").inc()
        hint = (error.retry_after or 0.0) if isinstance(error, RetryableError) else 0.0
        # Jitter on top of the hint: everyone who was told the same does not come back at once.
        seconds = hint + self._jitter(state)
        _log.warning("usage was not shipped (attempt %d): %s", state.attempt_number, error)
        return seconds

    async def _ship(self) -> bool:
        """Ships one batch once. Whether there may be more at once.

        Raises:
            EntitlementsError: The batch, or a part of it, has to be sent again.
        """
        async with self._turn:
            batch = await self._outbox.next_batch(self._max_events, MAX_BYTES)
            if batch is None:
                return False
            receipt = await self._send(batch)
            await self._outbox.settle(batch, receipt.results)
            _count(receipt)
        left = sum(result.retriable for result in receipt.results)
        if left:
            raise RetryableError(f"the plan store wants {left} events again", receipt.slow_down or None)
        if receipt.slow_down and not self._draining:
            await self._sleep(receipt.slow_down)
        return len(batch.events) >= self._max_events or self._draining

    async def _send(self, batch: Batch) -> Receipt:
        try:
            return await self._hand_over(batch)
        except InvalidInputError as error:
            if len(batch.events) == 1:
                await self._prove_that_others_are_taken(error)
                return _refused(batch, error)
            receipt = await self._bisect(batch)
            if all(result.outcome is UsageOutcome.INVALID for result in receipt.results):
                raise _stopped(error) from error
            return receipt

    async def _hand_over(self, batch: Batch) -> Receipt:
        receipt = await self._sink.send(batch)
        self._taken = msgspec.structs.replace(batch, events=batch.events[-1:])
        return receipt

    async def _prove_that_others_are_taken(self, error: InvalidInputError) -> None:
        """Sends again what was taken before, which counts nothing twice: the refusal is about one event only.

        Raises:
            RetryableError: It may not be about the event.
        """
        if self._taken is None:
            raise _stopped(error) from error
        try:
            await self._sink.send(self._taken)
        except InvalidInputError as again:
            raise _stopped(again) from again

    async def _bisect(self, batch: Batch) -> Receipt:
        metrics.shipped_batches.labels("bisected").inc()
        half = len(batch.events) // 2
        receipts = [
            await self._send_part(msgspec.structs.replace(batch, events=events))
            for events in (batch.events[:half], batch.events[half:])
        ]
        return Receipt(
            tuple(result for receipt in receipts for result in receipt.results),
            max(receipt.slow_down for receipt in receipts),
        )

    async def _send_part(self, batch: Batch) -> Receipt:
        try:
            return await self._hand_over(batch)
        except InvalidInputError as error:
            return _refused(batch, error) if len(batch.events) == 1 else await self._bisect(batch)


def _stopped(error: InvalidInputError) -> RetryableError:
    """What every event is refused for is not about the events: stop the line, do not empty it."""
    return RetryableError(f"the plan store refuses whole batches: {error}")


def _refused(batch: Batch, error: InvalidInputError) -> Receipt:
    event = batch.events[0].event
    return Receipt((UsageResult(event.id, UsageOutcome.INVALID, f"refused alone: {error}"),))


def _count(receipt: Receipt) -> None:
    metrics.shipped_batches.labels("settled").inc()
    for result in receipt.results:
        if not result.retriable:
            metrics.shipped_events.labels(result.outcome.name).inc()
