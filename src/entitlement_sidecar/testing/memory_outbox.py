"""The outbox's twin: in memory, for tests. What it accepted is gone with it."""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import Awaitable, Iterator, MutableMapping, Sequence

import msgspec

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
    SETTLED,
    USUAL_BYTES,
    Batch,
    Consumption,
    OutboxRecord,
    OutboxStats,
    PreparedRecord,
    SequencedEvent,
    SequenceRange,
    check_dead_letters,
    not_kept,
)
from entitlement_sidecar.sidecar.usage.rollup import (
    OpenRollups,
    Sum,
    add,
    rolled_up,
    rolls_up,
    rollup_id,
    rollup_key,
    second_of,
)
from entitlement_sidecar.sidecar.usage.room import any_billable, full, refuses
from entitlement_sidecar.sidecar.usage.window import LANES, Waiting, cut, lane_of
from entitlement_sidecar.testing.memory_journal import MemoryJournal
from entitlement_sidecar.wire.codec import event_from_proto, event_to_proto
from entitlement_sidecar.wire.v1 import usage_pb2

_Key = tuple[str, str]


class _StoredBatch(msgspec.Struct, frozen=True):
    batch_id: int
    places: frozenset[int]


class MemoryOutbox:
    """Implements `Outbox`. `dead` holds dead letters with their results; `journal` hears of leases."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        instance: str = "memory",
        max_bytes: int = 1 << 30,
        journal: MemoryJournal | None = None,
    ) -> None:
        self.dead: list[tuple[UsageEvent, UsageResult]] = []
        self._clock = clock or SystemClock()
        self._instance = instance
        self._max_bytes = max_bytes
        self._journal = journal
        self._bytes = 0
        self._queued: dict[int, UsageEvent] = {}
        self._held: dict[_Key, bytes] = {}
        self._consumptions: dict[_Key, Consumption] = {}
        self._rolled: dict[int, list[_Key]] = {}
        self._settled_at: dict[_Key, float] = {}
        self._accepted = self._settled = self._lost = self._batches = 0
        self._never: set[int] = set()
        self._rollups = OpenRollups()
        self._window: list[_StoredBatch] = []

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

    def append_prepared(
        self, records: Sequence[PreparedRecord], durability: Durability, *, billable: bool
    ) -> asyncio.Future[list[UsageResult]]:
        """Keeps records that conflict with none.

        Raises:
            OutboxFullError: There is no room.
        """
        del durability
        self._check_room(sum(len(record.payload) for record in records), billable=billable)
        events = [event_from_proto(usage_pb2.UsageEvent.FromString(record.payload)) for record in records]
        for event in events:
            self._keep(OutboxRecord(event))
        done: asyncio.Future[list[UsageResult]] = asyncio.get_running_loop().create_future()
        done.set_result([UsageResult(event.id, UsageOutcome.ACCEPTED) for event in events])
        return done

    def has_room(self, *, billable: bool) -> bool:
        """Whether an event of the usual size can be kept now."""
        return not refuses(self._bytes + USUAL_BYTES, self._max_bytes, billable=billable)

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
        held = ChainMap({}, self._held)
        answered: dict[_Key, bytes] = {}
        results, fresh = [], []
        for record in records:
            key = (record.event.tenant_id, record.event.id)
            seen: MutableMapping[_Key, bytes] = held
            digest = record.event.digest()
            if rolls_up(record):
                seen, digest = answered, _quantity(record.consumption)
                if (before := self._first_answer(key)) is not None:
                    answered.setdefault(key, _quantity(before))
            outcome = UsageOutcome.ACCEPTED
            if key in seen and digest:
                outcome = UsageOutcome.DUPLICATE if seen[key] == digest else UsageOutcome.CONFLICT
            else:
                seen[key] = digest
                fresh.append(record)
            results.append(UsageResult(record.event.id, outcome))
        return results, fresh

    def _keep(self, record: OutboxRecord) -> None:
        event = record.event
        key = (event.tenant_id, event.id)
        if rolls_up(record):
            place = self._roll_up(event)
            self._rolled.setdefault(place, []).append(key)
        else:
            self._queue(event)
            self._held[key] = event.digest()
        if record.consumption is not None:
            self._consumptions.setdefault(key, record.consumption)
        if self._journal is not None:
            self._journal.use(event.lease_id, event.value)

    def _queue(self, event: UsageEvent) -> int:
        self._accepted += 1
        self._queued[self._accepted] = event
        self._bytes += _size(event)
        return self._accepted

    def _roll_up(self, event: UsageEvent) -> int:
        """Adds an event to the record that it is summed up in, or opens one. Its place."""
        second, key = second_of(event), rollup_key(event)
        before = self._rollups.find(second, key)
        total = add(before, event) if before is not None else None
        if total is None:
            total = Sum(self._accepted + 1, event.value, event.count)
            self._queue(event)
        identity = rollup_id(self._instance, 1, total.place, second)
        grown = rolled_up(event, identity, total.value, total.count)
        self._bytes += _size(grown) - _size(self._queued[total.place])
        self._queued[total.place] = grown
        self._rollups.keep(second, key, total)
        return total.place

    async def consumption(self, tenant_id: str, event_id: str) -> Consumption | None:
        """The first allowed answer of a CONSUME."""
        return self._first_answer((tenant_id, event_id))

    def _first_answer(self, key: _Key) -> Consumption | None:
        over = self._clock.monotonic() - KEEP_CONSUMPTIONS
        if self._settled_at.get(key, over + 1) <= over:
            return None
        return self._consumptions.get(key)

    async def next_batches(self, max_events: int, max_bytes: int) -> Sequence[Batch]:
        """The batches of the oldest window that are not settled in full."""
        invalid = sum(result.outcome is UsageOutcome.INVALID for _, result in self.dead)
        check_dead_letters(invalid, self._accepted)
        if not self._window:
            self._window = list(self._cut(max_events, max_bytes))
        return [self._load(stored) for stored in self._window]

    def _cut(self, max_events: int, max_bytes: int) -> Iterator[_StoredBatch]:
        self._rollups.close_all_but(int(self._clock.now().timestamp()))
        waiting = list(self._waiting())[: LANES * max_events]
        window = cut(waiting, max_events, max_bytes)
        if window is None:
            return
        for lane in window.lanes:
            self._batches += 1
            inside = (one for one in waiting if one.place <= window.last)
            places = frozenset(one.place for one in inside if lane in {None, one.lane})
            yield _StoredBatch(self._batches, places)

    def _waiting(self) -> Iterator[Waiting]:
        still_open = self._rollups.first_place()
        for place, event in self._queued.items():
            if place == still_open:
                return
            yield Waiting(place, _size(event), lane_of(event.tenant_id, event.metric))

    def _load(self, stored: _StoredBatch) -> Batch:
        places = sorted(stored.places & set(self._queued))
        events = tuple(SequencedEvent.of(place, self._queued[place]) for place in places)
        return Batch(self._instance, 1, stored.batch_id, events, self._accepted, len(self.dead))

    async def settle(self, batch: Batch, results: Sequence[UsageResult]) -> None:
        """Deletes what was settled; keeps what was refused as dead letters."""
        for one, result in zip(batch.events, results, strict=True):
            if not result.retriable and one.sequence in self._queued:
                self._leave(one.sequence, result)
        self._window = [stored for stored in self._window if stored.places & set(self._queued)]

    def _leave(self, place: int, result: UsageResult) -> None:
        event = self._queued.pop(place)
        key = (event.tenant_id, event.id)
        self._held.pop(key, None)
        self._bytes -= _size(event)
        now = self._clock.monotonic()
        left = [key, *self._rolled.pop(place, ())]
        self._settled_at.update({one: now for one in left if one in self._consumptions})
        if result.outcome in SETTLED:
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


def _quantity(consumption: Consumption | None) -> bytes:
    """What tells a CONSUME that is summed up from another request of its id; empty for anything else."""
    return b"" if consumption is None else b"%d" % consumption.quantity


def _size(event: UsageEvent) -> int:
    return len(event_to_proto(event).SerializeToString())
