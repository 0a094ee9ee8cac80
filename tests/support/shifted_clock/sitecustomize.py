"""Imported by an interpreter that finds this folder on its path: shifts the product's wall clock.

`SHIFTED_CLOCK` names a file with seconds, read each time: the clock jumps when the file changes.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

from entitlement_sidecar.domain.clock import SystemClock

_FILE = Path(os.environ["SHIFTED_CLOCK"])
_right = SystemClock.now


def _shifted(clock: SystemClock) -> datetime:
    return _right(clock) + timedelta(seconds=float(_FILE.read_text()))


SystemClock.now = _shifted  # type: ignore[method-assign]  # the only way into another process' clock
