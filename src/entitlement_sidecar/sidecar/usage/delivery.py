"""Hands batches to where they go, and finds the event that a batch is refused for.

An event is given up for one reason only: the plan store refused that event for good, while it takes others.
Where it refuses everything, or nothing else is known to be good, nothing is given up: the line stops.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from entitlement_sidecar.domain.errors import InvalidInputError, RetryableError
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.outbox import Batch, SequenceRange
from entitlement_sidecar.telemetry import metrics


class Receipt(msgspec.Struct, frozen=True):
    """Outcomes in the order of the events; `slow_down` is what the server wants waited, in seconds.

    `missing` are places before the batch's first that never came there.
    """

    results: tuple[UsageResult, ...]
    slow_down: float = 0.0
    missing: tuple[SequenceRange, ...] = ()


class UsageSink(Protocol):
    """Where batches go. Takes the same batch any number of times, and several at once."""

    async def send(self, batch: Batch) -> Receipt:
        """Settles a batch: one result per event, in order.

        Raises:
            RetryableError: Nothing is known; the batch is sent again, after `retry_after` where given.
            UnauthenticatedError, ForbiddenError: The credentials are not good enough.
            InvalidInputError: Refused as a whole.
        """
        ...


class Delivery:
    """Brings batches to a sink, down to single events where it refuses them as a whole."""

    def __init__(self, sink: UsageSink) -> None:
        self._sink = sink
        self._taken: Batch | None = None

    async def send(self, batch: Batch) -> Receipt:
        """Settles a batch. An event that is refused alone, while others are taken, comes back as INVALID.

        Raises:
            EntitlementsError: As `UsageSink.send`, but for InvalidInputError: nothing is settled.
        """
        try:
            return await self._hand_over(batch)
        except InvalidInputError as error:
            if len(batch.events) == 1:
                await self._prove_that_others_are_taken(error)
                return _refused(batch, error)
            receipt = await self._bisect(batch)
            if all(result.outcome is UsageOutcome.INVALID for result in receipt.results):
                await self._prove_that_others_are_taken(error)
            return receipt

    async def declare(self, batch: Batch, ranges: tuple[SequenceRange, ...]) -> None:
        """Says which places will not come, with an event of the batch that was taken: it counts once.

        Raises:
            EntitlementsError: It was not heard; the same places will be missed again.
        """
        await self._sink.send(msgspec.structs.replace(batch, events=batch.events[-1:], declared=ranges))

    async def _hand_over(self, batch: Batch) -> Receipt:
        receipt = await self._sink.send(batch)
        self._taken = msgspec.structs.replace(batch, events=batch.events[-1:], declared=())
        return receipt

    async def _prove_that_others_are_taken(self, error: InvalidInputError) -> None:
        """Sends again what was taken before, which counts nothing twice: the refusal is about these events.

        Raises:
            RetryableError: It may not be about the events.
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
            receipts[0].missing,
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
