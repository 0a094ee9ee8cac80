"""When usage starts again from zero.

A window is half-open, `[start, end)`, in UTC. Its start is a pure function of the specification and an
instant, so that every process that counts agrees without talking.
"""

from __future__ import annotations

from bisect import bisect_left
from calendar import monthrange
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_TICK = timedelta(microseconds=1)


class WindowUnit(IntEnum):
    """The period of a window. Values are those of the contract."""

    MINUTE = 1
    HOUR = 2
    DAY = 3
    WEEK = 4
    MONTH = 5
    QUARTER = 6
    YEAR = 7
    BILLING_CYCLE = 8
    LIFETIME = 9


_NAMES = {unit: unit.name.lower() for unit in WindowUnit}


class Window(msgspec.Struct, frozen=True, gc=False):
    """One period. `end` is None for a window that never resets."""

    start: datetime
    end: datetime | None


class WindowSpec(msgspec.Struct, frozen=True, gc=False):
    """When usage starts again from zero.

    Attributes:
        unit: The period.
        zone: IANA zone of calendar windows.
        week_start: ISO weekday, 1 (Monday) to 7 (Sunday); only for weeks.
        anchor: What billing cycles count from; only for billing cycles.
    """

    unit: WindowUnit
    zone: str = "UTC"
    week_start: int = 1
    anchor: datetime | None = None

    @property
    def key(self) -> str:
        """A stable name: equal keys mean equal windows, so amounts may be added up."""
        if self.zone == "UTC" and self.anchor is None and self.week_start == 1:
            return _NAMES[self.unit]
        name = self.unit.name.lower()
        if self.unit is WindowUnit.WEEK and self.week_start != 1:
            name += f"-{self.week_start}"
        if self.unit is WindowUnit.BILLING_CYCLE and self.anchor is not None:
            name += f"@{self.anchor.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        if self.zone != "UTC" and self.unit is not WindowUnit.LIFETIME:
            name += f"@{self.zone}"
        return name


@lru_cache(maxsize=1024)
def zone_exists(name: str) -> bool:
    """Whether this machine knows an IANA zone."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return False
    return True


@lru_cache(maxsize=4096)
def _cached(spec: WindowSpec, second: int) -> Window:
    return _window(spec, datetime.fromtimestamp(second, UTC))


def window_at(spec: WindowSpec, instant: datetime) -> Window:
    """The window that holds an instant (aware datetime)."""
    return _cached(spec, int(instant.timestamp() // 1))


def _window(spec: WindowSpec, instant: datetime) -> Window:
    match spec.unit:
        case WindowUnit.LIFETIME:
            return Window(_EPOCH, None)
        case WindowUnit.MINUTE:
            start = instant.replace(second=0, microsecond=0)
            return Window(start, start + timedelta(minutes=1))
        case WindowUnit.HOUR:
            return _hour(spec, instant)
        case WindowUnit.BILLING_CYCLE:
            return _billing_cycle(spec, instant)
        case _:
            return _calendar(spec, instant)


def _hour(spec: WindowSpec, instant: datetime) -> Window:
    # Hours are elapsed time: a zone only shifts them by the minutes of its offset, so that the two
    # hours that share a name when clocks go back stay two windows. Where the minutes themselves change
    # (Lord Howe moves by half an hour) the hour ends there, and the next one is short or long.
    zone = ZoneInfo(spec.zone)
    offset = _offset(zone, instant)
    start = (instant + offset).replace(minute=0, second=0, microsecond=0) - offset
    end = start + timedelta(hours=1)
    if (_offset(zone, start) - offset) % _HOUR:
        start = _change(zone, start, instant)
    if (_offset(zone, end - _TICK) - offset) % _HOUR:
        end = _change(zone, instant, end)
    return Window(start, end)


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """When the offset of `before` ends, to the second; `after` has another one."""
    offset, seconds = _offset(zone, before), range(int((after - before).total_seconds()) + 1)
    return before + timedelta(
        seconds=bisect_left(
            seconds, True, key=lambda n: _offset(zone, before + timedelta(seconds=n)) != offset
        )
    )


def _calendar(spec: WindowSpec, instant: datetime) -> Window:
    local = instant.astimezone(ZoneInfo(spec.zone)).replace(tzinfo=None)
    first, following = _local_bounds(spec, local.replace(hour=0, minute=0, second=0, microsecond=0))
    if _to_utc(following, spec.zone) <= instant:
        # Clocks went back over midnight: the day that had begun goes on, whatever they show.
        first, following = _local_bounds(spec, following)
    return Window(_to_utc(first, spec.zone), _to_utc(following, spec.zone))


def _local_bounds(spec: WindowSpec, midnight: datetime) -> tuple[datetime, datetime]:
    match spec.unit:
        case WindowUnit.DAY:
            return midnight, midnight + timedelta(days=1)
        case WindowUnit.WEEK:
            first = midnight - timedelta(days=(midnight.isoweekday() - spec.week_start) % 7)
            return first, first + timedelta(days=7)
        case WindowUnit.MONTH:
            first = midnight.replace(day=1)
            return first, _add_months(first, 1)
        case WindowUnit.QUARTER:
            first = midnight.replace(day=1, month=(midnight.month - 1) // 3 * 3 + 1)
            return first, _add_months(first, 3)
        case _:
            first = midnight.replace(day=1, month=1)
            return first, first.replace(year=first.year + 1)


def _billing_cycle(spec: WindowSpec, instant: datetime) -> Window:
    zone = ZoneInfo(spec.zone)
    # Whole seconds: windows start and end on them.
    anchor = (spec.anchor or _EPOCH).astimezone(zone).replace(tzinfo=None, microsecond=0)
    local = instant.astimezone(zone).replace(tzinfo=None)
    months = (local.year - anchor.year) * 12 + local.month - anchor.month
    # Adding to the anchor, never to the last start: 31 Jan, 28 Feb, 31 Mar.
    while _to_utc(_add_months(anchor, months), spec.zone) > instant:
        months -= 1
    while _to_utc(_add_months(anchor, months + 1), spec.zone) <= instant:
        months += 1
    return Window(
        _to_utc(_add_months(anchor, months), spec.zone),
        _to_utc(_add_months(anchor, months + 1), spec.zone),
    )


def _add_months(day: datetime, months: int) -> datetime:
    index = day.year * 12 + day.month - 1 + months
    year, month = divmod(index, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, monthrange(year, month + 1)[1]))


def _to_utc(local: datetime, zone: str) -> datetime:
    # fold=0 takes the first of two equal wall times; a wall time that a DST change skips maps to the
    # same distance after the change. Both are what zoneinfo does, stated here because windows rely on it.
    return local.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC)
