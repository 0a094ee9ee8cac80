"""How much a sidecar asks for: what it uses in a few seconds (DESIGN 7)."""

from __future__ import annotations

import math

AHEAD = 5.0
"""Seconds of use that a lease is to last."""

LOW_WATER = 0.3
"""Where less than this part is left, more is asked for in the background."""

MAX_LEASE = 1_000_000
"""Tokens that one lease holds at most; more at once goes to the authority."""

_SETTLING = 1.0
"""Seconds of observation that count beside those that there were: one use is no rate yet."""


class Rate:
    """Tokens a second, as an exponential average over about `AHEAD` seconds."""

    __slots__ = ("_at", "_seconds", "_used")

    def __init__(self, now: float) -> None:
        self._at = now
        self._used = 0.0
        self._seconds = 0.0

    def add(self, used: int, now: float) -> None:
        """So much was used, or wanted, since the last call."""
        passed = max(0.0, now - self._at)
        fading = math.exp(-passed / AHEAD)
        self._used = self._used * fading + used
        self._seconds = self._seconds * fading + passed
        self._at = now

    @property
    def size(self) -> int:
        """Tokens that a lease is to have."""
        return max(1, min(MAX_LEASE, math.ceil(self._used / (self._seconds + _SETTLING) * AHEAD)))
