"""Strategies for whatever the domain may be given, whether or not a plan store would write it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import settings
from hypothesis import strategies as st

from entitlement_sidecar.domain.window import WindowSpec, WindowUnit

ZONES = sorted(available_timezones())

CALENDAR = (WindowUnit.DAY, WindowUnit.WEEK, WindowUnit.MONTH, WindowUnit.QUARTER, WindowUnit.YEAR)
"""Units that begin at a midnight of their zone."""


def quick(examples: int) -> settings:
    """The same examples on each run, and no deadline: what runs beside the tests is no defect."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


# ---- instants -------------------------------------------------------------------------------------------

instants = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis adds the zone
zones = st.sampled_from(ZONES)


@cache
def shifts(zone: str, year: int) -> tuple[datetime, ...]:
    """The instants in a year (in UTC) at which a zone's offset changes."""
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(0, 368, 4)]
    return tuple(
        _shift(zone, first, last)
        for first, last in pairwise(days)
        if _offset(zone, first) != _offset(zone, last)
    )


def _shift(zone: str, first: datetime, last: datetime) -> datetime:
    while last - first > timedelta(seconds=1):
        middle = (first + (last - first) / 2).replace(microsecond=0)
        if _offset(zone, middle) == _offset(zone, first):
            first = middle
        else:
            last = middle
    return last


def _offset(zone: str, instant: datetime) -> timedelta | None:
    return instant.astimezone(ZoneInfo(zone)).utcoffset()


@st.composite
def around_shifts(draw: st.DrawFn, zone: str, first_year: int = 1970) -> datetime:
    """An instant within two days of a change of a zone's offset; any instant in years without one."""
    year = draw(st.integers(first_year, 2099) | st.integers(first_year, 2037))
    if not shifts(zone, year):
        return draw(instants.map(lambda instant: instant.replace(year=year, day=min(instant.day, 28))))
    near = st.sampled_from([-1, 0, 1, 59, 60, 1799, 1800, 3599, 3600, 86_399, 86_400])
    away = draw(near | st.integers(-172_800, 172_800))
    return draw(st.sampled_from(shifts(zone, year))) + timedelta(seconds=away)


# ---- windows --------------------------------------------------------------------------------------------

anchors = st.builds(
    datetime,
    *(st.integers(1970, 2100), st.integers(1, 12), st.integers(1, 28)),
    *(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59)),
    tzinfo=st.just(UTC),
) | st.sampled_from(
    [
        datetime(2024, 1, 29, 23, 59, 59, tzinfo=UTC),
        datetime(2024, 2, 29, tzinfo=UTC),
        datetime(2026, 1, 30, 12, 30, 0, 999_999, tzinfo=UTC),
        datetime(2026, 3, 31, tzinfo=UTC),
        datetime(2026, 10, 31, 22, 0, 0, tzinfo=UTC),
    ]
)


def specs_of(*units: WindowUnit) -> st.SearchStrategy[WindowSpec]:
    """Specifications of these units in any zone, from any anchor."""
    return st.builds(
        WindowSpec,
        unit=st.sampled_from(units),
        zone=zones,
        week_start=st.integers(1, 7),
        anchor=anchors,
    )
