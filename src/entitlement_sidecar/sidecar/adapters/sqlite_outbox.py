"""The outbox on disk: SQLite, written by one thread, read on the event loop (DESIGN 8)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.clock import Clock, SystemClock
from entitlement_sidecar.domain.errors import DrainingError, SourceUnavailableError
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_files import open_reader
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import read_statement
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_leases import SqliteJournal
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Kept, kept, kept_prepared
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_writer import OutboxWriter, Rows
from entitlement_sidecar.sidecar.adapters.state_folder import StateFolder
from entitlement_sidecar.sidecar.usage.outbox import (
    USUAL_BYTES,
    Batch,
    Consumption,
    OutboxRecord,
    OutboxStats,
    PreparedRecord,
    SequenceRange,
)
from entitlement_sidecar.sidecar.usage.room import RETRY_AFTER, RoomWatch, any_billable, full, refuses
from entitlement_sidecar.telemetry import metrics

FILE_NAME = "outbox.db"

DEFAULT_MAX_BYTES = 1 << 30

_STRETCH = 20
"""Records to translate at once: about 0.2 ms of the event loop."""

_CHECKPOINT_BYTES = 16 << 20
"""Size of the log past which a checkpoint does not wait for a quiet moment."""


class SqliteOutbox:
    """Keeps events in a folder that survives restarts. Implements `Outbox`; `leases` is their journal.

    Args:
        state_dir: The folder; made if missing, held until `close`.
        max_bytes: What the outbox may take on disk.
        clock: Tells how long first answers were kept.

    Raises:
        ConfigurationError: The folder cannot be used, or another process uses it.
    """

    def __init__(
        self, state_dir: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, clock: Clock | None = None
    ) -> None:
        self._max_bytes = max_bytes
        self._clock = clock or SystemClock()
        self._path = state_dir / FILE_NAME
        self._folder = StateFolder(state_dir)
        try:
            self._writer = OutboxWriter(self._path, min(_CHECKPOINT_BYTES, max_bytes // 4), self._clock)
        except BaseException:
            self._folder.close()
            raise
        self._reader = open_reader(self._path)
        self._read_opening = self._writer.openings
        self._watch = RoomWatch()
        self.leases = SqliteJournal(self._writer, self._check_open)
        self._tidying: asyncio.Future[None] | None = None
        self._closed = False

    def append(
        self, records: Sequence[OutboxRecord], durability: Durability, *, atomic: bool = False
    ) -> Awaitable[list[UsageResult]]:
        """Keeps records; the awaitable ends after their commit. With `atomic` all or, on a conflict, none.

        Raises:
            OutboxFullError: Nothing of the call was kept.
            SourceUnavailableError: It failed, and may succeed when it is repeated.
            DrainingError: It is closed.
        """
        self._check_open()
        if len(records) > _STRETCH:
            return asyncio.ensure_future(self._append_many(records, durability, atomic=atomic))
        rows = Rows([kept(record) for record in records], durability is Durability.DURABLE, atomic)
        return self._append(rows, billable=any_billable(record.event for record in records))

    async def _append_many(
        self, records: Sequence[OutboxRecord], durability: Durability, *, atomic: bool
    ) -> list[UsageResult]:
        """As `append`; others get their turn on the event loop while records are translated."""
        translated: list[Kept] = []
        for first in range(0, len(records), _STRETCH):
            translated += [kept(record) for record in records[first : first + _STRETCH]]
            await asyncio.sleep(0)
        self._check_open()
        rows = Rows(translated, durability is Durability.DURABLE, atomic)
        return await self._append(rows, billable=any_billable(record.event for record in records))

    def _append(self, rows: Rows, *, billable: bool) -> Awaitable[list[UsageResult]]:
        if not self._has_room(rows.size, billable=billable):
            if self._writer.purge_is_due():
                return asyncio.ensure_future(self._append_after_purge(rows, billable=billable))
            self._refuse(billable=billable)
        return self._writer.append(rows)

    def append_prepared(
        self, records: Sequence[PreparedRecord], durability: Durability, *, billable: bool
    ) -> asyncio.Future[list[UsageResult]]:
        """Keeps records that conflict with none; the future ends after their commit.

        Raises:
            OutboxFullError: There is no room.
            DrainingError: It is closed.
        """
        self._check_open()
        rows = Rows([kept_prepared(record) for record in records], durability is Durability.DURABLE)
        if not self._has_room(rows.size, billable=billable):
            self._refuse(billable=billable)
        return self._writer.append(rows)

    def has_room(self, *, billable: bool) -> bool:
        """Whether an event of the usual size can be kept now."""
        return not self._closed and self._has_room(USUAL_BYTES, billable=billable)

    async def require_room(self, events: int, *, billable: bool = True) -> None:
        """Says beforehand whether so many events of the usual size can be kept.

        Raises:
            OutboxFullError: They cannot.
            DrainingError: It is closed.
        """
        self._check_open()
        size = events * USUAL_BYTES
        if not self._has_room(size, billable=billable) and self._writer.purge_is_due():
            await self._writer.make_room()
        if not self._has_room(size, billable=billable):
            self._refuse(billable=billable)

    async def _append_after_purge(self, rows: Rows, *, billable: bool) -> list[UsageResult]:
        await self._writer.make_room()
        if not self._has_room(rows.size, billable=billable):
            self._refuse(billable=billable)
        return await self._writer.append(rows)

    @property
    def fill(self) -> float:
        """How much of its room is taken, with what waits for its commit."""
        return self._taken / max(self._max_bytes, 1)

    @property
    def _taken(self) -> int:
        return self._writer.file.bytes_used + self._writer.waiting_bytes

    def _has_room(self, size: int, *, billable: bool) -> bool:
        self._watch.look(self.fill)
        return not refuses(self._taken + size, self._max_bytes, billable=billable)

    def _check_open(self) -> None:
        if self._closed:
            raise DrainingError("the outbox is closed: this process is going away")

    def _refuse(self, *, billable: bool) -> None:
        metrics.outbox_refused.labels("full" if billable else "billable_only").inc()
        # The log counts too: a checkpoint may make room without anything being shipped.
        # One at a time: callers come back sooner than it is made.
        if self._tidying is None or self._tidying.done():
            self._tidying = self._writer.make_room()
        raise full(self._taken, self._max_bytes, billable=billable)

    async def consumption(self, tenant_id: str, event_id: str) -> Consumption | None:
        """The first allowed answer of a CONSUME. Reads on the event loop: one key, mostly from memory."""
        rows = self._read("consumption", tenant_id, event_id)
        return Consumption(*rows[0]) if rows else None

    async def next_batches(self, max_events: int, max_bytes: int) -> Sequence[Batch]:
        """The batches of the oldest window that are not settled. Costs nothing while the outbox is empty."""
        self._check_open()
        if not self._writer.file.queued:
            return ()
        second = int(self._clock.now().timestamp())
        return await self._writer.call(lambda: self._writer.file.next_batches(max_events, max_bytes, second))

    async def settle(self, batch: Batch, results: Sequence[UsageResult]) -> None:
        """Deletes what was settled, in one transaction."""
        self._check_open()
        await self._writer.settle(batch, results)

    async def declare(
        self, instance: str, epoch: int, ranges: Sequence[SequenceRange]
    ) -> tuple[SequenceRange, ...]:
        """Which of the sequences that the plan store misses will not come. Counts the lost, once."""
        self._check_open()
        return await self._writer.call(lambda: self._writer.file.declare(instance, epoch, ranges))

    async def stats(self) -> OutboxStats:
        """Totals of all that this state folder ever held, and what is queued."""
        file = self._writer.file
        oldest = self._read("oldest_recorded_at") if file.queued else []
        return OutboxStats(
            instance=file.instance,
            epoch=file.epoch,
            accepted=file.accepted,
            settled=file.settled,
            queued=file.queued,
            dead=file.dead,
            lost=file.lost,
            bytes_used=file.bytes_used,
            oldest_recorded_at=oldest[0][0] / 1e6 if oldest else None,
        )

    async def close(self) -> None:
        """Commits what was appended and lets go of the folder. Closing again changes nothing."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        self._reader.close()
        self._folder.close()

    def _read(self, name: str, *parameters: str) -> list[Any]:
        try:
            if self._read_opening != self._writer.openings:
                self._read_opening = self._writer.openings
                self._reader.close()
                self._reader = open_reader(self._path)
            # Fetched to the end: a read that stays open would keep the log from being emptied.
            return self._reader.execute(read_statement(name), parameters).fetchall()
        except sqlite3.Error as error:
            raise SourceUnavailableError(f"the outbox cannot be read: {error}", RETRY_AFTER) from error
