"""Where there is no plan store to ship to: a snapshot file, or Redis alone.

Usage of such a sidecar is counted in memory and not kept. Its events stay in the outbox as long as retries
are to be told apart, and then leave it as settled, so that the outbox cannot fill up for good.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import EntitlementsError
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.outbox import KEEP_CONSUMPTIONS, Batch, Outbox
from entitlement_sidecar.sidecar.usage.shipper import MAX_BYTES, MAX_EVENTS
from entitlement_sidecar.wire.codec import from_timestamp

LOOK_EVERY = 1.0
"""Seconds between two looks at an outbox that was empty."""

_log = logging.getLogger(__name__)


class UnshippedUsage:
    """Settles what an outbox has held for 60 s. Stands where a `Shipper` would."""

    def __init__(
        self, outbox: Outbox, clock: Clock, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Settles until it is cancelled.

        What an earlier start left is not touched for 60 s either: who forgot to name the plan store can still
        stop the sidecar.
        """
        queued = (await self._outbox.stats()).queued
        if queued:
            _log.warning("no plan store is configured: %d events of earlier starts will not be kept", queued)
        await self._sleep(KEEP_CONSUMPTIONS)
        while True:
            if not await self._settle_next():
                await self._sleep(LOOK_EVERY)

    async def drain(self, deadline: float) -> None:
        """Nothing has to be brought anywhere."""

    async def _settle_next(self) -> bool:
        """Settles the oldest window once it is old enough. Whether there was one."""
        try:
            batches = await self._outbox.next_batches(MAX_EVENTS, MAX_BYTES)
            for batch in batches:
                await self._sleep(self._too_young_for(batch))
                await self._outbox.settle(batch, [_let_go(one.message.id) for one in batch.events])
        except EntitlementsError as error:
            _log.warning("usage stays in the outbox for now: %s", error)
            return False
        return bool(batches)

    def _too_young_for(self, batch: Batch) -> float:
        """Seconds until the youngest of its events is old enough, whatever the wall clock was set to."""
        youngest = from_timestamp(max((one.message.recorded_at for one in batch.events), key=_instant))
        age = (self._clock.now() - youngest).total_seconds()
        return min(max(0.0, KEEP_CONSUMPTIONS - age), KEEP_CONSUMPTIONS)


def _instant(stamp: Timestamp) -> tuple[int, int]:
    return stamp.seconds, stamp.nanos


def _let_go(event_id: str) -> UsageResult:
    return UsageResult(event_id, UsageOutcome.ACCEPTED, "counted here alone")
