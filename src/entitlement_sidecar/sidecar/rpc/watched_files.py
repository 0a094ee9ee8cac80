"""Files that are read again when they change, and take effect whole or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.telemetry import metrics

LOOK_EVERY = 1.0
"""Seconds between two looks at the files."""

_log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class WatchedFile:
    """One thing that stands in a file, or in several that fit together.

    Args:
        what: Its name in logs and metrics.
        paths: Where it stands.
        load: Reads it and puts it into effect; raises ConfigurationError where it is wrong.
    """

    def __init__(self, what: str, paths: Sequence[Path], load: Callable[[], Awaitable[None]]) -> None:
        self._what = what
        self._paths = paths
        self._load = load
        self._wrong = ""
        self._seen = self._stamp()

    async def look(self) -> None:
        """Reads what has changed. What was wrong is read again each time: permissions change no stamp."""
        stamp = self._stamp()
        if stamp == self._seen and not self._wrong:
            return
        self._seen = stamp
        try:
            await self._load()
        except ConfigurationError as error:
            self._refuse(str(error))
            return
        self._wrong = ""
        metrics.files_reloaded.labels(self._what, "done").inc()
        _log.info("%s read again", ", ".join(map(str, self._paths)))

    def _refuse(self, wrong: str) -> None:
        if wrong != self._wrong:
            metrics.files_reloaded.labels(self._what, "refused").inc()
            _log.error("wrong, not taken over, and looked at again: %s", wrong)
        self._wrong = wrong

    def _stamp(self) -> _Stamp:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return status.st_mtime_ns, status.st_ino, status.st_size


class WatchedFiles:
    """Looks at files for as long as the process runs."""

    def __init__(self, files: Sequence[WatchedFile], look_every: float = LOOK_EVERY) -> None:
        """`look_every` is in seconds."""
        self._files = files
        self._look_every = look_every

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(self._look_every)
            for file in self._files:
                await file.look()
