"""Billing periods count from their anchor."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from entitlement_sidecar.planstore.subscriptions.periods import period_end

ANCHOR = datetime(2024, 1, 31, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "instant", "end"),
    [
        ("month", (2024, 1, 31, 9, 30), (2024, 2, 29, 9, 30)),
        ("month", (2024, 2, 29, 9, 30), (2024, 3, 31, 9, 30)),
        ("month", (2024, 3, 31, 9, 29), (2024, 3, 31, 9, 30)),
        ("month", (2025, 2, 1), (2025, 2, 28, 9, 30)),
        ("year", (2024, 1, 31, 9, 30), (2025, 1, 31, 9, 30)),
        ("year", (2025, 1, 31, 9, 30), (2026, 1, 31, 9, 30)),
    ],
)
def test_a_period_ends_where_the_anchor_says(
    period: str, instant: tuple[int, ...], end: tuple[int, ...]
) -> None:
    """Short months do not move later ones."""
    given, wanted = datetime(*instant, tzinfo=UTC), datetime(*end, tzinfo=UTC)  # type: ignore[arg-type, misc]

    assert period_end(period, ANCHOR, given) == wanted


def test_a_plan_without_a_period_has_no_end() -> None:
    """`none` never ends by itself."""
    assert period_end("none", ANCHOR, ANCHOR) is None
