"""The outbox's file as a database: how it is opened, recognised, brought up to date, written and measured."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.sidecar.adapters.sqlite_files import (
    BUSY_TIMEOUT_MS,
    CorruptFileError,
    load_statements,
    open_private,
    transaction,
)

SCHEMA_VERSION = 3
"""Version of the file that this version writes. Older files are brought up to date when opened."""

APPLICATION_ID = 0x454E544F  # "ENTO"
_SEQUENCE_BITS = 40
_SEQUENCE_MASK = (1 << _SEQUENCE_BITS) - 1
_LARGEST_INSERT = 512
_ONE_STATEMENT = 64
"""Rows up to which an insert is one statement, whatever their number: each takes the interpreter's lock."""
_CHECK_UP_TO = 64 << 20
"""Bytes up to which a file is checked in full at the start; a larger one would delay it."""

_SQL = load_statements("sqlite_outbox.sql")
encode = msgspec.json.Encoder().encode


def read_statement(name: str) -> str:
    """A statement of `sqlite_outbox.sql`."""
    return _SQL[name]


def place_of(epoch: int, sequence: int) -> int:
    """An event's epoch and sequence in one key that sorts by both."""
    return epoch << _SEQUENCE_BITS | sequence


def last_place_of(epoch: int) -> int:
    """The last place that an epoch can have."""
    return epoch << _SEQUENCE_BITS | _SEQUENCE_MASK


def epoch_of(place: int) -> int:
    """The epoch of a place."""
    return place >> _SEQUENCE_BITS


def sequence_of(place: int) -> int:
    """The sequence of a place inside its epoch."""
    return place & _SEQUENCE_MASK


class OutboxDatabase:
    """An open file of the present schema. For one thread at a time; raises what `sqlite3` raises.

    `bytes_used` is what it takes on disk, with its log, after the last commit; what grew by less than
    `measured_by` since it was measured is estimated.
    """

    measured_by = 0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self.bytes_used = 0
        self.wal_bytes = 0
        self._unmeasured = 0
        self._db = open_private(path)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        is_new = not self._run_text("SELECT 1 FROM sqlite_schema LIMIT 1")
        if not is_new:
            self._recognise()
        if self._pragma("journal_mode", "WAL") != "wal":
            raise ConfigurationError(
                f"{self._path}: this file system cannot hold the outbox; give a folder on a local disk"
            )
        # Checkpoints are taken between groups, never inside a commit that someone waits for.
        self._pragma("wal_autocheckpoint", 0)
        self._pragma("cache_size", -8000)
        self._durable = True
        self._pragma("synchronous", "FULL")
        if is_new:
            self._create()
        elif (version := self._pragma("user_version")) < SCHEMA_VERSION:
            self._migrate(version)

    def _recognise(self) -> None:
        if self._pragma("application_id") != APPLICATION_ID:
            raise CorruptFileError("not an outbox")
        if self._pragma("user_version") > SCHEMA_VERSION:
            raise ConfigurationError(
                f"{self._path}: written by a newer version; start that version, or give another --state-dir"
            )
        if self._path.stat().st_size <= _CHECK_UP_TO and self._pragma("quick_check") != "ok":
            raise CorruptFileError("the file fails its check")

    def _create(self) -> None:
        with self.transaction(durable=True):
            self._run_all("schema")
            self.run("new_instance", str(uuid.uuid4()))
            self._pragma("application_id", APPLICATION_ID)
            self._pragma("user_version", SCHEMA_VERSION)

    def _migrate(self, version: int) -> None:
        with self.transaction(durable=True):
            for following in range(version + 1, SCHEMA_VERSION + 1):
                self._run_all(f"schema_{following}")
            self._pragma("user_version", SCHEMA_VERSION)

    def _run_all(self, name: str) -> None:
        for statement in filter(str.strip, _SQL[name].split(";")):
            self._db.execute(statement)

    def _log_size(self) -> int:
        """Size of the write-ahead log, in which commits wait for a checkpoint; 0 where nobody can say."""
        try:
            return self._wal.stat().st_size
        except OSError:
            return 0

    def checkpoint(self, *, truncate: bool) -> None:
        """Moves commits from the log into the file; with `truncate` the log gives its space back."""
        self._run_text(f"PRAGMA wal_checkpoint({'TRUNCATE' if truncate else 'PASSIVE'})")
        self._measure()

    def shorten_log(self) -> None:
        """As `checkpoint` with `truncate`, but waits for nobody: the log may keep its space."""
        self._pragma("busy_timeout", 0)
        try:
            self.checkpoint(truncate=True)
        finally:
            self._pragma("busy_timeout", BUSY_TIMEOUT_MS)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @contextmanager
    def transaction(self, *, durable: bool, grows: int = 0) -> Iterator[None]:
        """All of the block or nothing; with `durable` on disk when it ends. It `grows` by bytes, roughly."""
        if durable != self._durable:
            # NORMAL leaves fsync to the next checkpoint: a killed process loses nothing, a lost machine may.
            self._pragma("synchronous", "FULL" if durable else "NORMAL")
            self._durable = durable
        with transaction(self._db):
            yield
        if grows and self._unmeasured + grows < self.measured_by:
            self._unmeasured += grows
            self.bytes_used += grows
            self.wal_bytes += grows
        else:
            self._measure()

    def _measure(self) -> None:
        # What is committed stays committed, whether or not its size can be told: the last one known stands.
        with suppress(sqlite3.Error):
            [(pages, size)] = self.run("live_pages")
            self.wal_bytes = self._log_size()
            self.bytes_used = int(pages * size) + self.wal_bytes
            self._unmeasured = 0

    def insert(self, name: str, values: Sequence[tuple[Any, ...]]) -> int:
        """Inserts rows with few statements, as `sqlite_outbox.sql` says why. How many were new."""
        inserted = start = 0
        for size in _runs(len(values)):
            row = "(" + ",".join("?" * len(values[0])) + ")"
            statement = _SQL[name].replace("{rows}", ",".join([row] * size))
            parameters = tuple(chain.from_iterable(values[start : start + size]))
            inserted += self._db.execute(statement, parameters).rowcount
            start += size
        return inserted

    def change(self, name: str, *parameters: Any) -> int:  # noqa: ANN401 - what a statement takes
        """Runs a named statement. How many rows it changed."""
        return self._db.execute(_SQL[name], parameters).rowcount

    def run(self, name: str, *parameters: Any) -> list[Any]:  # noqa: ANN401 - what a statement takes
        """Runs a named statement. The rows that it answers."""
        return self._db.execute(_SQL[name], parameters).fetchall()

    def _run_text(self, statement: str) -> list[Any]:
        return self._db.execute(statement).fetchall()

    def _pragma(self, name: str, value: str | int | None = None) -> Any:  # noqa: ANN401 - any setting's value
        rows = self._run_text(f"PRAGMA {name}" if value is None else f"PRAGMA {name}={value}")
        return rows[0][0] if rows else None


def _runs(count: int) -> Iterator[int]:
    """Sizes that add up to a count: few large ones, so that prepared statements are found again."""
    if count <= _ONE_STATEMENT:
        if count:
            yield count
        return
    size = _LARGEST_INSERT
    while count:
        while size > count:
            size //= 2
        yield size
        count -= size
