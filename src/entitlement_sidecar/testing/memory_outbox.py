"""The outbox's twin: in memory, for tests. What it accepted is gone with it."""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import Awaitable, Sequence

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.clock import Clock, SystemClock
from entitlement_sidecar.domain.errors import OutboxFullError
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.outbox import (
    KEEP_CONSUMPTIONS,
    USUAL_BYTES,
    Batch,
    Consumption,
    OutboxRecord,
    OutboxStats,
    SequencedEvent,
    not_kept,
)
from entitlement_sidecar.wire.codec import event_to_proto

_KEPT_ELSEWHERE = frozenset(
    {
        UsageOutcome.ACCEPTED,
        UsageOutcome.DUPLICATE,
        UsageOutcome.LATE_ACCEPTED,
        UsageOutcome.QUARANTINED,
    }
)
_Key = tuple[str, str]


class MemoryOutbox:
    """Implements `Outbox`. `dead` holds dead letters with their results."""

    def __init__(
        self, *, clock: Clock | None = None, instance: str = "memory", max_bytes: int = 1 << 30
    ) -> None:
        self.dead: list[tuple[UsageEvent, UsageResult]] = []
        self._clock = clock or SystemClock()
        self._instance = instance
        self._max_bytes = max_bytes
        self._bytes = 0
        self._queued: dict[int, UsageEvent] = {}
        self._held: dict[_Key, bytes] = {}
        self._consumptions: dict[_Key, Consumption] = {}
        self._settled_at: dict[_Key, float] = {}
        self._accepted = self._settled = self._batches = 0
        self._batch: tuple[int, frozenset[int]] | None = None

    def append(
        self, records: Sequence[OutboxRecord], durability: Durability, *, atomic: bool = False
    ) -> Awaitable[list[UsageResult]]:
        """Keeps records; with `atomic` all or, on a conflict, none.

        Raises:
            OutboxFullError: Nothing of the call was kept.
        """
        del durability  # memory is as durable as it gets here
        size = sum(_size(record.event) for record in records)
        if self._bytes + size > self._max_bytes:
            raise OutboxFullError(f"the outbox holds {self._bytes} of {self._max_bytes} bytes", 1.0)
        done = asyncio.get_running_loop().create_future()
        results, fresh = self._judge(records)
        if atomic and any(result.outcome is UsageOutcome.CONFLICT for result in results):
            results = [not_kept(r.id) if r.outcome is UsageOutcome.ACCEPTED else r for r in results]
        else:
            for record in fresh:
                self._keep(record)
        done.set_result(results)
        return done

    async def require_room(self, events: int) -> None:
        """Says beforehand whether so many events of the usual size can be kept.

        Raises:
            OutboxFullError: They cannot.
        """
        if self._bytes + events * USUAL_BYTES > self._max_bytes:
            raise OutboxFullError(f"the outbox holds {self._bytes} of {self._max_bytes} bytes", 1.0)

    def _judge(self, records: Sequence[OutboxRecord]) -> tuple[list[UsageResult], list[OutboxRecord]]:
        """Outcomes, and which records are new."""
        seen = ChainMap({}, self._held)
        results, fresh = [], []
        for event, record in ((record.event, record) for record in records):
            key, digest = (event.tenant_id, event.id), event.digest()
            outcome = UsageOutcome.ACCEPTED
            if key in seen:
                outcome = UsageOutcome.DUPLICATE if seen[key] == digest else UsageOutcome.CONFLICT
            else:
                seen[key] = digest
                fresh.append(record)
            results.append(UsageResult(event.id, outcome))
        return results, fresh

    def _keep(self, record: OutboxRecord) -> None:
        event, digest = record.event, record.event.digest()
        key = (event.tenant_id, event.id)
        self._accepted += 1
        self._queued[self._accepted] = event
        self._held[key] = digest
        self._bytes += _size(event)
        if record.consumption is not None:
            self._consumptions.setdefault(key, record.consumption)

    async def consumption(self, tenant_id: str, event_id: str) -> Consumption | None:
        """The first allowed answer of a CONSUME."""
        key = (tenant_id, event_id)
        over = self._clock.monotonic() - KEEP_CONSUMPTIONS
        if self._settled_at.get(key, over + 1) <= over:
            return None
        return self._consumptions.get(key)

    async def next_batch(self, max_events: int, max_bytes: int) -> Batch | None:
        """The oldest unsettled batch."""
        if self._batch is None and self._queued:
            self._batches += 1
            self._batch = (self._batches, frozenset(self._first(max_events, max_bytes)))
        if self._batch is None:
            return None
        batch_id, places = self._batch
        events = tuple(
            SequencedEvent(place, self._queued[place]) for place in sorted(places & set(self._queued))
        )
        return Batch(self._instance, 1, batch_id, events, self._accepted)

    def _first(self, max_events: int, max_bytes: int) -> list[int]:
        chosen: list[int] = []
        total = 0
        for place, event in self._queued.items():
            total += _size(event)
            if len(chosen) == max_events or (chosen and total > max_bytes):
                break
            chosen.append(place)
        return chosen

    async def settle(self, batch: Batch, results: Sequence[UsageResult]) -> None:
        """Deletes what was settled; keeps what was refused as dead letters."""
        for one, result in zip(batch.events, results, strict=True):
            if not result.retriable and one.sequence in self._queued:
                self._leave(one.sequence, result)
        if self._batch is not None and not self._batch[1] & set(self._queued):
            self._batch = None

    def _leave(self, place: int, result: UsageResult) -> None:
        event = self._queued.pop(place)
        key = (event.tenant_id, event.id)
        del self._held[key]
        self._bytes -= _size(event)
        if key in self._consumptions:
            self._settled_at[key] = self._clock.monotonic()
        if result.outcome in _KEPT_ELSEWHERE:
            self._settled += 1
        else:
            self.dead.append((event, result))

    async def stats(self) -> OutboxStats:
        """Totals, and what is queued."""
        oldest = next(iter(self._queued.values()), None)
        return OutboxStats(
            instance=self._instance,
            epoch=1,
            accepted=self._accepted,
            settled=self._settled,
            queued=len(self._queued),
            dead=len(self.dead),
            bytes_used=self._bytes,
            oldest_recorded_at=oldest.recorded_at.timestamp() if oldest else None,
        )

    async def close(self) -> None:
        """Nothing to release."""


def _size(event: UsageEvent) -> int:
    return len(event_to_proto(event).SerializeToString())
