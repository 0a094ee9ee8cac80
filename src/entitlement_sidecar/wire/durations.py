"""Durations as files write them: a number and its unit, such as 90s, 15m, 24h or 7d."""

from __future__ import annotations

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
"""Seconds of each unit, the longest first."""


def parse_duration(text: str) -> float:
    """Seconds of a duration that the schema accepts."""
    return float(int(text[:-1]) * _UNITS[text[-1]])


def write_duration(seconds: float) -> str:
    """Whole seconds, in the longest unit that says them without a rest."""
    whole = int(seconds)
    unit = next(name for name, length in _UNITS.items() if whole % length == 0 and (whole or name == "s"))
    return f"{whole // _UNITS[unit]}{unit}"
