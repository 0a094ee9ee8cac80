"""The outbox's twin: in memory, for tests. What it accepted is gone with it."""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import Awaitable, Iterator, Sequence

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.clock import Clock, SystemClock
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.gaps import (
    DECLARED,
    QUEUED,
    Known,
    clipped,
    count_of,
    joined,
    sort_out,
)
from entitlement_sidecar.sidecar.usage.outbox import (
    KEEP_CONSUMPTIONS,
    USUAL_BYTES,
    Batch,
    Consumption,
    OutboxRecord,
    OutboxStats,
    SequencedEvent,
    SequenceRange,
    not_kept,
)
from entitlement_sidecar.sidecar.usage.room import any_billable, full, refuses
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
        self._lost = 0
        self._never: set[int] = set()
        self._batch: tuple[int, frozenset[int]] | None = None

    def append(
        self, records: Sequence[OutboxRecord], durability: Durability, *, atomic: bool = False
    ) -> Awaitable[list[UsageResult]]:
        """Keeps records; with `atomic` all or, on a conflict, none.

        Raises:
            OutboxFullError: Nothing of the call was kept.
        """
        del durability  # memory is as durable as it gets here
        taken = sum(_size(record.event) for record in records)
        self._check_room(taken, billable=any_billable(record.event for record in records))
        done = asyncio.get_running_loop().create_future()
        results, fresh = self._judge(records)
        if atomic and any(result.outcome is UsageOutcome.CONFLICT for result in results):
            results = [not_kept(r.id) if r.outcome is UsageOutcome.ACCEPTED else r for r in results]
        else:
            for record in fresh:
                self._keep(record)
        done.set_result(results)
        return done

    async def require_room(self, events: int, *, billable: bool = True) -> None:
        """Says beforehand whether so many events of the usual size can be kept.

        Raises:
            OutboxFullError: They cannot.
        """
        self._check_room(events * USUAL_BYTES, billable=billable)

    def _check_room(self, size: int, *, billable: bool) -> None:
        if refuses(self._bytes + size, self._max_bytes, billable=billable):
            raise full(self._bytes, self._max_bytes, billable=billable)

    @property
    def fill(self) -> float:
        """How much of its room is taken."""
        return self._bytes / max(self._max_bytes, 1)

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

    async def next_batches(self, max_events: int, max_bytes: int) -> Sequence[Batch]:
        """The oldest unsettled batch."""
        if self._batch is None and self._queued:
            self._batches += 1
            self._batch = (self._batches, frozenset(self._first(max_events, max_bytes)))
        if self._batch is None:
            return ()
        batch_id, places = self._batch
        events = tuple(
            SequencedEvent(place, self._queued[place]) for place in sorted(places & set(self._queued))
        )
        return [Batch(self._instance, 1, batch_id, events, self._accepted, len(self.dead))]

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
            self._never.add(place)

    async def declare(
        self, instance: str, epoch: int, ranges: Sequence[SequenceRange]
    ) -> tuple[SequenceRange, ...]:
        """Which of the sequences that the plan store misses will not come."""
        if (instance, epoch) != (self._instance, 1):
            return ()
        gaps = [sort_out(one, self._known(one), self._accepted) for one in clipped(ranges)]
        for lost in (one for gap in gaps for one in gap.lost):
            self._never.update(range(lost.first, lost.last + 1))
            self._settled -= count_of([lost])
            self._lost += count_of([lost])
        return joined([one for gap in gaps for one in gap.declared])

    def _known(self, missing: SequenceRange) -> Iterator[Known]:
        for place in sorted({*self._queued, *self._never}):
            if missing.first <= place <= missing.last:
                yield place, place, QUEUED if place in self._queued else DECLARED

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
            lost=self._lost,
            bytes_used=self._bytes,
            oldest_recorded_at=oldest.recorded_at.timestamp() if oldest else None,
        )

    async def close(self) -> None:
        """Nothing to release."""


def _size(event: UsageEvent) -> int:
    return len(event_to_proto(event).SerializeToString())
