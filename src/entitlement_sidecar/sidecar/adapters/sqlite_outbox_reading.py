"""The outbox's file as operators look at it: beside a running sidecar, or without one. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome
from entitlement_sidecar.sidecar.adapters.sqlite_files import open_reader
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import read_statement
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Row

PAGE = 500
"""Records that are read at a time."""


class EpochTotals(msgspec.Struct, frozen=True):
    """The books of one start, and what is really held of it."""

    epoch: int
    accepted: int
    settled: int
    dead: int
    lost: int
    queued: int
    dead_letters: int

    @property
    def balanced(self) -> bool:
        """Whether each event that was accepted is accounted for."""
        held = self.settled + self.queued + self.dead_letters + self.lost
        return self.accepted == held and self.dead == self.dead_letters


class HeldRecord(msgspec.Struct, frozen=True):
    """A record that waits, as it is stored. `digest` is empty for a rollup."""

    place: int
    tenant_id: str
    event_id: str
    digest: bytes
    lane: int
    row: Row

    def event(self) -> UsageEvent:
        """The event, as it is sent."""
        return self.row.event()


class DeadLetter(msgspec.Struct, frozen=True):
    """An event that was refused for good, and why."""

    place: int
    tenant_id: str
    event_id: str
    outcome: UsageOutcome
    reason: str
    row: Row

    def event(self) -> UsageEvent:
        """The event, as it was sent."""
        return self.row.event()


class StoredBatch(msgspec.Struct, frozen=True):
    """Boundaries of a batch; without a lane it has all of them."""

    batch_id: int
    first_place: int
    last_place: int
    lane: int | None


class OutboxReading:
    """Reads a file of the present schema. Raises what `sqlite3` raises; each read sees one instant."""

    def __init__(self, path: Path) -> None:
        self._db = open_reader(path)

    def instance(self) -> str:
        """The identity of the file."""
        return str(self._run("read_instance")[0][0])

    def totals(self) -> list[EpochTotals]:
        """The books of each start."""
        return [EpochTotals(*row) for row in self._run("epoch_totals")]

    def records(self, after: int = 0, limit: int = PAGE) -> list[HeldRecord]:
        """A page of what waits, in order, behind a place."""
        return [
            HeldRecord(*row[:5], Row(row[2], *row[5:])) for row in self._run("records_page", after, limit)
        ]

    def all_records(self) -> Iterator[HeldRecord]:
        """Everything that waits, in order, with a page of it in memory."""
        after = 0
        while page := self.records(after):
            yield from page
            after = page[-1].place

    def dead_letters(self, after: int = 0, limit: int = PAGE) -> list[DeadLetter]:
        """A page of dead letters, in order, behind a place."""
        return [_dead_letter(row) for row in self._run("dead_letters_page", after, limit)]

    def all_dead_letters(self) -> Iterator[DeadLetter]:
        """Every dead letter, in order, with a page of them in memory."""
        after = 0
        while page := self.dead_letters(after):
            yield from page
            after = page[-1].place

    def batches(self) -> list[StoredBatch]:
        """The window under way."""
        return [StoredBatch(*row) for row in self._run("batches")]

    def damage(self) -> list[str]:
        """What SQLite finds wrong in the file, in its words; nothing where all is well."""
        found = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check").fetchall()]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    def _run(self, name: str, *parameters: int) -> list[Any]:
        return self._db.execute(read_statement(name), parameters).fetchall()


def _dead_letter(row: tuple[Any, ...]) -> DeadLetter:
    place, tenant_id, event_id, outcome, reason, *rest = row
    return DeadLetter(place, tenant_id, event_id, UsageOutcome(outcome), reason, Row(event_id, *rest))
