"""How much a sidecar asks for: what it uses in a few seconds (DESIGN 7)."""

from __future__ import annotations

import math

AHEAD = 5.0
"""Seconds of use that a lease is to last."""

FAR_AHEAD = 10.0
"""The same where plenty is left: half as many calls, and nobody misses what lies here meanwhile."""

PLENTY = 100
"""There is plenty where so many leases that last `FAR_AHEAD` are left."""

LOW_WATER = 1.5
"""Where less is left than is used in so many seconds, more is asked for in the background."""

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
    def low(self) -> int:
        """Tokens below which more is asked for."""
        return int(self._per_second * LOW_WATER)

    def size(self, there: float) -> int:
        """Tokens that a lease is to have where so many are there for others."""
        far = self._lasting(FAR_AHEAD)
        return far if there >= PLENTY * far else self._lasting(AHEAD)

    @property
    def _per_second(self) -> float:
        return self._used / (self._seconds + _SETTLING)

    def _lasting(self, seconds: float) -> int:
        return max(1, min(MAX_LEASE, math.ceil(self._per_second * seconds)))
