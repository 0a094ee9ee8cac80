"""A look into an outbox's file: while a sidecar writes it, after it has stopped, and when it is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome
from entitlement_sidecar.sidecar.adapters.sqlite_files import load_statements, open_reader
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    epoch_of,
    place_of,
)
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_leases import account_of
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Row
from entitlement_sidecar.sidecar.leases.journal import LeaseAccount

QUEUED, DEAD = "queued", "dead"

_PAGE = 500
"""Rows of one read: a longer one would keep the writer's log from being emptied."""
_MOST_PROBES = 5_000_000
"""Places that are tried one by one between two damaged parts."""
_END = (1 << 63) - 1

_SQL = load_statements("sqlite_outbox_reading.sql")


class Stored(msgspec.Struct, frozen=True):
    """A row of the file. Only what is queued has a digest; only a dead letter has an outcome and a reason."""

    place: int
    tenant_id: str
    event_id: str
    payload: bytes
    value: int | None
    count: int | None
    digest: bytes | None
    outcome: int | None
    reason: str

    @property
    def outcome_name(self) -> str:
        """The outcome in words."""
        return "" if self.outcome is None else UsageOutcome(self.outcome).name

    def event(self) -> UsageEvent | None:
        """The event; None where its bytes are damaged."""
        try:
            return Row(self.event_id, self.payload, self.value, self.count).event()
        except Exception:  # noqa: BLE001 - damaged bytes may be anything
            return None


class Epoch(msgspec.Struct, frozen=True):
    """Totals of one start. `queued` and `buried` are what is really held, the others what was counted."""

    epoch: int
    accepted: int
    settled: int
    dead: int
    lost: int
    queued: int
    buried: int


class StoredBatch(msgspec.Struct, frozen=True):
    """Boundaries as they are stored, and how many events of the batch wait. None: of all lanes."""

    batch_id: int
    first: int
    last: int
    lane: int | None
    waiting: int


class OutboxReader:
    """Reads a file and changes nothing in it.

    Raises:
        ConfigurationError: There is no such file, or it is no outbox that this version can read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not _is_file(path):
            raise ConfigurationError(f"{path}: there is no such file; give the --state-dir of a sidecar")
        try:
            self._db = open_reader(path)
        except sqlite3.Error as error:
            raise ConfigurationError(f"{path}: cannot be opened: {error}") from error
        try:
            self._recognise()
        except BaseException:
            self._db.close()
            raise

    def _recognise(self) -> None:
        try:
            application, version = self._pragma("application_id"), self._pragma("user_version")
        except sqlite3.Error as error:
            raise ConfigurationError(f"{self.path}: cannot be read: {error}") from error
        if application != APPLICATION_ID:
            raise ConfigurationError(f"{self.path}: is not an outbox")
        if version > SCHEMA_VERSION:
            raise ConfigurationError(f"{self.path}: written by a newer version; read it with that version")
        for following in range(version + 1, SCHEMA_VERSION + 1):
            with suppress(sqlite3.Error):  # a damaged file may lack a table
                self._db.executescript(_SQL[f"as_version_{following}"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    @property
    def instance(self) -> str:
        """The identity of the file."""
        return str(self._run("instance")[0][0])

    @property
    def first_answers(self) -> int:
        """First answers of CONSUMEs that are kept."""
        return int(self._run("first_answers")[0][0])

    @property
    def bytes_used(self) -> int:
        """What it takes on disk with its log, as the sidecar counts it."""
        [(pages, size)] = self._run("live_pages")
        log = self.path.with_name(self.path.name + "-wal")
        return int(pages * size) + (log.stat().st_size if log.exists() else 0)

    def one_instant(self) -> None:
        """From here on everything is read as of one instant, until `close`."""
        self._db.execute("BEGIN")

    def epochs(self) -> list[Epoch]:
        """Totals of every start."""
        return [Epoch(*row) for row in self._run("epochs")]

    def batches(self) -> list[StoredBatch]:
        """Boundaries that are stored."""
        return [StoredBatch(*row) for row in self._run("batches")]

    def leases(self) -> list[LeaseAccount]:
        """Accounts of leases that are not settled, of this start and of earlier ones."""
        return [account_of(row) for row in self._run("leases")]

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file."""
        try:
            found = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check")]
        except sqlite3.Error as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    def rows(self, what: str) -> Iterator[Stored]:
        """Everything that is queued, or every dead letter, in order. Raises `sqlite3.Error` on damage."""
        return self._rows(what, -1)

    def readable(self, what: str) -> Iterator[Stored]:
        """All that can be read: up to the first damage, back to the last one, then what is in between."""
        after, before = -1, _END
        try:
            for row in self._rows(what, after):
                after = row.place
                yield row
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                for row in self._rows_backwards(what, after):
                    before = row.place
                    yield row
                return
            yield from self._between(what, after, before)

    def _rows(self, what: str, after: int) -> Iterator[Stored]:
        statement = _SQL[what].replace("{direction}", "")
        found = True
        while found:
            found = False
            for row in self._db.execute(statement, (after, _END, _PAGE)):
                found, after = True, row[0]
                yield Stored(*row)

    def _rows_backwards(self, what: str, after: int) -> Iterator[Stored]:
        statement = _SQL[what].replace("{direction}", "DESC")
        before, found = _END, True
        while found:
            found = False
            for row in self._db.execute(statement, (after, before, _PAGE)):
                found, before = True, row[0]
                yield Stored(*row)

    def _between(self, what: str, after: int, before: int) -> Iterator[Stored]:
        statement = _SQL[what].replace("{direction}", "")
        for place in islice(self._places(after, before), _MOST_PROBES):
            with suppress(sqlite3.Error):
                for row in self._db.execute(statement, (place - 1, place + 1, 1)):
                    yield Stored(*row)

    def _places(self, after: int, before: int) -> Iterator[int]:
        """Places that were given, between two."""
        if epoch_of(after) == epoch_of(before):
            yield from range(after + 1, before)
            return
        with suppress(sqlite3.Error):
            for epoch, accepted in self._run("accepted"):
                first, last = place_of(epoch, 1), place_of(epoch, accepted)
                yield from range(max(first, after + 1), min(last + 1, before))

    def _run(self, name: str) -> list[Any]:
        return self._db.execute(_SQL[name]).fetchall()

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; the user of the sidecar may read it") from error


def damaged_files(path: Path) -> list[Path]:
    """Files that were set aside because they were damaged, the oldest first."""
    numbers = {one: one.name.rpartition("-")[2] for one in path.parent.glob(f"{path.name}.corrupt-*")}
    # Companions, and what people made of such a file, end otherwise.
    return sorted((one for one in numbers if numbers[one].isdecimal()), key=lambda one: int(numbers[one]))
