"""The port of the durable outbox: append → commit → ack → batch → send → settled → delete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Protocol

import msgspec

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import OutboxStoppedError
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.wire.codec import event_from_proto, event_to_proto
from entitlement_sidecar.wire.v1 import usage_pb2

KEEP_CONSUMPTIONS = 60.0
"""Seconds that the first answer of a CONSUME is kept after its event was settled, at least."""


USUAL_BYTES = 2048
"""What an event with its first answer takes at most, as a rule; a larger one may be refused after all."""


MANY_DEAD = 1000
MANY_DEAD_SHARE = 0.01
"""Dead letters that stop the line: more than this many, and more than this part of what was accepted.

Only those count that were refused as INVALID. That an event conflicts with another of its id, or is too late,
is a verdict about that event: any tenant can bring it about, and may not stop the line of the others.
"""

STOPPED_RETRY_AFTER = 30.0
"""Seconds until a line that was stopped is looked at again."""


SETTLED = frozenset(
    {
        UsageOutcome.ACCEPTED,
        UsageOutcome.DUPLICATE,
        UsageOutcome.LATE_ACCEPTED,
        UsageOutcome.QUARANTINED,  # the plan store keeps it for operators
    }
)
"""Outcomes after which the plan store answers for an event."""


class Consumption(msgspec.Struct, frozen=True, gc=False):
    """The first allowed answer of a CONSUME, kept so that a retry gets it again.

    `answer` is opaque to the outbox. `quantity` tells a retry from another request.
    """

    quantity: int
    answer: bytes


class OutboxRecord(msgspec.Struct, frozen=True, gc=False):
    """One event to keep, with the answer that it stands for when it is a CONSUME.

    With `rollup` it is summed up with those of its second that are alike but for their value: its id is not
    looked at, but for that of a CONSUME, whose first answer is told again.
    """

    event: UsageEvent
    consumption: Consumption | None = None
    rollup: bool = False


class PreparedRecord(msgspec.Struct, frozen=True, gc=False):
    """One event to keep, serialised already, whose identity was made for it: nobody else has it.

    `recorded_at` is in microseconds since 1970, `payload` the event, `value` what it used of `lease_id`.
    """

    tenant_id: str
    event_id: str
    recorded_at: int
    payload: bytes
    lane: int
    lease_id: str
    value: int


def are_many(dead: int, accepted: int) -> bool:
    """Whether so many dead letters may stop the line."""
    return dead > MANY_DEAD and dead > accepted * MANY_DEAD_SHARE


def check_dead_letters(invalid: int, accepted: int) -> None:
    """Stops the line where so much was refused as invalid that something else must be wrong.

    Raises:
        OutboxStoppedError: More than 1,000 dead letters are INVALID, and more than 1 % of what was accepted.
    """
    if are_many(invalid, accepted):
        raise OutboxStoppedError(
            f"{invalid} of {accepted} events were refused as invalid: look with "
            "`entitlements outbox inspect`, then put them back with `entitlements outbox replay`",
            STOPPED_RETRY_AFTER,
        )


def not_kept(event_id: str) -> UsageResult:
    """The outcome of an event that could have been kept, but for another of its atomic call."""
    return UsageResult(
        event_id, UsageOutcome.INVALID, "not kept: another event of the call conflicts", retriable=True
    )


class SequencedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event and its place, contiguous inside (instance, epoch). It travels as it was kept, unopened."""

    sequence: int
    message: usage_pb2.UsageEvent

    @classmethod
    def of(cls, sequence: int, event: UsageEvent) -> SequencedEvent:
        """An event at a place."""
        return cls(sequence, event_to_proto(event))

    @property
    def event(self) -> UsageEvent:
        """The event, opened."""
        return event_from_proto(self.message)


class SequenceRange(msgspec.Struct, frozen=True):
    """Sequences of one (instance, epoch), both ends included."""

    first: int
    last: int


class Batch(msgspec.Struct, frozen=True):
    """Events in order. Its boundaries are stored before it is first sent and never change.

    Totals are those of its epoch, when it was read. `declared` are sequences of its epoch that will not come.
    """

    instance: str
    epoch: int
    batch_id: int
    events: tuple[SequencedEvent, ...]
    accepted_total: int
    dead_total: int = 0
    declared: tuple[SequenceRange, ...] = ()


class OutboxStats(msgspec.Struct, frozen=True):
    """What the outbox holds, over all epochs of its instance. accepted = settled + queued + dead + lost."""

    instance: str
    epoch: int
    accepted: int
    settled: int
    queued: int
    dead: int
    bytes_used: int
    oldest_recorded_at: float | None = None
    lost: int = 0


class Outbox(Protocol):
    """Keeps events until the plan store has settled them; `unshipped` does so where there is none.

    All methods may be called from the event loop.
    """

    def append(
        self, records: Sequence[OutboxRecord], durability: Durability, *, atomic: bool = False
    ) -> Awaitable[list[UsageResult]]:
        """Keeps records; the awaitable ends after their commit. One outcome per record, in order.

        ACCEPTED, or DUPLICATE / CONFLICT against what is still held. With `atomic` one CONFLICT keeps
        nothing of the call: what could have been kept is INVALID and retriable.

        Raises:
            OutboxFullError: Nothing of the call was kept.
        """
        ...

    def append_prepared(
        self, records: Sequence[PreparedRecord], durability: Durability, *, billable: bool
    ) -> asyncio.Future[list[UsageResult]]:
        """Keeps records that conflict with none; the future ends after their commit.

        Raises:
            OutboxFullError: There is no room.
            DrainingError: It is closed.
        """
        ...

    def has_room(self, *, billable: bool) -> bool:
        """Whether an event of the usual size can be kept now. Costs next to nothing."""
        ...

    async def require_room(self, events: int, *, billable: bool = True) -> None:
        """Says beforehand whether so many events of the usual size can be kept.

        Args:
            events: How many.
            billable: Whether they may be billable: the last part of the room is for those alone.

        Raises:
            OutboxFullError: They cannot: nothing may be admitted that could not be kept.
        """
        ...

    async def consumption(self, tenant_id: str, event_id: str) -> Consumption | None:
        """The first allowed answer of a CONSUME, while its event is queued and at least 60 s after."""
        ...

    async def next_batches(self, max_events: int, max_bytes: int) -> Sequence[Batch]:
        """The batches of the oldest window that are not settled in full; none when nothing waits.

        A window is up to four batches, which share no (tenant, metric), and one of corrections: they may be
        sent side by side. Its boundaries are stored before they are first returned. The next window is made
        when all batches of this one are settled, and before a correction, so that its original is there. A
        rollup whose second is not over is in none.

        Args:
            max_events: Events of one batch at most.
            max_bytes: Bytes of one batch's events at most, but for one event that is larger.

        Raises:
            OutboxStoppedError: Too many events were refused for good: somebody has to look.
        """
        ...

    async def settle(self, batch: Batch, results: Sequence[UsageResult]) -> None:
        """Deletes what the plan store has settled; what it refused for good becomes a dead letter.

        Results that are retriable stay queued.
        """
        ...

    async def declare(
        self, instance: str, epoch: int, ranges: Sequence[SequenceRange]
    ) -> tuple[SequenceRange, ...]:
        """Which of the sequences that the plan store misses will not come: to be told with the next batch.

        What is queued is on its way. Dead letters will not come. What was settled here and is missing there
        is counted as lost, once.
        """
        ...

    async def stats(self) -> OutboxStats:
        """Totals of this instance over all its epochs, and what is queued."""
        ...

    @property
    def fill(self) -> float:
        """How much of its room is taken: 0 to 1, more where single appends went beyond. Costs nothing."""
        ...

    async def close(self) -> None:
        """Commits what was appended and releases the file."""
        ...
