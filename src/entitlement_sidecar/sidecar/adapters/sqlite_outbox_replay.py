"""Usage put back into an outbox that no process uses: dead letters, and what a damaged file still tells."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from entitlement_sidecar.domain.errors import ConfigurationError, OutboxFullError
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome
from entitlement_sidecar.sidecar.adapters.sqlite_files import is_corrupt
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_file import OutboxFile
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Call, kept_apart
from entitlement_sidecar.sidecar.adapters.state_folder import StateFolder
from entitlement_sidecar.sidecar.usage.outbox import OutboxRecord

_PAGE = 500
"""Events of one transaction."""
_LOG_BYTES = 16 << 20
"""Size of the log from which on it is moved into the file."""


class StoppedOutbox:
    """The outbox of a sidecar that does not run; nobody else can use it meanwhile.

    Raises:
        ConfigurationError: A process uses it, or it cannot be opened.
        OutboxFullError: The disk takes nothing more.
    """

    def __init__(self, file: OutboxFile) -> None:
        self._file = file

    @classmethod
    @contextmanager
    def at(cls, path: Path) -> Iterator[StoppedOutbox]:
        """Opens the file, and holds its folder until the block ends."""
        folder = _held(path.parent)
        try:
            with _explained(path):
                file = OutboxFile(path)
                try:
                    yield cls(file)
                finally:
                    file.close()
        finally:
            folder.close()

    def revive(self, places: Sequence[int]) -> int:
        """Queues dead letters again. How many: one whose identity is queued already stays."""
        return self._file.revive(places)

    def discard(self, places: Sequence[int]) -> int:
        """Gives dead letters up: they count as lost. How many."""
        return self._file.discard(places)

    def put_back(self, events: Iterable[UsageEvent]) -> Iterator[Counter[UsageOutcome]]:
        """Queues events; after each page that is on disk, what became of it."""
        waiting = iter(events)
        while page := list(islice(waiting, _PAGE)):
            rows = [kept_apart(OutboxRecord(event)) for event in page]
            [results] = self._file.append([Call(rows)], durable=True)
            if self._file.wal_bytes > _LOG_BYTES:
                self._file.checkpoint(truncate=False)
            yield Counter(result.outcome for result in results)


def _held(folder: Path) -> StateFolder:
    try:
        return StateFolder(folder)
    except ConfigurationError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise ConfigurationError(
                f"--state-dir {folder}: a sidecar is running on it; stop it, replay, and start it again"
            ) from error
        raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if is_corrupt(error):
            raise ConfigurationError(
                f"{path}: is damaged: a sidecar that starts sets it aside; then replay from that file"
            ) from error
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            raise OutboxFullError(f"{path}: the disk is full or failing: {error}") from error
        raise ConfigurationError(f"{path}: cannot be written: {error}") from error
