"""Last-known snapshots in a file of the state folder, written behind by a thread of its own (DESIGN 6).

    event loop ── newest of each tenant ──▶ waiting ── half a second ──▶ writer: one transaction
    event loop ◀── verified by checksum and signature ── reader ◀── file

Bounded: beyond `max_bytes` the tenants that were confirmed longest ago go. A damaged file is set aside, a
disk that takes nothing is counted, and the sidecar goes on either way: nothing but a start with everything
away depends on it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from zlib import crc32

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.sidecar.adapters.sqlite_files import (
    CorruptFileError,
    is_corrupt,
    load_statements,
    open_private,
    open_reader,
    set_aside,
    transaction,
)
from entitlement_sidecar.sidecar.adapters.verification import counted_refusals
from entitlement_sidecar.sidecar.snapshots.ports import Fetched
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import from_microseconds, microseconds
from entitlement_sidecar.wire.envelopes import open_catalogue, open_snapshot
from entitlement_sidecar.wire.signing import BadSignatureError, KeyRing

FILE_NAME = "snapshots.db"

WRITE_BEHIND = 0.5
"""Seconds that something new waits for more, so that many changes are one transaction."""

MAX_WAITING = 16 << 20
"""Bytes that may wait for the disk; what comes beyond is counted, and not kept."""

PATIENCE = 2.0
"""Seconds that one read may take: a disk that hangs must not keep a check from its outage policy."""

_APPLICATION_ID = 0x454E5453  # "ENTS"
_SCHEMA_VERSION = 1
_CATALOGUE = ""
_NEVER = from_microseconds(0)
_SQL = load_statements("sqlite_last_known.sql")
_log = logging.getLogger(__name__)


class _Row(msgspec.Struct, frozen=True):
    """One envelope to be kept, or as it was read."""

    version: int
    confirmed_at: int
    checksum: int
    envelope: bytes


class _Waiting(msgspec.Struct):
    """What the next transaction takes. A row that is None is to be forgotten; `written` ends with it."""

    written: Future[None] = msgspec.field(default_factory=Future)
    rows: dict[str, _Row | None] = msgspec.field(default_factory=dict)
    confirmed: dict[tuple[str, int], int] = msgspec.field(default_factory=dict)
    keys: dict[str, bytes] | None = None
    size: int = 0

    def keep(self, tenant_id: str, row: _Row) -> None:
        """A version never gives way to an older one, here as on disk."""
        waits = self.rows.get(tenant_id)
        if waits is None or row.version >= waits.version:
            self.rows[tenant_id] = row
            self.size += len(row.envelope)

    def confirm(self, tenant_id: str, version: int, at: int) -> None:
        """The latest instant counts."""
        self.confirmed[tenant_id, version] = max(at, self.confirmed.get((tenant_id, version), at))


class SqliteLastKnown:
    """Implements `LastKnown`. Its methods are called on an event loop.

    Args:
        state_dir: A folder that is there, and this process' own.
        keyring: Trusted keys: what is read is verified by them, whoever wrote it.
        max_bytes: What envelopes may take on disk.
    """

    def __init__(self, state_dir: Path, keyring: KeyRing, max_bytes: int) -> None:
        self._path = state_dir / FILE_NAME
        self._keyring = keyring
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._waiting, self._taken = _Waiting(), _Waiting()
        self._wanted, self._hurry, self._closing = (threading.Event() for _ in range(3))
        self._failing = False
        self._file = _File(self._path)
        try:
            self._file.open()
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="last-known reader")
        self._writing = threading.Thread(target=self._write, name="last-known writer", daemon=True)
        self._writing.start()

    def keep(self, envelope: bytes, tenant_id: str, version: int, confirmed_at: datetime) -> None:
        """See `LastKnown`."""
        row = _Row(version, microseconds(confirmed_at), crc32(envelope), envelope)
        with self._lock:
            if self._waiting.size + len(envelope) > MAX_WAITING:
                metrics.last_known_failures.inc()
                return
            self._waiting.keep(tenant_id, row)
        self._wanted.set()

    def keep_catalogue(self, envelope: bytes, version: int) -> None:
        """See `LastKnown`."""
        self.keep(envelope, _CATALOGUE, version, _NEVER)

    def keep_keys(self, keys: Mapping[str, bytes]) -> None:
        """See `LastKnown`."""
        with self._lock:
            self._waiting.keys = dict(keys)
        self._wanted.set()

    def confirm(self, as_of: datetime, held: Sequence[tuple[str, int]]) -> None:
        """See `LastKnown`."""
        at = microseconds(as_of)
        with self._lock:
            for tenant_id, version in held:
                self._waiting.confirm(tenant_id, version, at)
        self._wanted.set()

    def forget(self, tenant_id: str) -> None:
        """See `LastKnown`."""
        with self._lock:
            if self._waiting.size > MAX_WAITING:
                metrics.last_known_failures.inc()
                return
            self._waiting.size += len(tenant_id)
            self._waiting.rows[tenant_id] = None
        self._wanted.set()

    def keys(self) -> dict[str, bytes]:
        """The public keys that were trusted last, by id. Read at once: for the start."""
        try:
            return self._file.keys()
        except (sqlite3.Error, OSError):
            metrics.last_known_failures.inc()
            return {}

    async def snapshot(self, tenant_id: str) -> Fetched | None:
        """See `LastKnown`."""
        row = await self._read(tenant_id)
        if row is None:
            return None
        with suppress(BadSignatureError):
            with counted_refusals("disk"):
                snapshot = open_snapshot(self._keyring, _intact(row), tenant_id)
            return Fetched(snapshot, Source.DISK, from_microseconds(row.confirmed_at))
        return None

    async def catalogue(self) -> CatalogueDocument | None:
        """See `LastKnown`."""
        row = await self._read(_CATALOGUE)
        if row is None:
            return None
        with suppress(BadSignatureError), counted_refusals("disk"):
            return open_catalogue(self._keyring, _intact(row))
        return None

    async def close(self) -> None:
        """Writes what waits, and lets go of the file. May be repeated."""
        self._closing.set()
        self._hurry.set()
        self._wanted.set()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._writing.join)
        await loop.run_in_executor(None, self._reading.shutdown)
        self._file.close()

    async def _read(self, tenant_id: str) -> _Row | None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._until_written(tenant_id)
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._reading, self._file.read, tenant_id)
        except (sqlite3.Error, TimeoutError):
            # Whether the file can be used further is for the writer to find out.
            metrics.last_known_failures.inc()
            return None

    async def _until_written(self, tenant_id: str) -> None:
        with self._lock:
            behind = (self._waiting, self._taken)
            written = next((one.written for one in behind if tenant_id in one.rows), None)
        if written is not None:
            self._hurry.set()
            # A reader that leaves must not take the end away from the others, nor from the writer.
            await asyncio.shield(asyncio.wrap_future(written))

    def _write(self) -> None:
        closing = False
        while not closing:
            self._wanted.wait()
            self._hurry.wait(WRITE_BEHIND)
            self._wanted.clear()
            self._hurry.clear()
            closing = self._closing.is_set()
            with self._lock:
                taken = self._taken = self._waiting
                self._waiting = _Waiting()
            try:
                self._file.write(taken)
                metrics.last_known_bytes.set(self._file.make_room(self._max_bytes))
                self._failing = False
            except Exception as error:  # noqa: BLE001 - who waits for it must not wait for ever
                self._failed(error)
            with self._lock:
                self._taken = _Waiting()
            taken.written.set_result(None)

    def _failed(self, error: Exception) -> None:
        """On the writer, or before it runs."""
        metrics.last_known_failures.inc()
        if is_corrupt(error):
            _log.error("%s: %s; set aside as %s", self._path, error, self._file.set_aside().name)
            return
        level = logging.DEBUG if self._failing else logging.WARNING
        _log.log(level, "%s: %s; snapshots are not kept on disk until it works again", self._path, error)
        self._failing = True


class _File:
    """The open file: one connection that writes and one that reads, each for a thread of its own.

    Opened again when it is needed: what was wrong with it may have passed. Raises what `sqlite3` raises.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._asides, self._read_before = 0, 0
        self._bytes: int | None = None

    def open(self) -> sqlite3.Connection:
        """The connection that writes."""
        if self._db is None:
            self._db = _open(self._path)
        return self._db

    def write(self, waiting: _Waiting) -> None:
        """Takes everything in one transaction."""
        db = self.open()
        with transaction(db):
            if waiting.keys is not None:
                db.execute(_SQL["forget_keys"])
                db.executemany(_SQL["keep_key"], waiting.keys.items())
            for tenant_id, row in waiting.rows.items():
                if row is None:
                    db.execute(_SQL["forget"], (tenant_id,))
                else:
                    db.execute(_SQL["keep"], (tenant_id, *msgspec.structs.astuple(row)))
            confirmed = ((at, tenant_id, version) for (tenant_id, version), at in waiting.confirmed.items())
            db.executemany(_SQL["confirm"], confirmed)
        if self._bytes is not None:
            # More than it is where versions replaced others: counted anew before anything goes for it.
            self._bytes += waiting.size

    def make_room(self, max_bytes: int) -> int:
        """Lets the tenants go that were confirmed longest ago, until the rest fits; what that takes."""
        db = self.open()
        if self._bytes is None or self._bytes > max_bytes:
            self._bytes = _count(db)
        while self._bytes > max_bytes and db.execute(_SQL["make_room"]).rowcount:
            self._bytes = _count(db)
        return self._bytes

    def read(self, tenant_id: str) -> _Row | None:
        """What is kept of a tenant."""
        if self._reader is not None and self._read_before != self._asides:
            self._reader.close()
            self._reader = None
        if self._reader is None:
            self._read_before = self._asides
            self._reader = open_reader(self._path)
        found = self._reader.execute(_SQL["read"], (tenant_id,)).fetchone()
        return None if found is None else _Row(*found)

    def keys(self) -> dict[str, bytes]:
        """The keys that are kept."""
        return dict(self.open().execute(_SQL["keys"]))

    def set_aside(self) -> Path:
        """Makes room for a new file. The reader follows when it reads next."""
        if self._db is not None:
            self._db.close()
        self._db, self._bytes = None, None
        self._asides += 1
        return set_aside(self._path)

    def close(self) -> None:
        """Closes both connections; no thread may use them any more."""
        for connection in (self._reader, self._db):
            if connection is not None:
                connection.close()
        self._reader = self._db = None


def _open(path: Path) -> sqlite3.Connection:
    db = open_private(path)
    try:
        is_new = not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
        if not is_new and db.execute("PRAGMA application_id").fetchone() != (_APPLICATION_ID,):
            raise CorruptFileError("holds something else than last-known snapshots")
        if not is_new and db.execute("PRAGMA user_version").fetchone() != (_SCHEMA_VERSION,):
            raise CorruptFileError("written by another version")
        db.execute("PRAGMA journal_mode = WAL")
        # A power cut may take the last transactions, and never the file.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -1000")
        if is_new:
            with transaction(db):
                for statement in filter(str.strip, _SQL["schema"].split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _count(db: sqlite3.Connection) -> int:
    [(found,)] = db.execute(_SQL["bytes"])
    return int(found)


def _intact(row: _Row) -> bytes:
    """The envelope.

    Raises:
        BadSignatureError: The disk has changed it.
    """
    if crc32(row.envelope) != row.checksum:
        raise BadSignatureError("checksum", "the disk holds something else than was written")
    return row.envelope
