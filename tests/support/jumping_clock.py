"""A process whose wall clock a test moves, and whose monotonic one goes on."""

from __future__ import annotations

import os
from pathlib import Path

_SHIFTING = Path(__file__).parent / "shifted_clock"


class JumpingClock:
    """A file says by how many seconds the clock of a process that has this `environment` is wrong."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        path = os.pathsep.join(filter(None, (str(_SHIFTING), os.environ.get("PYTHONPATH"))))
        self.environment = {"PYTHONPATH": path, "SHIFTED_CLOCK": str(self._file)}
        self.set(0)

    def set(self, seconds: float) -> None:
        """Lets it jump. The file is replaced as a whole: it is read at any instant."""
        written = self._file.with_suffix(".new")
        written.write_text(str(seconds))
        written.replace(self._file)
