"""Gives events their places: each its own, but for those that are summed up in an open record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import epoch_of, sequence_of
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Kept, payload_of
from entitlement_sidecar.sidecar.usage.rollup import (
    Key,
    OpenRollups,
    Sum,
    add,
    rollup_id,
    rollup_key,
    second_of,
)


class Placed(msgspec.Struct):
    """What a group of events becomes in the file, as rows of its tables.

    `sums` are the records that were opened or have grown, by second and key.
    """

    records: list[tuple[Any, ...]]
    answers: list[tuple[Any, ...]]
    rolled_answers: list[tuple[Any, ...]]
    sums: dict[tuple[int, Key], Sum]
    grown: dict[int, Sum]
    merged: int = 0


class Placing:
    """Places of one start, from its first. What is placed counts once `keep` says that it was committed."""

    def __init__(self, instance: str, first_place: int) -> None:
        self._instance = instance
        self.next_place = first_place
        self.rollups = OpenRollups()

    def place(self, rows: Sequence[Kept]) -> Placed:
        """Gives rows their places, in order."""
        placed = Placed([], [], [], {}, {})
        place = self.next_place
        records, answers = placed.records, placed.answers
        for row in rows:
            if row.rollup is not None:
                place += self._roll_up(row, row.rollup, place, placed)
                continue
            records.append(
                (place, row.tenant_id, row.event_id, row.digest, row.recorded_at, row.payload, row.lane)
            )
            if row.consumption is not None:
                answers.append(_answer(row, None))
            place += 1
        return placed

    def keep(self, placed: Placed) -> None:
        """What was placed is committed: the next places follow."""
        self.next_place += len(placed.records)
        for (second, key), total in placed.sums.items():
            self.rollups.keep(second, key, total)

    def _roll_up(self, row: Kept, event: UsageEvent, place: int, placed: Placed) -> int:
        """Adds an event to the record that it is summed up in. 1 where that is a new one, else 0."""
        second, key = second_of(event), rollup_key(event)
        before = placed.sums.get((second, key)) or self.rollups.find(second, key)
        total = add(before, event) if before is not None else None
        is_new = total is None
        if total is None:
            total = Sum(place, event.value, event.count)
            placed.records.append(self._record(row, event, place))
        placed.merged += not is_new
        placed.sums[second, key] = placed.grown[total.place] = total
        if row.consumption is not None:
            placed.rolled_answers.append(_answer(row, total.place))
        return is_new

    def _record(self, row: Kept, event: UsageEvent, place: int) -> tuple[Any, ...]:
        identity = rollup_id(self._instance, epoch_of(place), sequence_of(place), second_of(event))
        return place, row.tenant_id, identity, b"", row.recorded_at, payload_of(event), row.lane


def _answer(row: Kept, rolled_into: int | None) -> tuple[Any, ...]:
    if row.consumption is None:
        return ()
    return row.tenant_id, row.event_id, row.consumption.quantity, row.consumption.answer, rolled_into
