"""The outbox on disk: SQLite, one writer thread, group commit without a timer (DESIGN 8).

    event loop ──queue──▶ writer: gathers what waits ─ one transaction ─▶ one wake-up of the loop
                              └─ nothing to do for a while, or the log is long: checkpoint

While one commit runs, the next group gathers. A group is as durable as its most durable record asks.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import msgspec

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.clock import Clock, SystemClock
from entitlement_sidecar.domain.errors import (
    ConfigurationError,
    DrainingError,
    OutboxFullError,
    SourceUnavailableError,
)
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_file import (
    Kept,
    OutboxFile,
    is_corrupt,
    open_reader,
    read_statement,
    set_aside,
)
from entitlement_sidecar.sidecar.adapters.state_folder import StateFolder
from entitlement_sidecar.sidecar.usage.outbox import Batch, Consumption, OutboxRecord, OutboxStats
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import event_to_proto, microseconds

FILE_NAME = "outbox.db"

DEFAULT_MAX_BYTES = 1 << 30

KEEP_CONSUMPTIONS = 60.0
"""Seconds that the first answer of a CONSUME is kept after its event was settled, at least."""

RETRY_FULL_AFTER = 1.0
"""Seconds after which a caller may try a full outbox again."""

_CHECKPOINT_BYTES = 16 << 20
"""Size of the log past which a checkpoint does not wait for a quiet moment."""
_QUIET = 0.1
"""Seconds without work that make a quiet moment."""
_LARGEST_GROUP = 4096
"""Records per commit at most: bounds how long the first of them waits."""
_ROW_OVERHEAD = 300
"""Bytes that a record takes beside its payload, roughly: keys, digest, index."""
_FAILING_DISK = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Append(msgspec.Struct, frozen=True):
    rows: list[Kept]
    size: int
    durable: bool
    done: asyncio.Future[list[UsageResult]]


class _Call(msgspec.Struct, frozen=True):
    run: Callable[[], Any]
    done: asyncio.Future[Any]


_Answer = tuple[asyncio.Future[Any], Any]


class SqliteOutbox:
    """Keeps events in a folder that survives restarts. Implements `Outbox`.

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
        self._clock = clock or SystemClock()
        self._max_bytes = max_bytes
        self._checkpoint_bytes = min(_CHECKPOINT_BYTES, max_bytes // 4)
        self._path = state_dir / FILE_NAME
        self._folder = StateFolder(state_dir)
        try:
            self._file = self._open()
            self._reader = open_reader(self._path)
        except BaseException:
            self._folder.close()
            raise
        self._reader_is_stale = False
        self._file_is_open = True
        self._queue: SimpleQueue[_Append | _Call | None] = SimpleQueue()
        self._next_up: deque[_Append | _Call | None] = deque()
        self._waiting_bytes = 0
        self._settlements = 0
        self._settled_at: deque[tuple[float, int]] = deque([(self._clock.monotonic(), 0)])
        self._closed = self._ended = False
        self._writer = threading.Thread(target=self._write, name="outbox writer", daemon=True)
        self._writer.start()

    def append(self, records: Sequence[OutboxRecord], durability: Durability) -> Awaitable[list[UsageResult]]:
        """Keeps records; the awaitable ends after their commit.

        Raises:
            OutboxFullError: Nothing of the call was kept.
            SourceUnavailableError: It failed, and may succeed when it is repeated.
            DrainingError: It is closed.
        """
        rows = [_kept(record) for record in records]
        size = sum(_size(row) for row in rows)
        if self._file.bytes_used + self._waiting_bytes + size > self._max_bytes:
            self._refuse()
        self._waiting_bytes += size
        done: asyncio.Future[list[UsageResult]] = asyncio.get_running_loop().create_future()
        self._put(_Append(rows, size, durability is Durability.DURABLE, done))
        return done

    def _refuse(self) -> None:
        metrics.outbox_refused.inc()
        # The log counts too: a checkpoint may make room without anything being shipped.
        self._call(lambda: self._checkpoint(truncate=True))
        raise OutboxFullError(
            f"the outbox holds {self._file.bytes_used} of {self._max_bytes} bytes; "
            "it empties when the plan store can be reached",
            RETRY_FULL_AFTER,
        )

    async def consumption(self, tenant_id: str, event_id: str) -> Consumption | None:
        """The first allowed answer of a CONSUME. Reads on the event loop: one key, mostly from memory."""
        rows = self._read("consumption", tenant_id, event_id)
        return Consumption(*rows[0]) if rows else None

    async def next_batch(self, max_events: int, max_bytes: int) -> Batch | None:
        """The oldest unsettled batch. Costs nothing while the outbox is empty."""
        if not self._file.queued:
            return None
        return await self._call(lambda: self._file.next_batch(max_events, max_bytes))

    async def settle(self, batch: Batch, results: Sequence[UsageResult]) -> None:
        """Deletes what was settled, in one transaction."""
        self._settlements += 1
        number = self._settlements
        await self._call(lambda: self._file.settle(batch, results, number))
        self._settled_at.append((self._clock.monotonic(), number))
        await self._purge()

    async def _purge(self) -> None:
        over = self._clock.monotonic() - KEEP_CONSUMPTIONS
        number = -1
        while self._settled_at and self._settled_at[0][0] <= over:
            _, number = self._settled_at.popleft()
        if number >= 0:
            await self._call(lambda: self._file.purge_consumptions(number))

    async def stats(self) -> OutboxStats:
        """Totals of all that this state folder ever held, and what is queued."""
        file = self._file
        oldest = self._read("oldest_recorded_at") if file.queued else []
        return OutboxStats(
            instance=file.instance,
            epoch=file.epoch,
            accepted=file.accepted,
            settled=file.settled,
            queued=file.queued,
            dead=file.dead,
            bytes_used=file.bytes_used,
            oldest_recorded_at=oldest[0][0] / 1e6 if oldest else None,
        )

    async def close(self) -> None:
        """Commits what was appended and lets go of the folder. Closing again changes nothing."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._writer.join)
        self._reader.close()
        self._file.close()
        self._folder.close()

    def _open(self) -> OutboxFile:
        try:
            return OutboxFile(self._path)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise ConfigurationError(
                    f"--state-dir {self._path.parent}: the outbox cannot be opened: {error}"
                ) from error
        except OSError as error:
            raise ConfigurationError(f"{self._path}: {error.strerror}") from error
        _set_aside(self._path)
        return OutboxFile(self._path)

    def _read(self, name: str, *parameters: str) -> list[Any]:
        try:
            if self._reader_is_stale:
                self._reader_is_stale = False
                self._reader.close()
                self._reader = open_reader(self._path)
            # Fetched to the end: a read that stays open would keep the log from being emptied.
            return self._reader.execute(read_statement(name), parameters).fetchall()
        except sqlite3.Error as error:
            raise SourceUnavailableError(f"the outbox cannot be read: {error}", RETRY_FULL_AFTER) from error

    def _call(self, run: Callable[[], _T]) -> asyncio.Future[_T]:
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._put(_Call(run, done))
        return done

    def _put(self, command: _Append | _Call) -> None:
        if self._closed:
            raise DrainingError("the outbox is closed: this process is going away")
        self._queue.put(command)
        if self._ended:
            self._fail_the_rest()

    # What follows runs on the writer thread.

    def _write(self) -> None:
        try:
            while (command := self._next()) is not None:
                self._work(command)
            self._checkpoint(truncate=True)
        except BaseException:
            _log.critical("the outbox's writer ended: nothing is kept until a restart", exc_info=True)
        finally:
            self._ended = True
            self._fail_the_rest()

    def _work(self, command: _Append | _Call) -> None:
        if isinstance(command, _Append):
            group = self._gather(command)
            self._deliver([one.done for one in group], self._commit(group), sum(o.size for o in group))
        else:
            self._deliver([command.done], [self._attempt(command.run)], 0)
        if self._file.wal_bytes > self._checkpoint_bytes:
            self._checkpoint(truncate=False)

    def _fail_the_rest(self) -> None:
        """Nobody works on the queue any more: whoever waits is told. Any thread may call this."""
        with suppress(Empty, IndexError):
            while True:
                command = self._next_up.popleft() if self._next_up else self._queue.get_nowait()
                if command is not None:
                    error = SourceUnavailableError("the outbox's writer has ended; restart the sidecar")
                    size = command.size if isinstance(command, _Append) else 0
                    self._deliver([command.done], [error], size)

    def _next(self) -> _Append | _Call | None:
        if self._next_up:
            return self._next_up.popleft()
        try:
            return self._queue.get(timeout=_QUIET if self._file.wal_bytes else None)
        except Empty:
            self._checkpoint(truncate=True)
            return self._queue.get()

    def _gather(self, first: _Append) -> list[_Append]:
        """Everything that was appended while the last commit ran."""
        group, records = [first], len(first.rows)
        while records < _LARGEST_GROUP:
            try:
                command = self._queue.get_nowait()
            except Empty:
                break
            if not isinstance(command, _Append):
                self._next_up.append(command)
                break
            group.append(command)
            records += len(command.rows)
        return group

    def _commit(self, group: list[_Append]) -> list[Any]:
        rows = [row for one in group for row in one.rows]
        durable = any(one.durable for one in group)
        began = time.perf_counter()
        results = self._attempt(lambda: self._file.append(rows, durable=durable))
        metrics.outbox_commit_seconds.observe(time.perf_counter() - began)
        if isinstance(results, BaseException):
            return [results] * len(group)
        answers, start = [], 0
        for one in group:
            answers.append(results[start : start + len(one.rows)])
            start += len(one.rows)
        return answers

    def _attempt(self, run: Callable[[], _T]) -> _T | BaseException:
        """Its result, or the error that callers are told."""
        try:
            if not self._file_is_open:
                self._reopen()
            return run()
        except sqlite3.Error as error:
            return self._explain(error)
        except OSError as error:
            return self._failing(error)
        except Exception as error:  # noqa: BLE001 - goes to whoever asked
            return error

    def _explain(self, error: sqlite3.Error) -> BaseException:
        if is_corrupt(error):
            return self._start_anew()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _FAILING_DISK:
            # Room in the log is room for the deletions that settlements are made of.
            self._checkpoint(truncate=False)
            return self._failing(error)
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return SourceUnavailableError("somebody else holds the outbox's file", RETRY_FULL_AFTER)
        return error

    def _failing(self, error: Exception) -> OutboxFullError:
        metrics.outbox_refused.inc()
        _log.error("the disk of the outbox is full or failing: %s", error)
        return OutboxFullError("the disk of the outbox is full or failing", RETRY_FULL_AFTER)

    def _start_anew(self) -> BaseException:
        self._file.close()
        self._file_is_open = False
        try:
            _set_aside(self._path)
            self._reopen()
        except (sqlite3.Error, OSError, OutboxFullError) as error:
            _log.error("no new outbox can be made, tried again with the next call: %s", error)
            return OutboxFullError("no new outbox can be made", RETRY_FULL_AFTER)
        return SourceUnavailableError("the outbox was damaged and has been replaced", 0.0)

    def _reopen(self) -> None:
        try:
            self._file = OutboxFile(self._path)
        except ConfigurationError as error:
            raise OutboxFullError(str(error), RETRY_FULL_AFTER) from error
        self._file_is_open = self._reader_is_stale = True

    def _checkpoint(self, *, truncate: bool) -> None:
        with suppress(sqlite3.Error, OSError):  # tried again soon; what is committed is safe in the log
            self._file.checkpoint(truncate=truncate)

    def _deliver(self, waiting: list[asyncio.Future[Any]], answers: list[Any], size: int) -> None:
        try:
            waiting[0].get_loop().call_soon_threadsafe(
                self._answer, list(zip(waiting, answers, strict=True)), size
            )
        except RuntimeError:
            _log.warning("the event loop ended before %d answers of the outbox", len(waiting))

    def _answer(self, answers: list[_Answer], size: int) -> None:
        """Runs on the event loop, once per group."""
        self._waiting_bytes -= size
        for done, answer in answers:
            if done.done():
                continue
            if isinstance(answer, BaseException):
                done.set_exception(answer)
            else:
                done.set_result(answer)


def _kept(record: OutboxRecord) -> Kept:
    event = record.event
    return Kept(
        event.tenant_id,
        event.id,
        event.digest(),
        microseconds(event.recorded_at),
        event_to_proto(event).SerializeToString(),
        record.consumption,
    )


def _size(row: Kept) -> int:
    answer = len(row.consumption.answer) if row.consumption else 0
    return len(row.payload) + answer + _ROW_OVERHEAD


def _set_aside(path: Path) -> None:
    aside = set_aside(path)
    metrics.outbox_quarantined.inc()
    _log.error("the outbox was damaged: set aside as %s; starting with an empty one", aside)
