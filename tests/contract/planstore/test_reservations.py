"""Reservations at the root, on both databases: held, settled once, given back in time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.break_glass import BreakGlassAction
from entitlement_sidecar.domain.decision import Reason
from entitlement_sidecar.domain.errors import (
    IdempotencyConflictError,
    IllegalTransitionError,
    InvalidInputError,
    NotFoundError,
)
from entitlement_sidecar.domain.reservation import Reserving, Settled, Settlement
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.planstore.api.reserving import Reservations, Reserved
from entitlement_sidecar.planstore.catalogue.break_glass import Wanted, begin
from entitlement_sidecar.planstore.db import (
    QuotaCounterRow,
    QuotaReservationRow,
    UsageEventRow,
    UsageLedgerRow,
)
from entitlement_sidecar.planstore.subscriptions.credits import CreditRequest
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.expiring import ExpiredReservations
from entitlement_sidecar.planstore.usage.reservation_rows import ANSWERED, LATE
from support.shop import Shop

CATALOGUE = """
catalogue: shop
features:
  calls: {kind: metered, metric: calls}
  soft: {kind: metered, metric: soft}
  free: {kind: metered, metric: free}
  tokens: {kind: credits, metric: tokens}
  seats: {kind: seats}
metrics:
  calls: {domain: api, unit: call, aggregation: sum, window: month, classification: billable, feature: calls}
  soft: {domain: api, unit: call, aggregation: sum, window: month, classification: billable, feature: soft}
  free: {domain: api, unit: call, aggregation: sum, window: month, classification: billable, feature: free}
  tokens: {domain: ai, unit: token, aggregation: sum, window: month, classification: billable,
           feature: tokens}
plans:
  basic:
    title: Basic
    price: {amount: "29.90", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 100, window: day}, {amount: 250, window: month}]}
      soft: {limits: [{amount: 100, window: day, soft: true}]}
      free: true
      seats: {seats: 3}
"""


class Desk:
    """Reserves, settles and releases at a plan store, in a line each."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.reservations = Reservations(shop.database, shop.clock)
        self.expired = ExpiredReservations(shop.database, lambda _: shop.clock.now())

    def reserve(self, quantity: int = 40, name: str = "one", feature: str = "calls", **more: Any) -> Reserved:
        """Holds something for acme."""
        asked = Reserving(tenant_id="acme", feature=feature, reservation_id=name, quantity=quantity, **more)
        return self.reservations.reserve(asked)

    def settle(self, quantity: int, name: str = "one", **dimensions: str) -> Settled:
        """Says what was used."""
        return self.reservations.settle(self.settlement(quantity, name, **dimensions), "sidecar")

    def settlement(self, quantity: int, name: str = "one", **dimensions: str) -> Settlement:
        """What a sidecar is told."""
        return Settlement(tenant_id="acme", reservation_id=name, quantity=quantity, dimensions=dimensions)

    def arrive(self, settlement: Settlement) -> UsageResult:
        """Its event comes with a batch."""
        event = settlement.event(self.shop.clock.now(), "another")
        with self.shop.database.writing() as session:
            return self.shop.ledger.append(session, [Arrival(event)], self.shop.clock.now())[0]

    def release(self, name: str = "one") -> int:
        """Gives it back."""
        return self.reservations.release("acme", name)

    def pass_time(self, **time: float) -> None:
        """Lets time go by, and the worker look."""
        self.shop.clock.advance(timedelta(**time).total_seconds())
        self.expired.step()

    def counters(self, feature: str = "calls") -> dict[str, tuple[int, int, int]]:
        """Admitted, unadmitted and delegated of each limit or grant, over all windows."""
        row = QuotaCounterRow
        with self.shop.database.reading() as session:
            rows = session.scalars(select(row).where(row.feature == feature)).all()
        found: dict[str, tuple[int, int, int]] = {}
        for one in rows:
            key = one.limit_key if feature != "tokens" else f"{one.window_end:%d}"
            old = found.get(key, (0, 0, 0))
            found[key] = (old[0] + one.admitted, old[1] + one.unadmitted, old[2] + one.delegated)
        return found

    def billed(self) -> list[tuple[str, str, int]]:
        """What aggregates add up to."""
        row = UsageLedgerRow
        with self.shop.database.reading() as session:
            rows = session.scalars(select(row).order_by(row.window_start)).all()
        return [(one.metric, f"{one.window_start:%m}", one.value) for one in rows]


@pytest.fixture
def desk(shop: Shop) -> Desk:
    """A tenant with 100 calls a day and 250 a month."""
    shop.apply(CATALOGUE)
    shop.subscribe()
    return Desk(shop)


def test_an_amount_is_held_of_every_limit(desk: Desk) -> None:
    """It is outstanding: nobody else has it, and nothing is used yet."""
    answer = desk.reserve(40)

    assert answer.decision.reason is Reason.WITHIN_LIMIT
    assert (answer.decision.remaining, answer.decision.used) == (60, 0)
    assert answer.expires_at == desk.shop.clock.now() + timedelta(seconds=60)
    assert desk.counters() == {"day": (0, 0, 40), "month": (0, 0, 40)}


def test_what_does_not_fit_is_refused_and_not_remembered(desk: Desk) -> None:
    """All or nothing; once there is room the same reservation is made."""
    desk.reserve(70)

    refused = desk.reserve(40, "two")
    untouched = desk.counters()
    desk.release("one")
    again = desk.reserve(40, "two")

    assert (refused.decision.reason, refused.expires_at) == (Reason.QUOTA_EXCEEDED, None)
    assert untouched == {"day": (0, 0, 70), "month": (0, 0, 70)}
    assert again.decision.allowed
    assert desk.counters() == {"day": (0, 0, 40), "month": (0, 0, 40)}


def test_the_same_reservation_again_gets_the_first_answer(desk: Desk) -> None:
    """Another amount, feature or time under its name is a conflict."""
    first = desk.reserve(40)
    desk.shop.clock.advance(10)

    again = desk.reserve(40)

    assert again == first
    assert desk.counters()["day"] == (0, 0, 40)
    for other in ({"quantity": 41}, {"feature": "soft"}, {"ttl": 30.0}, {"subject": "ada"}):
        with pytest.raises(IdempotencyConflictError, match="'one' was used for 40 of 'calls'"):
            desk.reserve(**other)


def test_less_than_was_held_gives_the_rest_back(desk: Desk) -> None:
    """The settlement is one event, of the feature's metric, which no counter counts again."""
    desk.reserve(40, subject="ada", correlation_id="work")

    settled = desk.settle(15, model="large")

    assert (settled.result.outcome, settled.returned, settled.overage) == (UsageOutcome.ACCEPTED, 25, 0)
    assert desk.counters() == {"day": (15, 0, 0), "month": (15, 0, 0)}
    assert desk.billed() == [("calls", "01", 15)]
    with desk.shop.database.reading() as session:
        event = session.scalars(select(UsageEventRow)).one()
        assert (event.subject, event.correlation_id, event.feature) == ("ada", "work", "calls")
        assert (event.unit, event.dimensions) == ("call", {"model": "large"})


def test_more_than_was_held_takes_what_is_left_and_the_rest_is_overage(desk: Desk) -> None:
    """A hard limit admits up to its amount; what is beyond has happened, and is billed."""
    desk.reserve(40)
    desk.reserve(50, "two")

    settled = desk.settle(65)

    assert (settled.returned, settled.overage) == (0, 15)
    assert desk.counters() == {"day": (50, 15, 50), "month": (50, 15, 50)}
    assert desk.billed() == [("calls", "01", 65)]


def test_beyond_a_soft_limit_is_allowed(desk: Desk) -> None:
    """All of it is admitted, and nothing is overage."""
    desk.reserve(90, feature="soft")

    settled = desk.settle(500)

    assert (settled.result.outcome, settled.overage) == (UsageOutcome.ACCEPTED, 0)
    assert desk.counters("soft") == {"day:soft": (500, 0, 0)}


def test_settling_twice_bills_once(desk: Desk) -> None:
    """The same again says the same; another amount is a conflict, wherever it comes from."""
    desk.reserve(40)
    desk.settle(15)

    again = desk.settle(15)
    arrived = desk.arrive(desk.settlement(15))
    other = desk.arrive(desk.settlement(16))

    assert (again.result.outcome, again.returned) == (UsageOutcome.DUPLICATE, 25)
    assert (arrived.outcome, other.outcome) == (UsageOutcome.DUPLICATE, UsageOutcome.CONFLICT)
    with pytest.raises(IdempotencyConflictError, match="settled with other content"):
        desk.settle(16)
    assert desk.counters()["day"] == (15, 0, 0)
    assert desk.billed() == [("calls", "01", 15)]


def test_an_event_that_arrives_settles(desk: Desk) -> None:
    """Kept by a sidecar while the plan store was away, it does what the call would have done."""
    desk.reserve(40)

    arrived = desk.arrive(desk.settlement(15))
    told = desk.settle(15)

    assert (arrived.outcome, told.result.outcome) == (UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE)
    assert (told.returned, desk.counters()["day"]) == (25, (15, 0, 0))
    assert desk.billed() == [("calls", "01", 15)]


def test_time_gives_back_and_a_late_settlement_is_billed_once(desk: Desk) -> None:
    """What had come back may have been admitted to others: so the late usage is nobody's admission."""
    desk.reserve(40)
    desk.pass_time(seconds=61)
    given_back = desk.counters()
    desk.reserve(100, "two", ttl=600.0)

    settled = desk.settle(15)
    again = desk.settle(15)

    assert given_back == {"day": (0, 0, 0), "month": (0, 0, 0)}
    assert (settled.returned, settled.overage, again.overage) == (0, 15, 15)
    assert desk.counters()["day"] == (0, 15, 100)
    assert desk.billed() == [("calls", "01", 15)]


def test_before_its_time_the_worker_leaves_it(desk: Desk) -> None:
    """Others of the same feature go."""
    desk.reserve(40, ttl=30.0)
    desk.reserve(10, "two", ttl=300.0)

    desk.pass_time(seconds=31)

    assert desk.counters()["day"] == (0, 0, 10)


def test_a_release_gives_all_back_and_says_so_again(desk: Desk) -> None:
    """There is no event; what is settled cannot be released, and who releases may still bill."""
    desk.reserve(40)
    desk.reserve(10, "two")

    assert (desk.release(), desk.release()) == (40, 40)
    assert desk.counters()["day"] == (0, 0, 10)
    desk.settle(10, "two")
    with pytest.raises(IllegalTransitionError, match="was settled with 10"):
        desk.release("two")
    desk.settle(5)
    assert desk.counters()["day"] == (10, 5, 0)
    assert sum(value for _, _, value in desk.billed()) == 15


def test_what_was_never_reserved_is_not_found(desk: Desk) -> None:
    """Its event, should one arrive, is kept for operators and counts nothing."""
    for call in (lambda: desk.settle(5, "nothing"), lambda: desk.release("nothing")):
        with pytest.raises(NotFoundError, match="'nothing'"):
            call()
    arrived = desk.arrive(desk.settlement(5, "nothing"))

    assert (arrived.outcome, arrived.rule) == (UsageOutcome.QUARANTINED, "usage:reservation")
    assert desk.billed() == []


@pytest.mark.parametrize("feature", ["seats"])
def test_only_amounts_can_be_held(desk: Desk, feature: str) -> None:
    """Seats are taken by subjects, one by one."""
    with pytest.raises(InvalidInputError, match="expected a metered feature or credits"):
        desk.reserve(1, feature=feature)


def test_what_the_tenant_has_not_is_a_denial(desk: Desk) -> None:
    """With the reason that a check would give."""
    assert desk.reserve(feature="nothing").decision.reason is Reason.FEATURE_UNKNOWN
    assert desk.reserve(feature="tokens").decision.reason is Reason.NOT_IN_PLAN
    assert desk.reserve(101).decision.reason is Reason.EXCEEDS_LIMIT


def test_without_limits_a_settlement_is_an_event(desk: Desk) -> None:
    """Nothing is held, nothing comes back."""
    answer = desk.reserve(40, feature="free")

    settled = desk.settle(70)

    assert answer.decision.reason is Reason.UNLIMITED
    assert (settled.returned, settled.overage, desk.counters("free")) == (0, 0, {})
    assert desk.billed() == [("free", "01", 70)]


def test_windows_that_end_in_between(desk: Desk) -> None:
    """Counted where it was reserved, billed where it happened."""
    desk.shop.clock.advance(timedelta(hours=11, minutes=59, seconds=40).total_seconds())
    desk.reserve(40)
    desk.shop.clock.advance(30)

    settled = desk.settle(60)

    assert (settled.returned, settled.overage) == (0, 0)
    row = QuotaCounterRow
    with desk.shop.database.reading() as session:
        found = session.execute(select(row.limit_key, row.window_start, row.admitted, row.delegated))
        counted = {(key, f"{start:%m-%d}"): (admitted, held) for key, start, admitted, held in found}
    assert counted == {("day", "01-31"): (60, 0), ("month", "01-01"): (60, 0)}
    assert desk.billed() == [("calls", "02", 60)]


def test_a_limit_that_was_lowered_holds_for_what_is_beyond(desk: Desk) -> None:
    """What was promised is admitted; more is not."""
    desk.reserve(90)
    lower = {
        "feature": "calls",
        "effect": "set",
        "limits": [{"amount": 50, "window": "day"}],
        "reason": "test",
    }
    with desk.shop.database.writing() as session:
        desk.shop.overrides.create(session, "acme", lower)

    settled = desk.settle(95)

    assert (settled.result.outcome, settled.overage) == (UsageOutcome.ACCEPTED, 5)
    assert desk.counters()["day"] == (90, 5, 0)


def test_of_an_opened_feature_what_is_used_counts(desk: Desk) -> None:
    """In an emergency nothing is asked, so nothing is held; what is settled nobody had admitted."""
    wanted = Wanted(BreakGlassAction.OPEN, "the limits are wrong", "calls")
    with desk.shop.database.writing() as session:
        begin(session, wanted, desk.shop.key, desk.shop.clock.now())

    answer = desk.reserve(500)
    held = desk.counters()
    settled = desk.settle(400)

    assert (answer.decision.allowed, answer.decision.reason, held) == (True, Reason.UNLIMITED, {})
    assert (settled.returned, sum(desk.counters()["day"])) == (0, 400)


@pytest.fixture
def credited(desk: Desk) -> Desk:
    """A tenant with 30 tokens until the 10th and 50 until the 20th of next month."""
    now = desk.shop.clock.now()
    for amount, days in ((30, 10), (50, 20)):
        asked = CreditRequest(
            feature="tokens", amount=amount, reason="gift", until=now + timedelta(days=days)
        )
        with desk.shop.database.writing() as session:
            desk.shop.credits.grant(session, "acme", asked)
    return desk


def test_credits_are_held_in_burn_order_and_settled_from_the_same(credited: Desk) -> None:
    """What first expires burns first, and what is left goes back to where it came from."""
    answer = credited.reserve(60, feature="tokens")
    held = credited.counters("tokens")

    settled = credited.settle(35)

    assert (answer.decision.allowed, answer.decision.remaining) == (True, 20)
    assert held == {"10": (0, 0, 30), "20": (0, 0, 30)}
    assert (settled.returned, settled.overage) == (25, 0)
    assert credited.counters("tokens") == {"10": (30, 0, 0), "20": (5, 0, 0)}


def test_credits_beyond_what_was_held(credited: Desk) -> None:
    """Taken from what grants have left; the last one bears what is beyond them all."""
    credited.reserve(10, feature="tokens")
    credited.reserve(30, "two", feature="tokens")

    settled = credited.settle(70)

    assert (settled.returned, settled.overage) == (0, 20)
    assert credited.counters("tokens") == {"10": (10, 0, 20), "20": (40, 20, 10)}
    assert credited.reserve(1, "three", feature="tokens").decision.reason is Reason.CREDITS_EXHAUSTED


def test_credits_of_a_late_settlement(credited: Desk) -> None:
    """Burnt in order as what nobody had admitted."""
    credited.reserve(60, feature="tokens")
    credited.pass_time(seconds=61)

    settled = credited.settle(35)

    assert settled.overage == 35
    assert credited.counters("tokens") == {"10": (0, 30, 0), "20": (0, 5, 0)}


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each of several calls comes to, all at the same time; errors are outcomes too."""

    def outcome(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (IdempotencyConflictError, IllegalTransitionError) as error:
            return type(error)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(outcome, calls))


def test_many_at_once_hold_exactly_what_there_is(desk: Desk) -> None:
    """Two replicas, 16 callers of 10 each, 100 a day; each reservation is asked for twice."""
    replicas = [desk, Desk(desk.shop)]

    answers = at_once(
        [
            lambda n=n, one=one: (n, one.reserve(10, f"r{n}").decision.allowed)
            for n in range(16)
            for one in replicas
        ]
    )

    assert len({n for n, held in answers if held}) == 10
    assert desk.counters()["day"] == (0, 0, 100)


def test_two_replicas_settle_once(desk: Desk) -> None:
    """By call and by event, with a release in between: one of them wins, and all is counted once."""
    other = Desk(desk.shop)
    for n in range(8):
        desk.reserve(10, f"r{n}")

    at_once(
        [
            call
            for n in range(8)
            for call in (
                lambda n=n: desk.settle(7, f"r{n}"),
                lambda n=n: other.arrive(other.settlement(7, f"r{n}")),
                lambda n=n: other.release(f"r{n}"),
            )
        ]
    )

    admitted, unadmitted, delegated = desk.counters()["day"]
    assert (admitted + unadmitted, delegated) == (56, 0)
    assert desk.billed() == [("calls", "01", 56)]


def reconciled(desk: Desk) -> dict[str, tuple[int, int]]:
    """Of each column of the limit per day, what the root has and what of it nothing explains."""
    path = "/api/billing/organizations/acme/usage/reconciliation"
    answer = desk.shop.rest.get(path, params={"feature": "calls"})
    lines = [line for line in answer.json()["lines"] if line["limit"] == "day"]
    return {line["column"]: (line["authority"], line["unexplained"]) for line in lines}


def test_reconciling_explains_reservations(desk: Desk) -> None:
    """Held, settled for less and for more, late, and from the day before: nothing is unexplained."""
    desk.shop.clock.advance(timedelta(hours=11, minutes=59, seconds=40).total_seconds())
    desk.reserve(5, "yesterday")
    desk.shop.clock.advance(30)
    desk.settle(5, "yesterday")
    desk.reserve(10, "late")
    desk.pass_time(seconds=61)
    desk.reserve(30, "held")
    desk.reserve(30, "less")
    desk.reserve(10, "more")
    desk.settle(20, "less")
    desk.settle(7, "late")
    desk.settle(60, "more")

    assert reconciled(desk) == {
        "admitted": (63, 0),
        "unadmitted": (24, 0),
        "delegated": (30, 0),
        "forfeited": (0, 0),
    }


def test_rows_go_when_nobody_asks_any_more(desk: Desk) -> None:
    """Settled ones soon, given back ones when they are too old to be settled; a name is used once."""
    desk.reserve(10)
    desk.settle(10)
    desk.reserve(10, "two")
    desk.pass_time(seconds=61)

    desk.pass_time(seconds=ANSWERED.total_seconds())
    with desk.shop.database.reading() as session:
        after_a_day = [row.reservation_id for row in session.scalars(select(QuotaReservationRow))]
    with pytest.raises(IdempotencyConflictError, match="settled long ago"):
        desk.reserve(10)
    repeated = desk.arrive(desk.settlement(10))
    desk.pass_time(seconds=LATE.total_seconds() + 86400)
    late = desk.arrive(desk.settlement(10, "two"))

    assert after_a_day == ["two"]
    assert repeated.outcome is UsageOutcome.DUPLICATE
    assert late.rule == "usage:reservation"
