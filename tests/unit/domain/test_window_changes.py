"""Windows tile time in every zone, at every change of its offset."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from entitlement_sidecar.domain.window import WindowSpec, WindowUnit, window_at
from unit.domain.generated import CALENDAR, ZONES, shifts
from unit.domain.test_properties_window import assert_tiled


@pytest.mark.parametrize("unit", [WindowUnit.HOUR, *CALENDAR])
def test_every_zone_is_tiled_around_its_changes(unit: WindowUnit) -> None:
    """Every change of every zone in some years, among them of half an hour and at a minute past midnight."""
    for zone in ZONES:
        for shift in (shift for year in (1987, 2009, 2026) for shift in shifts(zone, year)):
            for seconds in (-1_801, -1, 0, 1, 59, 60, 1_799, 3_599, 3_600):
                assert_tiled(WindowSpec(unit, zone), shift + timedelta(seconds=seconds))


def test_hours_around_a_change_of_half_an_hour() -> None:
    """Lord Howe, 2026-04-05 02:00 (UTC+11) -> 01:30 (UTC+10:30), is 2026-04-04T15:00Z."""
    spec = WindowSpec(WindowUnit.HOUR, "Australia/Lord_Howe")
    before = window_at(spec, datetime(2026, 4, 4, 14, 59, 59, tzinfo=UTC))
    after = window_at(spec, datetime(2026, 4, 4, 15, 0, tzinfo=UTC))
    assert before.end is not None
    assert before.end <= after.start


def test_a_day_where_clocks_went_back_a_minute_past_midnight() -> None:
    """St John's, 2009-11-01 00:01 -> 2009-10-31 23:01, is 02:31Z: the hour before midnight came twice."""
    instant = datetime(2009, 11, 1, 2, 45, tzinfo=UTC)
    window = window_at(WindowSpec(WindowUnit.DAY, "America/St_Johns"), instant)
    assert window.end is not None
    assert window.start <= instant < window.end


def test_a_billing_cycle_whose_start_is_skipped_into_the_next_month() -> None:
    """Sofia, 1979-03-31 23:00 -> 1979-04-01 00:00: a start at 23:30 of the 31st falls on 00:30 of the 1st."""
    anchor = datetime(1978, 3, 31, 21, 30, tzinfo=UTC)
    instant = datetime(1979, 3, 31, 21, 15, tzinfo=UTC)
    window = window_at(WindowSpec(WindowUnit.BILLING_CYCLE, "Europe/Sofia", anchor=anchor), instant)
    assert window.start <= instant
