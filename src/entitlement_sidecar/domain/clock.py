"""Time is passed in. `testing.FakeClock` is the twin."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two readings: the wall clock for windows and stamps, the monotonic one for ages."""

    def now(self) -> datetime:
        """The wall clock, in UTC. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed instant. Never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()
