"""The authority of a sidecar without a plan store: never beyond a hard limit."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlement_sidecar.domain.errors import IdempotencyConflictError
from entitlement_sidecar.domain.quota import QuotaAsk
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.window import WindowUnit
from entitlement_sidecar.sidecar.leases.local_authority import LocalAuthority
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import limit, metered


def ask(quantity: int, *limits: object) -> QuotaAsk:
    return QuotaAsk(metered("calls"), quantity, Resolution(None, limits=limits or (limit(10),)))  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 6), max_size=30))
def test_what_is_admitted_never_passes_the_limit(quantities: list[int]) -> None:
    """And everything that fits is admitted."""
    authority = LocalAuthority(FakeClock())
    total = 0
    for number, quantity in enumerate(quantities):
        outcome = authority.consume("acme", ask(quantity), f"r{number}")
        assert outcome.admitted == (total + quantity <= 10)
        total += quantity if outcome.admitted else 0
        assert outcome.limits[0].used == total


def test_several_limits_are_all_or_nothing() -> None:
    """A daily cap inside a monthly one: what the day refuses, the month does not count."""
    limits = (limit(3, WindowUnit.DAY), limit(10))
    clock = FakeClock(datetime(2026, 1, 15, tzinfo=UTC))
    authority = LocalAuthority(clock)
    assert authority.consume("acme", ask(3, *limits), "a").admitted
    refused = authority.consume("acme", ask(1, *limits), "b")
    assert not refused.admitted
    assert [usage.used for usage in refused.limits] == [3, 3]
    clock.advance(86_400)
    assert [u.used for u in authority.consume("acme", ask(1, *limits), "c").limits] == [1, 4]


def test_a_request_id_is_admitted_once() -> None:
    """The same again changes nothing; other content is a conflict; a denial is not remembered."""
    authority = LocalAuthority(FakeClock())
    assert authority.consume("acme", ask(6), "r").limits[0].used == 6
    assert authority.consume("acme", ask(6), "r").limits[0].used == 6
    with pytest.raises(IdempotencyConflictError, match="was used for 6"):
        authority.consume("acme", ask(5), "r")
    assert not authority.consume("acme", ask(5), "s").admitted
    assert authority.consume("acme", ask(4), "s").admitted


def test_soft_limits_are_passed_and_counted() -> None:
    """They bound nothing here; the decision tells the overage."""
    authority = LocalAuthority(FakeClock())
    outcome = authority.consume("acme", ask(15, limit(10, soft=True)), "r")
    assert (outcome.admitted, outcome.limits[0].used) == (True, 15)
