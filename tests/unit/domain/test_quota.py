"""The rules of counting that every authority shares: burning credits and carrying over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.quota import (
    LimitUsage,
    Spent,
    burn,
    carried_over,
    carries_over,
    previous_window,
)
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit, window_at
from unit.domain.generated import instants, limits, quick

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
MONTH = WindowSpec(WindowUnit.MONTH)
amounts = st.integers(0, 1000)


# ---- credits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "quantity", "taken"),
    [
        ([5, 5], 3, [3, 0]),
        ([5, 5], 7, [5, 2]),
        ([0, 5, 5], 7, [0, 5, 2]),
        ([5, 5], 10, [5, 5]),
        ([5, 5], 11, None),
        ([-3, 5], 5, [0, 5]),
        ([], 0, []),
        ([], 1, None),
    ],
)
def test_credits_burn_in_order(available: list[int], quantity: int, taken: list[int] | None) -> None:
    """The first grant is emptied before the second is touched, and all or nothing is taken."""
    assert burn(available, quantity) == taken


@quick(300)
@given(st.lists(st.integers(-10, 100), max_size=6), st.integers(0, 300))
def test_burning_takes_exactly_the_quantity_and_never_more_than_is_left(
    available: list[int], quantity: int
) -> None:
    """A later grant is touched only once every earlier one is empty."""
    left = [max(0, one) for one in available]
    taken = burn(available, quantity)
    assert (taken is None) == (quantity > sum(left))
    if taken is None:
        return
    assert sum(taken) == quantity
    assert all(0 <= take <= one for take, one in zip(taken, left, strict=True))
    last = max((index for index, take in enumerate(taken) if take), default=0)
    assert taken[:last] == left[:last]


# ---- carry-over -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cap", "before", "carried"),
    [
        (5, None, 5),
        (20, None, 10),
        (5, Spent(used=8, carried=0), 2),
        (5, Spent(used=10, carried=0), 0),
        (5, Spent(used=15, carried=0), 0),  # usage that was reported late
        (5, Spent(used=3, carried=5), 5),  # only what was carried was used
        (5, Spent(used=12, carried=5), 3),
        (0, Spent(used=0, carried=0), 0),
    ],
)
def test_what_was_left_is_carried_up_to_the_cap(cap: int, before: Spent | None, carried: int) -> None:
    """Of 10 a month; what had been carried itself burns first."""
    assert carried_over(Limit(10, MONTH, carry_over_cap=cap, before=10), before) == carried


@quick(300)
@given(amounts, amounts, st.none() | st.builds(Spent, used=amounts, carried=amounts))
def test_never_more_than_the_cap_or_the_amount_is_carried(
    amount: int, cap: int, before: Spent | None
) -> None:
    """And never less than nothing."""
    carried = carried_over(Limit(amount, MONTH, carry_over_cap=cap, before=amount), before)
    assert 0 <= carried <= min(cap, amount)


@quick(200)
@given(st.integers(0, 50), st.integers(0, 80), st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_nothing_carries_twice(amount: int, cap: int, shares: list[float]) -> None:
    """Over any windows no more is used than there was; none holds more than its own and the last one's."""
    limit = Limit(amount, MONTH, carry_over_cap=cap, before=amount)
    carried = used_in_all = 0
    for number, share in enumerate(shares, 1):
        whole = amount + carried
        assert whole <= 2 * amount
        used = int(whole * share)
        used_in_all += used
        assert used_in_all <= number * amount
        carried = carried_over(limit, Spent(used, carried))
        # What is carried on is of this window's own amount, and was not used.
        assert carried <= min(amount, whole - used)


@pytest.mark.parametrize(
    ("changes", "carries"),
    [
        ({}, True),
        ({"carry_over_cap": 0}, False),
        ({"amount": None}, False),
        ({"window": WindowSpec(WindowUnit.LIFETIME)}, False),
        ({"before": 3}, True),
        ({"before": None}, False),
    ],
)
def test_only_what_was_had_before_the_window_carries_over(changes: dict[str, object], carries: bool) -> None:
    """A tenant that is new in this window had nothing to save in the last one."""
    limit = msgspec.structs.replace(Limit(10, MONTH, carry_over_cap=5, before=10), **changes)
    assert carries_over(limit, window_at(limit.window, NOW)) is carries


@quick(150)
@given(limits.filter(lambda limit: limit.window.unit is not WindowUnit.LIFETIME), instants)
def test_the_previous_window_ends_where_the_window_starts(limit: Limit, now: datetime) -> None:
    """Its neighbour, and no other."""
    window = window_at(limit.window, now)
    before = previous_window(limit, window)
    assert before.end == window.start
    assert before.start < window.start


# ---- usage ----------------------------------------------------------------------------------------------


@quick(200)
@given(st.none() | amounts, amounts, amounts, amounts)
def test_what_remains_is_what_is_neither_used_nor_outstanding(
    amount: int | None, used: int, outstanding: int, carried: int
) -> None:
    """Never less than nothing, and nothing to say of what is unlimited."""
    usage = LimitUsage(
        "month", amount, False, NOW, NOW + timedelta(days=1), used, outstanding=outstanding, carried=carried
    )
    assert (usage.remaining is None) == (amount is None) == (usage.whole is None)
    if usage.whole is not None:
        assert usage.remaining == max(0, usage.whole - used - outstanding)
