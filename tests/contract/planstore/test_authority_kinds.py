"""The root authority's seats, credits, carry-over and several amounts at once, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.catalogue import Feature, FeatureKind, Limit
from entitlement_sidecar.domain.errors import IdempotencyConflictError, InvalidInputError
from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.planstore.db import Database, QuotaCounterRow
from entitlement_sidecar.planstore.usage.authority import Admission, RootAuthority
from entitlement_sidecar.planstore.usage.unadmitted import add_all_unadmitted
from entitlement_sidecar.sidecar.leases.local_authority import LocalAuthority
from entitlement_sidecar.testing.clock import FakeClock

MONTH = WindowSpec(WindowUnit.MONTH)
FOREVER = WindowSpec(WindowUnit.LIFETIME)
BEGINNING = datetime.fromisoformat("1970-01-01T00:00:00Z")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def authority(database: Database, clock: FakeClock) -> RootAuthority:
    """The root authority."""
    return RootAuthority(database, clock)


Admit = Callable[[Admission], QuotaUsage]


@pytest.fixture
def admit(database: Database, authority: RootAuthority) -> Admit:
    """Admits in a transaction of its own."""

    def call(admission: Admission) -> QuotaUsage:
        with database.writing() as session:
            return authority.admit(session, admission)

    return call


# ---- seats ----------------------------------------------------------------------------------------------


def seat(subject: str, *limits: Limit, quantity: int = 1) -> Admission:
    """Somebody's seat."""
    asked = limits or (Limit(10, FOREVER),)
    request_id = "any" if quantity else ""
    return Admission("acme", "desks", quantity, request_id, asked, subject=subject, seats=True)


def test_as_many_hold_a_seat_as_there_are(admit: Admit) -> None:
    """40 subjects at once, three calls each, ten seats: exactly ten hold one, whoever asks again."""
    subjects = [f"s{n}" for n in range(40)] * 3
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda subject: (subject, admit(seat(subject)).admitted), subjects))

    holders = {subject for subject, admitted in answers if admitted}
    assert len(holders) == 10
    assert all(admit(seat(subject)).admitted for subject in holders)
    look = admit(seat(next(iter(holders)), quantity=0))
    assert (look.limits[0].used, look.holds) == (10, True)
    assert not admit(seat("somebody else", quantity=0)).holds


def test_a_seat_of_every_limit_or_of_none(admit: Admit) -> None:
    """Two a month and one for good: the second subject takes nothing."""
    limits = (Limit(2, MONTH), Limit(1, FOREVER))
    assert admit(seat("ada", *limits)).admitted
    refused = admit(seat("bob", *limits))
    assert refused.admitted is False
    assert {one.key: one.used for one in refused.limits} == {"month": 1, "lifetime": 1}


def test_a_seat_by_activity_is_free_again_in_the_next_window(admit: Admit, clock: FakeClock) -> None:
    """Who was active last month holds nothing now."""
    monthly = Limit(1, MONTH)
    assert admit(seat("ada", monthly)).admitted
    assert not admit(seat("bob", monthly)).admitted
    clock.advance(31 * 86_400)
    assert admit(seat("bob", monthly)).admitted
    assert not admit(seat("ada", monthly, quantity=0)).holds


def test_a_released_seat_is_free(database: Database, authority: RootAuthority, admit: Admit) -> None:
    """And is released once."""
    only = Limit(1, FOREVER)
    admit(seat("ada", only))
    with database.writing() as session:
        assert authority.release_seat(session, seat("ada", only))
        assert not authority.release_seat(session, seat("ada", only))
    assert admit(seat("bob", only)).admitted


def test_nobody_takes_no_seat(admit: Admit) -> None:
    """The subject is missing, and named."""
    with pytest.raises(InvalidInputError, match="subject"):
        admit(seat(""))


# ---- credits --------------------------------------------------------------------------------------------


def bucket(name: str, amount: int, until: datetime | None = None) -> Bucket:
    """One grant."""
    return Bucket(name, name, amount, BEGINNING, until)


def spend(quantity: int, request_id: str, *buckets: Bucket) -> Admission:
    """Credits of grants in burn order."""
    return Admission("acme", "gems", quantity, request_id, (), buckets)


def test_credits_burn_in_their_order(admit: Admit) -> None:
    """The first is empty before the second is touched; each call says what it took of which."""
    grants = (bucket("first", 20), bucket("second", 20), bucket("third", 10))
    answer = admit(spend(30, "one", *grants))
    assert [(one.used, one.taken) for one in answer.limits] == [(20, 20), (10, 10), (0, 0)]
    assert admit(spend(21, "two", *grants)).admitted is False
    again = admit(spend(30, "one", *grants))
    assert again == answer
    with pytest.raises(IdempotencyConflictError):
        admit(spend(3, "one", *grants))
    assert [one.used for one in admit(spend(20, "three", *grants)).limits] == [20, 20, 10]


def test_many_at_once_burn_exactly_what_there_is(admit: Admit) -> None:
    """120 callers of one credit each, 50 credits in three grants."""
    grants = (bucket("c", 20), bucket("a", 20), bucket("b", 10))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: admit(spend(1, f"r{n}", *grants)).admitted, range(120)))
    assert sum(bool(one) for one in answers) == 50
    assert [one.used for one in admit(spend(0, "", *grants)).limits] == [20, 20, 10]


def test_credits_used_unasked_are_burnt_too(database: Database, admit: Admit, clock: FakeClock) -> None:
    """In burn order; what is beyond them counts on the last grant, and nothing is left."""
    grants = (bucket("first", 5), bucket("second", 5))
    charged = (_event(12, clock.now()), "gems", Resolution(None, buckets=grants))
    with database.writing() as session:
        add_all_unadmitted(session, [charged])
    assert [one.used for one in admit(spend(0, "", *grants)).limits] == [5, 7]
    assert admit(spend(1, "one", *grants)).admitted is False


def _event(value: int, at: datetime) -> UsageEvent:
    return UsageEvent(
        id="e", tenant_id="acme", metric="gems", value=value, unit="gem", occurred_at=at, recorded_at=at
    )


# ---- carry-over -----------------------------------------------------------------------------------------

CARRYING = Limit(10, MONTH, carry_over_cap=5, before=10)


def use(quantity: int, request_id: str, limit: Limit = CARRYING) -> Admission:
    """Metered use."""
    return Admission("acme", "calls", quantity, request_id, (limit,))


def test_what_is_left_is_there_besides_in_the_next_window(admit: Admit, clock: FakeClock) -> None:
    """Up to the cap, used first, and never carried twice."""
    admit(use(7, "january", msgspec.structs.replace(CARRYING, before=None)))
    clock.advance(31 * 86_400)
    assert admit(use(0, "")).limits[0].carried == 3
    assert admit(use(14, "too much")).admitted is False
    assert admit(use(13, "february")).limits[0].remaining == 0
    clock.advance(28 * 86_400)
    assert admit(use(1, "march")).limits[0].carried == 0


def test_what_is_carried_is_fixed_at_the_first_grant(
    database: Database, admit: Admit, clock: FakeClock
) -> None:
    """Usage of the old window that arrives later changes it no more."""
    january = clock.now()
    clock.advance(31 * 86_400)
    assert admit(use(1, "first")).limits[0].carried == 5
    with database.writing() as session:
        add_all_unadmitted(session, [(_event(10, january), "calls", Resolution(None, limits=(CARRYING,)))])
    assert admit(use(1, "second")).limits[0].carried == 5


def test_unasked_usage_does_not_fix_what_is_carried(
    database: Database, admit: Admit, clock: FakeClock
) -> None:
    """It makes the window's row, and the first grant carries over all the same."""
    clock.advance(31 * 86_400)
    with database.writing() as session:
        unasked = (_event(2, clock.now()), "calls", Resolution(None, limits=(CARRYING,)))
        add_all_unadmitted(session, [unasked])
    view = admit(use(13, "all")).limits[0]
    assert (view.carried, view.remaining) == (5, 0)


def test_first_grants_at_once_agree_on_what_is_carried(admit: Admit, clock: FakeClock) -> None:
    """Twenty callers of one, ten and five: exactly fifteen are admitted."""
    clock.advance(31 * 86_400)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: admit(use(1, f"r{n}")).admitted, range(20)))
    assert sum(bool(one) for one in answers) == 15


# ---- all at once ----------------------------------------------------------------------------------------


def test_all_of_several_amounts_or_none(database: Database, authority: RootAuthority, admit: Admit) -> None:
    """A metered use, credits and a seat: one that does not fit takes the others with it."""
    calls = use(4, "calls", Limit(10, MONTH))
    gems = spend(5, "gems", bucket("welcome", 5))
    with database.writing() as session:
        whole, answers = authority.admit_all(session, [calls, gems, seat("ada", Limit(1, FOREVER))])
    assert (whole, [one.admitted for one in answers]) == (True, [True, True, True])

    with database.writing() as session:
        whole, answers = authority.admit_all(
            session, [use(4, "more", Limit(10, MONTH)), spend(1, "none left", bucket("welcome", 5))]
        )
    assert (whole, [one.admitted for one in answers]) == (False, [True, False])
    assert admit(use(0, "", Limit(10, MONTH))).limits[0].used == 4

    with database.writing() as session:
        again, repeated = authority.admit_all(session, [calls, gems])
    assert again
    assert all(one.admitted for one in repeated)
    assert admit(use(0, "", Limit(10, MONTH))).limits[0].used == 4


def test_batches_at_once_never_pass_a_limit(database: Database, authority: RootAuthority) -> None:
    """Two features in either order, many at once: limits of 20 are used to the last, none is passed."""
    limit = (Limit(20, MONTH),)

    def batch(number: int) -> bool:
        names = ("a", "b") if number % 2 else ("b", "a")
        items = [Admission("acme", name, 1, f"{name}-{number}", limit) for name in names]
        with database.writing() as session:
            return authority.admit_all(session, items)[0]

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(batch, range(60))) == 20
    with database.reading() as session:
        assert set(session.scalars(select(QuotaCounterRow.admitted))) == {20}


# ---- the twin -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FeatureKind.METERED, FeatureKind.SEATS, FeatureKind.CREDITS])
def test_the_local_twin_answers_alike(admit: Admit, clock: FakeClock, kind: FeatureKind) -> None:
    """Call by call over two windows: admitted or not, what is used, carried, taken and held."""
    twin, feature = LocalAuthority(clock), Feature("f", kind)
    grants = (bucket("first", 3), bucket("second", 4))
    limits = () if kind is FeatureKind.CREDITS else (CARRYING, Limit(12, FOREVER))
    resolution = Resolution(None, limits=limits, buckets=grants if kind is FeatureKind.CREDITS else ())
    for number, quantity in enumerate([2, 3, 0, 5, 1, 4, 2, 0, 3, 6, 1]):
        wanted = min(quantity, 1) if kind is FeatureKind.SEATS else quantity
        ask = QuotaAsk(feature, wanted, resolution, subject=f"s{number % 4}")
        admission = Admission.of("acme", feature, resolution, wanted, f"r{number}")
        ours = admit(msgspec.structs.replace(admission, subject=ask.subject))
        theirs = twin.consume("acme", ask, f"r{number}") if wanted else twin.view("acme", ask, 0)
        assert _told(ours) == _told(theirs), number
        clock.advance(timedelta(days=6).total_seconds())


def _told(usage: QuotaUsage) -> tuple[Any, ...]:
    limits = sorted((one.key, one.used, one.carried, one.taken, one.remaining) for one in usage.limits)
    return usage.admitted, usage.holds, limits
