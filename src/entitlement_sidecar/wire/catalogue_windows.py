"""Windows as catalogue files write them: a unit, or a mapping with the unit's zone and week start."""

from __future__ import annotations

from typing import Any

from entitlement_sidecar.domain.window import WindowSpec, WindowUnit

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def build_window(raw: str | dict[str, str]) -> WindowSpec:
    """A window of a document in which nothing is wrong."""
    if isinstance(raw, str):
        return WindowSpec(WindowUnit[raw.upper()])
    return WindowSpec(
        WindowUnit[raw["unit"].upper()],
        zone=raw.get("zone", "UTC"),
        week_start=_WEEKDAYS.index(raw.get("week_start", "monday")) + 1,
    )


def plain_window(window: WindowSpec) -> str | dict[str, Any]:
    """A window in the form of a file; what is as by default is left out."""
    unit = window.unit.name.lower()
    found: dict[str, Any] = {"unit": unit}
    if window.zone != "UTC":
        found["zone"] = window.zone
    if window.unit is WindowUnit.WEEK and window.week_start != 1:
        found["week_start"] = _WEEKDAYS[window.week_start - 1]
    return found if len(found) > 1 else unit
