"""Rollups: events of one second that are alike but for their value, as one record with sum and count.

    append ──▶ open record of its second? ──yes──▶ value and count grow
                       └─no──▶ a new record, open until its second is over

What they give up is their own identity and correlation; what they keep is exactly-once delivery, because the
record is one like any other once its second is over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import msgspec

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.sidecar.usage.outbox import OutboxRecord

_SECONDS_OPEN = 2
"""Seconds whose records can grow at a time: calls that were judged in one may be kept in the next."""

Key = tuple[Hashable, ...]
"""What events of one second have in common when they are rolled up."""


class Sum(msgspec.Struct, frozen=True):
    """A record that can still grow: its place, and what it stands for."""

    place: int
    value: int
    count: int


def rolls_up(record: OutboxRecord) -> bool:
    """Whether it is summed up. What says something about one certain event never is."""
    return record.rollup and not (record.event.corrects or record.event.consumption_id)


def second_of(event: UsageEvent) -> int:
    """The second that it was recorded in, since 1970."""
    return int(event.recorded_at.timestamp())


def rollup_key(event: UsageEvent) -> Key:
    """What it has in common with those that it is summed up with."""
    return (
        event.tenant_id,
        event.metric,
        event.unit,
        int(event.occurred_at.timestamp()),
        event.subject,
        event.actor_id,
        event.emitter,
        event.feature,
        event.lease_id,
        event.classification,
        event.rule,
        event.registry_version,
        event.recorded_by,
        tuple(sorted(event.dimensions.items())),
    )


def rollup_id(instance: str, epoch: int, sequence: int, second: int) -> str:
    """Identity of a rolled-up record: its place, and its second, since 1970.

    A state folder that was restored from a copy gives places a second time, but no second comes again.
    """
    text = f"{instance}/{epoch}/{sequence}/{second}"
    return f"r-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def rolled_up(event: UsageEvent, identity: str, value: int, count: int) -> UsageEvent:
    """The event that a record is sent as. It is correlated with itself, with no one piece of work."""
    return msgspec.structs.replace(
        event, id=identity, correlation_id=identity, value=value, count=count, id_generated=False
    )


class OpenRollups:
    """Records that can still grow, by second and key. What is planned counts once it is kept."""

    def __init__(self) -> None:
        self._seconds: dict[int, dict[Key, Sum]] = {}

    def find(self, second: int, key: Key) -> Sum | None:
        """The open record of a key."""
        return self._seconds.get(second, {}).get(key)

    def keep(self, second: int, key: Key, total: Sum) -> None:
        """Opens a record, or notes that it has grown. Bounded: seconds that are long over are closed."""
        if second not in self._seconds:
            while len(self._seconds) >= _SECONDS_OPEN:
                del self._seconds[min(self._seconds)]
            self._seconds[second] = {}
        self._seconds[second][key] = total

    def close_all_but(self, second: int) -> None:
        """Records of other seconds grow no more: they are over, or a clock went back."""
        self._seconds = {one: sums for one, sums in self._seconds.items() if one == second}

    def first_place(self) -> int | None:
        """The first place that can still grow."""
        return min((one.place for sums in self._seconds.values() for one in sums.values()), default=None)


def add(total: Sum, event: UsageEvent) -> Sum | None:
    """A record with one event more; None where its sum would be too large to be told."""
    if total.value + event.value > MAX_QUANTITY:
        return None
    return Sum(total.place, total.value + event.value, total.count + event.count)
