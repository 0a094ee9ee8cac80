"""The folder that outlives the process. It belongs to one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from entitlement_sidecar.domain.errors import ConfigurationError

LOCK_NAME = "lock"


class StateFolder:
    """Holds the folder until it is closed; the system lets go of it when the process dies.

    Raises:
        ConfigurationError: It cannot be made, read or written, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"--state-dir {path}: {error.strerror}; give a folder that this user may read and write"
            ) from error
        self._hold()

    def _hold(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigurationError(
                f"--state-dir {self.path}: in use by another running process; "
                "give every sidecar a folder of its own"
            ) from error

    def close(self) -> None:
        """Lets go of the folder."""
        os.close(self._lock)
