"""Snapshots from a file: for tests, and for sites without a plan store.

The file is the plan store's word: a tenant that it does not name does not exist, nor does one that it
names no longer. It is looked at once a second; a changed one is read whole and takes effect whole. While it
is gone or bad the last good one is served, and nothing confirms it: answers say STALE until it is good again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import InvalidInputError, TenantUnknownError
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.snapshots.ports import (
    Beat,
    Began,
    CatalogueChanged,
    Changed,
    FeedEvent,
    Fetched,
    Gone,
    Position,
)
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.snapshot_file import compile_file, load_snapshot_file

LOOK_EVERY = 1.0
"""Seconds between two looks at the file."""

_log = logging.getLogger(__name__)


class FileSnapshots:
    """Both ports in one: the file's snapshots, and the feed of its changes."""

    def __init__(self, path: Path, clock: Clock, look_every: float = LOOK_EVERY) -> None:
        """Reads the file for the first time; `look_every` is in seconds.

        Raises:
            InvalidInputError: It is not a good snapshot file.
        """
        self._path = path
        self._look_every = look_every
        self._wrong = ""
        self._clock = clock
        self._version = 0
        self._seen = self._stamp()
        self._document, self._snapshots = self._read()
        self._good_at = clock.now()

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """A tenant as the file has it.

        Raises:
            TenantUnknownError: The file does not name it.
        """
        snapshot = self._snapshots.get(tenant_id)
        if snapshot is None:
            raise TenantUnknownError(tenant_id)
        if snapshot.version < min_version:
            return None
        return Fetched(snapshot, Source.DISK, self._clock.now() if not self._wrong else self._good_at)

    async def catalogue(self) -> CatalogueDocument:
        """The file's catalogue."""
        return self._document

    def everything(self) -> list[Fetched]:
        """Every tenant, to be held from the start."""
        return [Fetched(snapshot, Source.DISK, self._good_at) for snapshot in self._snapshots.values()]

    async def events(self) -> AsyncIterator[FeedEvent]:
        """A beat each second, and what changed when the file did."""
        yield Began(self._position(), shards=1)
        while True:
            # A bad one is read again without a change that shows: it may be its permissions that were wrong.
            if self._wrong or self._stamp() != self._seen:
                for event in self._reload():
                    yield event
            if not self._wrong:
                self._good_at = self._clock.now()
                yield Beat(self._position(), self._good_at)
            await asyncio.sleep(self._look_every)

    def _position(self) -> Position:
        return Position(0, str(self._path), self._version)

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0)
        return status.st_mtime_ns, status.st_ino

    def _read(self) -> tuple[CatalogueDocument, dict[str, Snapshot]]:
        file = load_snapshot_file(self._path)
        self._version += 1
        return compile_file(file, self._clock.now(), self._version)

    def _reload(self) -> list[FeedEvent]:
        self._seen = self._stamp()
        before = self._snapshots
        try:
            self._document, self._snapshots = self._read()
        except InvalidInputError as error:
            self._refuse(str(error))
            return []
        self._wrong = ""
        _log.info("%s read again: %d tenants", self._path, len(self._snapshots))
        position = self._position()
        return [
            CatalogueChanged(position, self._version, self._document),
            *(Changed(position, tenant, self._version, one) for tenant, one in self._snapshots.items()),
            *(Gone(position, tenant) for tenant in before.keys() - self._snapshots.keys()),
        ]

    def _refuse(self, wrong: str) -> None:
        if wrong != self._wrong:
            metrics.source_errors.labels("file").inc()
            _log.error("keeping the last good snapshots: %s", wrong)
        self._wrong = wrong
