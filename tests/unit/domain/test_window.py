"""Windows tile time, start deterministically, and are right on the days that are not 24 hours long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlement_sidecar.domain.window import WindowSpec, WindowUnit, window_at

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]

instants = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(lambda d: d.replace(tzinfo=UTC))  # noqa: DTZ001
specs = st.builds(
    WindowSpec,
    unit=st.sampled_from([unit for unit in WindowUnit if unit is not WindowUnit.LIFETIME]),
    zone=st.sampled_from(ZONES),
    week_start=st.integers(1, 7),
    anchor=instants,
)


@given(specs, instants)
def test_an_instant_is_inside_its_window(spec: WindowSpec, instant: datetime) -> None:
    """Half-open: the start belongs to the window, the end to the next."""
    window = window_at(spec, instant)
    assert window.end is not None
    assert window.start <= instant < window.end


@given(specs, instants)
def test_windows_tile_time(spec: WindowSpec, instant: datetime) -> None:
    """The end of one is the start of the next, without gap or overlap."""
    window = window_at(spec, instant)
    assert window.end is not None
    following = window_at(spec, window.end)
    assert following.start == window.end
    assert window_at(spec, window.end - timedelta(seconds=1)) == window


@given(specs, instants)
def test_the_start_of_a_start_is_itself(spec: WindowSpec, instant: datetime) -> None:
    """Deterministic: asking at the start gives the same window."""
    window = window_at(spec, instant)
    assert window_at(spec, window.start) == window


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


@pytest.mark.parametrize(
    ("anchor", "instant", "start", "end"),
    [
        ("2026-01-31T10:00", "2026-02-28T09:59", "2026-01-31T10:00", "2026-02-28T10:00"),
        ("2026-01-31T10:00", "2026-02-28T10:00", "2026-02-28T10:00", "2026-03-31T10:00"),
        ("2024-01-31T00:00", "2024-02-29T00:00", "2024-02-29T00:00", "2024-03-31T00:00"),
        ("2024-02-29T00:00", "2025-02-28T12:00", "2025-02-28T00:00", "2025-03-29T00:00"),
        ("2026-05-15T00:00", "2026-01-01T00:00", "2025-12-15T00:00", "2026-01-15T00:00"),
    ],
)
def test_a_billing_cycle_counts_from_its_anchor(anchor: str, instant: str, start: str, end: str) -> None:
    """31 Jan, 28 Feb, 31 Mar: short months do not shorten the ones after them."""
    window = window_at(WindowSpec(WindowUnit.BILLING_CYCLE, anchor=at(anchor)), at(instant))
    assert (window.start, window.end) == (at(start), at(end))


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29T12:00", 23), ("2026-10-25T12:00", 25), ("2026-06-01T12:00", 24)]
)
def test_a_day_in_berlin_is_as_long_as_it_is(day: str, hours: int) -> None:
    """DST days have 23 or 25 hours."""
    window = window_at(WindowSpec(WindowUnit.DAY, "Europe/Berlin"), at(day, "Europe/Berlin"))
    assert window.end is not None
    assert window.end - window.start == timedelta(hours=hours)


def test_the_hour_that_comes_twice_is_two_windows() -> None:
    """When clocks go back, equal wall times are told apart."""
    spec = WindowSpec(WindowUnit.HOUR, "Europe/Berlin")
    first, second = at("2026-10-25T00:30"), at("2026-10-25T01:30")
    assert window_at(spec, first) != window_at(spec, second)


def test_weeks_start_on_the_declared_day() -> None:
    """ISO weekday 7 is Sunday."""
    window = window_at(WindowSpec(WindowUnit.WEEK, week_start=7), at("2026-11-21T00:00"))
    assert window.start == at("2026-11-15T00:00")


def test_a_lifetime_never_ends() -> None:
    """It has no end, and holds everything."""
    assert window_at(WindowSpec(WindowUnit.LIFETIME), at("2099-01-01T00:00")).end is None


def test_quarters_and_years_follow_the_zone() -> None:
    """New Year in New York is five hours after New Year in UTC."""
    spec = WindowSpec(WindowUnit.QUARTER, "America/New_York")
    assert window_at(spec, at("2026-01-01T04:59")).start == at("2025-10-01T00:00", "America/New_York")
    year = WindowSpec(WindowUnit.YEAR, "America/New_York")
    assert window_at(year, at("2026-01-01T05:00")).start == at("2026-01-01T00:00", "America/New_York")


@given(specs, specs)
def test_equal_keys_mean_equal_windows(one: WindowSpec, other: WindowSpec) -> None:
    """Amounts are added up where keys agree, so keys have to tell windows apart."""
    if one.key == other.key:
        instant = at("2026-11-21T13:37")
        assert window_at(one, instant) == window_at(other, instant)
