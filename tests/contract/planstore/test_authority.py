"""The root authority, on both databases: never beyond a limit, all of it when asked, each request once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, Limit
from entitlement_sidecar.domain.errors import IdempotencyConflictError, InvalidInputError
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.usage.authority import RootAuthority
from entitlement_sidecar.planstore.usage.unadmitted import add_all_unadmitted
from entitlement_sidecar.testing.clock import FakeClock

DAY = WindowSpec(WindowUnit.DAY)
MONTH = WindowSpec(WindowUnit.MONTH)
Consume = Callable[..., Any]


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def consume(database: Database, clock: FakeClock) -> Consume:
    """Consumes `calls` of tenant `acme`."""
    authority = RootAuthority(database, clock)

    def call(quantity: int, request_id: str, *limits: Limit) -> Any:
        return authority.consume("acme", "calls", quantity, request_id, limits)

    return call


def test_many_at_once_admit_exactly_the_limit(database: Database) -> None:
    """200 concurrent consumers of a limit of 50: 50 are admitted, 150 refused, the counter says 50."""
    authority = RootAuthority(database, FakeClock())
    limits = (Limit(50, DAY),)

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda n: authority.consume("acme", "calls", 1, f"r{n}", limits), range(200)))

    assert sum(answer.admitted for answer in answers) == 50
    assert authority.consume("acme", "calls", 0, "", limits).limits[0].used == 50


def test_one_request_id_at_once_counts_once(database: Database) -> None:
    """Concurrent retries of one request are one admission with one answer."""
    authority = RootAuthority(database, FakeClock())
    limits = (Limit(50, DAY), Limit(70, MONTH))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: authority.consume("acme", "calls", 3, "same", limits), range(16)))

    assert len({answer.lease_id for answer in answers}) == 1
    assert [u.used for u in authority.consume("acme", "calls", 0, "", limits).limits] == [3, 3]


def test_all_limits_or_nothing(consume: Consume) -> None:
    """A daily limit that has no room leaves the monthly one untouched too."""
    limits = (Limit(5, DAY), Limit(100, MONTH))
    consume(4, "one", *limits)

    refused = consume(2, "two", *limits)

    assert refused.admitted is False
    assert {u.key: u.used for u in refused.limits} == {"day": 4, "month": 4}
    assert consume(1, "three", *limits).admitted


def test_a_repeated_request_gets_the_first_answer(consume: Consume, clock: FakeClock) -> None:
    """The same id again changes nothing, also when the limit is spent by now or the window is over."""
    first = consume(5, "one", Limit(5, DAY))
    clock.advance(86400)

    assert consume(5, "one", Limit(5, DAY)) == first
    assert first.lease_id.startswith("root:")


def test_a_request_id_for_something_else_conflicts(consume: Consume) -> None:
    """Another quantity under the same id is refused, and nothing is counted."""
    consume(1, "one", Limit(5, DAY))

    with pytest.raises(IdempotencyConflictError, match="'one' was used for 1 of 'calls'"):
        consume(2, "one", Limit(5, DAY))

    assert consume(0, "", Limit(5, DAY)).limits[0].used == 1


def test_a_refusal_is_not_remembered(consume: Consume) -> None:
    """What was refused may be asked again under the same id once there is room."""
    assert consume(7, "one", Limit(5, DAY)).admitted is False

    assert consume(7, "one", Limit(10, DAY)).admitted is True


def test_a_limit_of_zero_is_never(consume: Consume) -> None:
    """0 is a legal amount."""
    assert consume(1, "one", Limit(0, DAY)).admitted is False


def test_soft_and_unlimited_always_admit_and_count(consume: Consume) -> None:
    """Soft limits go over, unlimited ones have nothing to go over; both are counted."""
    soft, endless = Limit(2, DAY, soft=True), Limit(None, MONTH)

    answer = consume(5, "one", soft, endless)

    assert answer.admitted
    assert [(u.used, u.remaining) for u in answer.limits] == [(5, 0), (5, None)]


def test_a_new_window_begins_at_zero(consume: Consume, clock: FakeClock) -> None:
    """What was used yesterday does not count today."""
    consume(5, "one", Limit(5, DAY))
    clock.advance(86400)

    assert consume(5, "two", Limit(5, DAY)).admitted


def used(value: int, at: datetime, *limits: Limit) -> tuple[UsageEvent, str, Resolution]:
    """Usage of acme that is charged to its calls."""
    event = UsageEvent(
        id="e", tenant_id="acme", metric="calls", value=value, unit="", occurred_at=at, recorded_at=at
    )
    return event, "calls", Resolution(None, limits=limits)


def test_usage_without_a_grant_takes_room(database: Database, consume: Consume, clock: FakeClock) -> None:
    """Unadmitted usage may pass the limit and then refuses what comes after (DESIGN 7)."""
    limits = (Limit(5, DAY),)
    with database.writing() as session:
        add_all_unadmitted(session, [used(4, clock.now(), *limits)])
    assert consume(2, "one", *limits).admitted is False
    with database.writing() as session:
        add_all_unadmitted(session, [used(4, clock.now(), *limits)])
        add_all_unadmitted(session, [used(9, clock.now() - timedelta(days=1), *limits)])

    view = consume(0, "", *limits).limits[0]

    assert (view.used, view.remaining) == (8, 0)


def test_looking_changes_nothing(consume: Consume) -> None:
    """Quantity 0 reads: no admission, no counter."""
    view = consume(0, "", Limit(5, DAY))

    assert (view.admitted, view.lease_id) == (None, "")
    assert view.limits[0].used == 0


@pytest.mark.parametrize(
    ("quantity", "request_id", "field"),
    [(-1, "one", "quantity"), (MAX_QUANTITY + 1, "one", "quantity"), (1, "", "request_id")],
)
def test_malformed_requests_name_the_field(
    consume: Consume, quantity: int, request_id: str, field: str
) -> None:
    """Out of range or not repeatable: refused before anything is read."""
    with pytest.raises(InvalidInputError) as caught:
        consume(quantity, request_id, Limit(5, DAY))

    assert caught.value.violations[0].field == field
