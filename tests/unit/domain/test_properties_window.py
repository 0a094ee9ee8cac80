"""Windows tile time in every zone, also around changes of a zone's offset and in months that are short."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlement_sidecar.domain.window import Window, WindowSpec, WindowUnit, _window, window_at
from unit.domain.generated import (
    CALENDAR,
    around_shifts,
    instants,
    quick,
    shifts,
    specs_of,
    zones,
)

TICK = timedelta(microseconds=1)
ENDING = [unit for unit in WindowUnit if unit is not WindowUnit.LIFETIME]


def assert_tiled(spec: WindowSpec, instant: datetime) -> Window:
    """The window of an instant holds it, and meets its neighbours without gap or overlap."""
    window = window_at(spec, instant)
    assert window.end is not None
    assert window.start <= instant < window.end
    assert window_at(spec, window.start) == window
    assert window_at(spec, window.end - TICK) == window
    assert window_at(spec, window.end).start == window.end
    assert window_at(spec, window.start - TICK).end == window.start
    return window


@quick(400)
@given(specs_of(*ENDING), instants)
def test_windows_of_every_zone_tile_time(spec: WindowSpec, instant: datetime) -> None:
    """Every instant is in one window, and only in one."""
    assert_tiled(spec, instant)


@quick(400)
@given(specs_of(*ENDING), st.data())
def test_windows_tile_time_around_changes_of_an_offset(spec: WindowSpec, data: st.DataObject) -> None:
    """Also where a day has 23, 25 or 23.5 hours, and where it is missing."""
    assert_tiled(spec, data.draw(around_shifts(spec.zone)))


@quick(200)
@given(specs_of(*WindowUnit), instants, zones)
def test_a_window_is_a_function_of_the_instant_alone(spec: WindowSpec, instant: datetime, zone: str) -> None:
    """Remembered or not, and whatever zone the instant is told in, it is the same window."""
    window = window_at(spec, instant)
    assert window_at(spec, instant.astimezone(ZoneInfo(zone))) == window
    assert _window(spec, instant.replace(microsecond=0)) == window
    assert window.start.tzinfo is UTC


@quick(200)
@given(zones, st.data())
def test_a_calendar_window_starts_at_midnight_or_after_a_midnight_that_is_skipped(
    zone: str, data: st.DataObject
) -> None:
    """A day starts at its zone's midnight; where clocks skip it, right after."""
    spec = WindowSpec(data.draw(st.sampled_from(CALENDAR)), zone)
    start = window_at(spec, data.draw(around_shifts(zone))).start
    local = start.astimezone(ZoneInfo(zone))
    skipped = any(shift == start for shift in shifts(zone, start.year))
    assert skipped or (local.hour, local.minute, local.second) == (0, 0, 0)


@quick(200)
@given(zones, instants, st.integers(1, 7))
def test_a_week_starts_on_its_day(zone: str, instant: datetime, week_start: int) -> None:
    """In the wall time of its zone, on whatever weekday it is declared to start."""
    window = window_at(WindowSpec(WindowUnit.WEEK, zone, week_start), instant)
    # A day that a zone leaves out altogether cannot start a week: the day after does.
    start = window.start.astimezone(ZoneInfo(zone))
    assert start.isoweekday() == week_start or window.start in shifts(zone, window.start.year)


@quick(300)
@given(specs_of(WindowUnit.BILLING_CYCLE), instants)
def test_a_billing_cycle_starts_on_the_day_of_its_anchor(spec: WindowSpec, instant: datetime) -> None:
    """Or on the last day of a month that has no such day."""
    window = window_at(spec, instant)
    zone = ZoneInfo(spec.zone)
    assert spec.anchor is not None
    anchor, start = spec.anchor.astimezone(zone), window.start.astimezone(zone)
    following = start + timedelta(days=1)
    changes = shifts(spec.zone, start.year)
    near_shift = any(abs(shift - window.start) <= timedelta(days=1) for shift in changes)
    assert near_shift or start.day == anchor.day or (start.day < anchor.day and following.day == 1)


@quick(200)
@given(specs_of(WindowUnit.BILLING_CYCLE))
def test_an_anchor_starts_a_cycle(spec: WindowSpec) -> None:
    """The anchor itself, to the second, is where a cycle begins."""
    assert spec.anchor is not None
    start = window_at(spec, spec.anchor).start
    second = spec.anchor.replace(microsecond=0)
    # Of two equal wall times a cycle takes the first, also where the anchor was the second.
    changes = shifts(spec.zone, second.year)
    repeated = any(timedelta(0) <= second - shift < timedelta(hours=3) for shift in changes)
    assert start == second or repeated


@quick(200)
@given(specs_of(*CALENDAR, WindowUnit.BILLING_CYCLE), instants)
def test_a_specification_without_what_does_not_matter_has_the_same_windows(
    spec: WindowSpec, instant: datetime
) -> None:
    """A week's start matters to weeks alone, and an anchor to billing cycles alone."""
    bare = msgspec.structs.replace(
        spec,
        week_start=spec.week_start if spec.unit is WindowUnit.WEEK else 1,
        anchor=spec.anchor if spec.unit is WindowUnit.BILLING_CYCLE else None,
    )
    assert window_at(bare, instant) == window_at(spec, instant)
    assert bare.key == spec.key


@quick(100)
@given(specs_of(WindowUnit.LIFETIME), instants, instants)
def test_a_lifetime_is_one_window(spec: WindowSpec, one: datetime, other: datetime) -> None:
    """Every instant is in the same window, which never ends."""
    assert window_at(spec, one) == window_at(spec, other)
    assert window_at(spec, one).end is None


# ---- days that are not 24 hours long --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "noon", "hours"),
    [
        ("America/Sao_Paulo", "2018-11-04T12:00", 23),  # begins at 01:00
        ("America/Sao_Paulo", "2018-02-17T12:00", 25),  # 23:00 comes twice
        ("Africa/Cairo", "2026-04-24T12:00", 23),
        ("Africa/Cairo", "2026-10-29T12:00", 25),
        ("Asia/Beirut", "2026-03-29T12:00", 23),
        ("Asia/Beirut", "2026-10-24T12:00", 25),
        ("America/Havana", "2026-03-08T12:00", 23),
        ("America/Havana", "2026-11-01T12:00", 25),  # midnight comes twice
        ("America/New_York", "2026-03-08T12:00", 23),
        ("Australia/Lord_Howe", "2026-10-04T12:00", 23.5),
        ("Australia/Lord_Howe", "2026-04-05T12:00", 24.5),
        ("Antarctica/Troll", "2026-03-29T12:00", 22),
        ("Pacific/Apia", "2011-12-29T12:00", 24),
        ("Pacific/Apia", "2011-12-31T12:00", 24),
    ],
)
def test_a_day_is_as_long_as_it_is(zone: str, noon: str, hours: float) -> None:
    """Also where clocks change at midnight, so that a day has none or two."""
    spec = WindowSpec(WindowUnit.DAY, zone)
    window = assert_tiled(spec, datetime.fromisoformat(noon).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC))
    assert window.end is not None
    assert window.end - window.start == timedelta(hours=hours)


@pytest.mark.parametrize("unit", [*CALENDAR, WindowUnit.BILLING_CYCLE])
@pytest.mark.parametrize("week_start", [4, 5, 6])
def test_a_day_that_a_zone_leaves_out_is_in_no_window(unit: WindowUnit, week_start: int) -> None:
    """Samoa had no 30 December 2011: the 31st follows the 29th, and weeks, months and cycles with it."""
    zone = "Pacific/Apia"
    skipped = datetime(2011, 12, 30, 10, tzinfo=UTC)  # in UTC, the midnight between the 29th and the 31st
    anchor = datetime(2011, 10, 30, 9, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    spec = WindowSpec(unit, zone, week_start, anchor)
    for hours in range(-72, 73, 8):
        assert_tiled(spec, skipped + timedelta(hours=hours))
    day = window_at(WindowSpec(WindowUnit.DAY, zone), skipped)
    assert (day.start, day.start.astimezone(ZoneInfo(zone)).day) == (skipped, 31)


@pytest.mark.parametrize("unit", [WindowUnit.DAY, WindowUnit.WEEK, WindowUnit.BILLING_CYCLE])
@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "Africa/Cairo", "America/Sao_Paulo", "Asia/Beirut"])
def test_every_change_of_a_zone_is_tiled(zone: str, unit: WindowUnit) -> None:
    """Each change of these zones in forty years, to the second and with the hours around it."""
    spec = WindowSpec(unit, zone, anchor=datetime(2024, 2, 29, 22, tzinfo=UTC))
    for shift in (shift for year in range(1998, 2038) for shift in shifts(zone, year)):
        for seconds in (-86_400, -3_600, -1, 0, 1, 1_799, 3_599, 3_600, 86_400):
            assert_tiled(spec, shift + timedelta(seconds=seconds))
