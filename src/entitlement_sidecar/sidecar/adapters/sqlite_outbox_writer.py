"""The writer thread of the outbox's file: group commit without a timer (DESIGN 8).

    event loop ──queue──▶ writer: gathers what waits ─ one transaction ─▶ one wake-up of the loop
                              ├─ nothing to do for a while, or the log is long: checkpoint
                              └─ first answers whose time is over: forgotten

While one commit runs, the next group gathers. A group is as durable as its most durable record asks. Whatever
happens to the file or to its disk, whoever waits gets an answer, and the next call finds the file open.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import msgspec

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import (
    ConfigurationError,
    OutboxFullError,
    SourceUnavailableError,
)
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_files import is_corrupt, set_aside
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_file import OutboxFile
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_leases import OpenLeases, secure
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Call, Kept
from entitlement_sidecar.sidecar.usage.outbox import KEEP_CONSUMPTIONS, Batch
from entitlement_sidecar.sidecar.usage.room import RETRY_AFTER
from entitlement_sidecar.telemetry import metrics

_PURGE_EVERY = 1.0
"""Seconds between two looks, without other work, for first answers whose time is over, or a log left over."""
_MEASURED_PART = 64
"""What is appended is measured once it may have grown by one part in so many of where a checkpoint is due."""
_SHORTEN_EVERY = 0.5
"""Seconds between two attempts to give the log's space back while somebody reads it."""
_QUIET = 0.1
"""Seconds without work that make a quiet moment."""
_LARGEST_GROUP = 4096
"""Records per commit at most: bounds how long the first of them waits."""
_ROW_OVERHEAD = 300
"""Bytes that a record takes beside its payload, roughly: keys, digest, index."""
_FAILING_DISK = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
)
_NO_WRITER = "the outbox could not keep anything; when that stays so, restart the sidecar"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Rows(msgspec.Struct, frozen=True):
    """What one call keeps: how durably, and whether all or nothing."""

    kept: list[Kept]
    durable: bool
    atomic: bool = False

    @property
    def size(self) -> int:
        """Bytes that it takes on disk, roughly."""
        return sum(map(_size, self.kept))


class _Append(msgspec.Struct, frozen=True):
    rows: Rows
    size: int
    done: asyncio.Future[list[UsageResult]]


class _Call(msgspec.Struct, frozen=True):
    run: Callable[[], Any]
    done: asyncio.Future[Any]


_Answer = tuple[asyncio.Future[Any], Any]


class OutboxWriter:
    """Does everything that changes a file, on a thread of its own. Its methods are called on an event loop.

    `file` may be another one after damage; `openings` counts how often one was opened. `waiting_bytes` is
    what waits for its commit, `leases` are those that this process has opened.

    Raises:
        ConfigurationError: The file cannot be used.
    """

    def __init__(self, path: Path, checkpoint_bytes: int, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._checkpoint_bytes = checkpoint_bytes
        self.leases = OpenLeases()
        self.file = _open(path, self.leases)
        self.file.measured_by = checkpoint_bytes // _MEASURED_PART
        self.openings = 1
        self.waiting_bytes = 0
        self._file_is_open = True
        self._queue: SimpleQueue[_Append | _Call | None] = SimpleQueue()
        self._next_up: deque[_Append | _Call | None] = deque()
        self._settlements = 0
        self._shorten_after = float("-inf")
        # What an earlier process settled counts as settled at this start.
        self._settled_at: deque[tuple[float, int]] = deque([(clock.monotonic(), 0)])
        self._ended = False
        self._thread = threading.Thread(target=self._write, name="outbox writer", daemon=True)
        self._thread.start()

    def append(self, rows: Rows) -> asyncio.Future[list[UsageResult]]:
        """Keeps events; the future ends after their commit."""
        size = rows.size
        self.waiting_bytes += size
        done: asyncio.Future[list[UsageResult]] = asyncio.get_running_loop().create_future()
        self._put(_Append(rows, size, done))
        return done

    def call(self, run: Callable[[], _T]) -> asyncio.Future[_T]:
        """Runs something on the thread."""
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._put(_Call(run, done))
        return done

    def settle(self, batch: Batch, results: Sequence[UsageResult]) -> asyncio.Future[None]:
        """Deletes what was settled; first answers stay for a while."""
        return self.call(lambda: self._settle(batch, results))

    def purge_is_due(self) -> bool:
        """Whether there are first answers whose time is over."""
        try:
            return self._is_over(self._settled_at[0])
        except IndexError:  # the thread was quicker
            return False

    def make_room(self) -> asyncio.Future[None]:
        """Forgets what may be forgotten, and makes the log give its space back."""
        return self.call(self._tidy)

    async def close(self) -> None:
        """Works off what was asked, then lets go of the file."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self.file.close()

    def _put(self, command: _Append | _Call) -> None:
        self._queue.put(command)
        if self._ended:
            self._fail_the_rest()

    # What follows runs on the writer thread.

    def _write(self) -> None:
        try:
            while (command := self._next()) is not None:
                self._work(command)
            self._attempt(lambda: secure(self.file, self.leases))
            self._checkpoint(truncate=True)
        except BaseException:  # noqa: BLE001 - nothing may end the thread in silence
            _log.critical("the outbox's writer ended: nothing is kept until a restart", exc_info=True)
        finally:
            self._ended = True
            self._fail_the_rest()

    def _work(self, command: _Append | _Call) -> None:
        """Answers a command, and what was gathered with it, whatever happens."""
        group = self._gather(command) if isinstance(command, _Append) else [command]
        answers: list[Any] = [SourceUnavailableError(_NO_WRITER)] * len(group)
        try:
            answers = self._results(group)
        except Exception:  # noqa: BLE001 - one call fails, the next one does not
            _log.exception("the outbox's writer failed; it opens the file again")
            self._close_file()
        finally:
            self._deliver([one.done for one in group], answers, sum(map(_waits_with, group)))
        self._keep_up()

    def _keep_up(self) -> None:
        """What has to be done now and then, while nobody waits for it."""
        self._attempt(self._purge)
        if self.file.wal_bytes <= self._checkpoint_bytes or not self._file_is_open:
            return
        now = self._clock.monotonic()
        if now >= self._shorten_after:
            with suppress(sqlite3.Error, OSError):  # tried again soon
                self.file.shorten_log()
            if self.file.wal_bytes > self._checkpoint_bytes:
                # A reader holds it: each attempt looks through all of it again.
                self._shorten_after = now + _SHORTEN_EVERY

    def _results(self, group: Sequence[_Append | _Call]) -> list[Any]:
        appends = [one for one in group if isinstance(one, _Append)]
        return (
            self._commit(appends)
            if appends
            else [self._attempt(o.run) for o in group if isinstance(o, _Call)]
        )

    def _fail_the_rest(self) -> None:
        """Nobody works on the queue any more: whoever waits is told. Any thread may call this."""
        with suppress(Empty, IndexError):
            while True:
                command = self._next_up.popleft() if self._next_up else self._queue.get_nowait()
                if command is not None:
                    self._deliver([command.done], [SourceUnavailableError(_NO_WRITER)], _waits_with(command))

    def _next(self) -> _Append | _Call | None:
        if self._next_up:
            return self._next_up.popleft()
        patience = _QUIET if self.file.wal_bytes else self._until_purge()
        while True:
            try:
                return self._queue.get(timeout=patience)
            except Empty:
                self._tidy()
                left_over = self._file_is_open and self.file.wal_bytes
                patience = _PURGE_EVERY if left_over else self._until_purge()

    def _settle(self, batch: Batch, results: Sequence[UsageResult]) -> None:
        self._settlements += 1
        self.file.settle(batch, results, self._settlements)
        self._settled_at.append((self._clock.monotonic(), self._settlements))

    def _over(self) -> int | None:
        """The last settlement whose first answers may be forgotten."""
        number = None
        for one in self._settled_at:
            if not self._is_over(one):
                break
            number = one[1]
        return number

    def _is_over(self, settled_at: tuple[float, int]) -> bool:
        return settled_at[0] <= self._clock.monotonic() - KEEP_CONSUMPTIONS

    def _until_purge(self) -> float | None:
        """Seconds until first answers may be forgotten; None while there are none."""
        if not self._settled_at:
            return None
        return max(_PURGE_EVERY, self._settled_at[0][0] + KEEP_CONSUMPTIONS - self._clock.monotonic())

    def _purge(self) -> None:
        number = self._over()
        if number is None:
            return
        self.file.purge_consumptions(number)
        while self._settled_at and self._settled_at[0][1] <= number:
            self._settled_at.popleft()

    def _tidy(self) -> None:
        self._attempt(self._purge)
        self._checkpoint(truncate=True)

    def _gather(self, first: _Append) -> list[_Append | _Call]:
        """Everything that was appended while the last commit ran."""
        group: list[_Append | _Call] = [first]
        records = len(first.rows.kept)
        while records < _LARGEST_GROUP:
            try:
                command = self._queue.get_nowait()
            except Empty:
                break
            if not isinstance(command, _Append):
                self._next_up.append(command)
                break
            group.append(command)
            records += len(command.rows.kept)
        return group

    def _commit(self, group: list[_Append]) -> list[Any]:
        calls = [Call(one.rows.kept, one.rows.atomic) for one in group]
        durable = any(one.rows.durable for one in group)
        began, merged = time.perf_counter(), self.file.merged
        results = self._attempt(lambda: self.file.append(calls, durable=durable))
        metrics.outbox_commit_seconds.observe(time.perf_counter() - began)
        if isinstance(results, BaseException):
            return [results] * len(group)
        # It may be another file by now, which counts from 0.
        metrics.outbox_rolled_up.inc(max(0, self.file.merged - merged))
        return results

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
            return SourceUnavailableError("somebody else holds the outbox's file", RETRY_AFTER)
        return error

    def _failing(self, error: Exception) -> OutboxFullError:
        metrics.outbox_refused.labels("disk").inc()
        _log.error("the disk of the outbox is full or failing: %s", error)
        return OutboxFullError("the disk of the outbox is full or failing", RETRY_AFTER)

    def _start_anew(self) -> BaseException:
        self._close_file()
        try:
            _set_aside(self._path)
            self._reopen()
        except (sqlite3.Error, OSError, OutboxFullError) as error:
            _log.error("no new outbox can be made, tried again with the next call: %s", error)
            return OutboxFullError("no new outbox can be made", RETRY_AFTER)
        return SourceUnavailableError("the outbox was damaged and has been replaced", 0.0)

    def _close_file(self) -> None:
        self._file_is_open = False
        with suppress(sqlite3.Error):
            self.file.close()

    def _reopen(self) -> None:
        try:
            self.file = OutboxFile(self._path, self.leases)
            self.file.measured_by = self._checkpoint_bytes // _MEASURED_PART
        except (sqlite3.Error, ConfigurationError) as error:
            if is_corrupt(error):
                raise
            raise OutboxFullError(f"the outbox cannot be opened: {error}", RETRY_AFTER) from error
        self._file_is_open = True
        self.openings += 1

    def _checkpoint(self, *, truncate: bool) -> None:
        with suppress(sqlite3.Error, OSError):  # tried again soon; what is committed is safe in the log
            self.file.checkpoint(truncate=truncate)

    def _deliver(self, waiting: list[asyncio.Future[Any]], answers: list[Any], size: int) -> None:
        try:
            waiting[0].get_loop().call_soon_threadsafe(
                self._answer, list(zip(waiting, answers, strict=True)), size
            )
        except RuntimeError:
            _log.warning("the event loop ended before %d answers of the outbox", len(waiting))

    def _answer(self, answers: list[_Answer], size: int) -> None:
        """Runs on the event loop, once per group."""
        self.waiting_bytes -= size
        for done, answer in answers:
            if done.done():
                continue
            if isinstance(answer, BaseException):
                done.set_exception(answer)
            else:
                done.set_result(answer)


def _open(path: Path, leases: OpenLeases) -> OutboxFile:
    try:
        return OutboxFile(path, leases)
    except sqlite3.DatabaseError as error:
        if not is_corrupt(error):
            raise ConfigurationError(
                f"--state-dir {path.parent}: the outbox cannot be opened: {error}"
            ) from error
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    _set_aside(path)
    return OutboxFile(path, leases)


def _waits_with(command: _Append | _Call) -> int:
    """Bytes that a command adds to what waits for its commit."""
    return command.size if isinstance(command, _Append) else 0


def _size(row: Kept) -> int:
    answer = len(row.consumption.answer) if row.consumption else 0
    return len(row.payload) + answer + _ROW_OVERHEAD


def _set_aside(path: Path) -> None:
    aside = set_aside(path)
    metrics.outbox_quarantined.inc()
    _log.error("the outbox was damaged: set aside as %s; starting with an empty one", aside)
