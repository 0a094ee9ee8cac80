"""Corrections: an event is voided or amended by its id; sums, quota and audit follow."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.audit import Actor, acting
from entitlement_sidecar.planstore.db import AuditRow, QuotaCounterRow, UsageLedgerRow
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.rebuild import Rebuild, RebuildRequest
from support.shop import CATALOGUE, NOW, Shop

METRICS = """
  peak: {domain: api, unit: call, aggregation: max, window: day, classification: billable}
  level: {domain: storage, unit: byte, aggregation: last, window: day, classification: billable}
  people: {domain: api, unit: person, aggregation: unique_count, window: day, classification: billable}
  strict: {domain: api, unit: call, aggregation: sum, window: day, classification: billable,
           close_after: 1d, after_close: refuse}
plans:"""
ACME = "/api/billing/organizations/acme"


def used(id_: str, value: int = 1, metric: str = "calls", **more: Any) -> UsageEvent:
    """A billable event at noon."""
    fields = {"subject": "", "lease_id": "", **more}
    return UsageEvent(
        id=id_,
        tenant_id="acme",
        metric=metric,
        value=value,
        unit="",
        occurred_at=NOW,
        recorded_at=NOW,
        correlation_id="work",
        **fields,
    )


def corrected(id_: str, of: str, value: int | None = None) -> UsageEvent:
    """Another value for an event; none voids it."""
    return UsageEvent(
        id=id_,
        tenant_id="acme",
        metric="",
        value=value or 0,
        unit="",
        occurred_at=NOW,
        recorded_at=NOW,
        actor_id="ada",
        corrects=of,
        voids=value is None,
        reason="counted twice",
    )


EMITTERS = "emitters:\n  intake: {metrics: [calls]}\n  crm: {external: true}\n"


class Books:
    """The ledger of a shop."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.ledger = Ledger(limits_of)

    def append(self, *events: UsageEvent) -> list[str]:
        """Stores events in a transaction of their own; names of their outcomes."""
        with self.shop.database.writing() as session:
            arrivals = [Arrival(event) for event in events]
            results = self.ledger.append(session, arrivals, self.shop.clock.now())
        return [result.outcome.name for result in results]

    def append_from_sidecar(self, *events: UsageEvent) -> list[tuple[str, str]]:
        """As `append`, of events that a sidecar sent; outcomes with their rules."""
        with self.shop.database.writing() as session:
            arrivals = [Arrival(event, "i-1", 1, number) for number, event in enumerate(events, 1)]
            results = self.ledger.append(session, arrivals, self.shop.clock.now())
        return [(result.outcome.name, result.rule) for result in results]

    def total(self, metric: str = "calls") -> tuple[int, int, str]:
        """Value, number of events and state of the one aggregate of a metric."""
        with self.shop.database.reading() as session:
            row = session.scalars(select(UsageLedgerRow).where(UsageLedgerRow.metric == metric)).one()
        return row.value, row.event_count, row.state

    def counters(self) -> dict[str, tuple[int, int]]:
        """Admitted and not admitted, by limit."""
        with self.shop.database.reading() as session:
            rows = session.scalars(select(QuotaCounterRow)).all()
        return {row.limit_key.partition("@")[0]: (row.admitted, row.unadmitted) for row in rows}

    def differences(self) -> list[Any]:
        """What a rebuild would change."""
        return Rebuild(self.shop.database, self.shop.clock).run(RebuildRequest(check=True)).differences


@pytest.fixture
def books(shop: Shop) -> Books:
    """Of a tenant with limits of 5 a day and 50 a cycle."""
    shop.apply(CATALOGUE.replace("\nplans:", METRICS, 1))
    shop.subscribe()
    return Books(shop)


def test_the_last_correction_holds(books: Books) -> None:
    """Amended, amended again, voided, and back: each time the sum is what it should have been."""
    books.append(used("a", 4), used("b", 3))
    told = []
    for number, value in enumerate((6, 1, None, 2)):
        assert books.append(corrected(f"c{number}", "a", value)) == ["ACCEPTED"]
        told.append(books.total())

    assert told == [(9, 2, "adjusted"), (4, 2, "adjusted"), (3, 1, "adjusted"), (5, 2, "adjusted")]
    assert books.differences() == []


def test_a_correction_counts_once(books: Books) -> None:
    """Sent again it is a duplicate; two in one batch hold in their order."""
    books.append(used("a", 4))

    assert books.append(corrected("c1", "a", 9), corrected("c2", "a", 5)) == ["ACCEPTED", "ACCEPTED"]
    assert books.append(corrected("c1", "a", 9)) == ["DUPLICATE"]
    assert books.total() == (5, 1, "adjusted")


def test_who_may_not_emit_does_not_correct(books: Books) -> None:
    """An external emitter would raise or void what it may not report; an operator may."""
    books.shop.apply(CATALOGUE.replace("\nplans:", METRICS, 1) + EMITTERS)
    books.append_from_sidecar(used("a", 4, emitter="intake"))

    told = books.append_from_sidecar(
        *(
            msgspec.structs.replace(corrected(f"c-{emitter}", "a", 9), emitter=emitter)
            for emitter in ("crm", "", "intake")
        )
    )

    held = ("QUARANTINED", "usage:emitter")
    assert told == [held, held, ("ACCEPTED", "")]
    assert books.append(corrected("operator", "a", 5)) == ["ACCEPTED"]
    assert books.total()[:2] == (5, 1)


@pytest.mark.parametrize(("metric", "left"), [("peak", 3), ("level", 7), ("people", 1)])
def test_other_aggregations_are_counted_again(books: Books, metric: str, left: int) -> None:
    """Without the largest, the last, and one of two subjects."""
    books.append(used("a", 3, metric, subject="u1"), used("b", 7, metric, subject="u2"))
    gone = "a" if metric == "level" else "b"

    books.append(corrected("c", gone))

    assert books.total(metric) == (left, 1, "adjusted")
    assert books.differences() == []


def test_quota_is_given_back_where_it_was_counted(books: Books) -> None:
    """Usage without admission from what was not admitted; more than before is counted there."""
    books.append(used("a", 4), used("b", 1))
    books.append(corrected("c1", "a", 1))
    less = books.counters()
    books.append(corrected("c2", "a", 3))
    more = books.counters()
    books.append(corrected("c3", "a"), corrected("c4", "b"))

    assert less == {"day": (0, 2), "billing_cycle": (0, 2)}
    assert more == {"day": (0, 4), "billing_cycle": (0, 4)}
    assert books.counters() == {"day": (0, 0), "billing_cycle": (0, 0)}


def test_what_an_admission_covered_goes_back_to_it(books: Books) -> None:
    """A check that recorded its usage: voided, its quota is there again."""
    asked = {"feature": "calls", "quantity": 3, "record_usage": True, "request_id": "r1"}
    answer = books.shop.rest.post(f"{ACME}/quotas/check", json=asked).json()
    assert books.counters()["day"] == (3, 0)

    books.append(corrected("c", answer["consumption_id"]))

    assert books.counters() == {"day": (0, 0), "billing_cycle": (0, 0)}
    assert books.total() == (0, 0, "adjusted")


def test_each_correction_is_audited(books: Books) -> None:
    """Who, why, and what the event counted as before and after."""
    books.append(used("a", 4))
    with acting(Actor("billing", "operator")):
        books.append(corrected("c1", "a", 1), corrected("c2", "a"))

    with books.shop.database.reading() as session:
        query = select(AuditRow).where(AuditRow.resource == "usage_event/a").order_by(AuditRow.sequence)
        rows = session.scalars(query).all()

    assert [(row.action, row.actor, row.reason, row.tenant_id) for row in rows] == [
        ("usage.amended", "billing", "counted twice", "acme"),
        ("usage.voided", "billing", "counted twice", "acme"),
    ]
    assert '"value":4' in rows[0].before.replace(" ", "")
    assert '"value":1' in rows[0].after.replace(" ", "")
    assert rows[1].before.replace(" ", "").count('"value":1') == 1
    assert '"actor_id":"ada"' in rows[1].after.replace(" ", "")


def test_closed_windows_follow_their_metric(books: Books) -> None:
    """Where late usage is refused, so are corrections; elsewhere the sum is adjusted."""
    books.append(used("a", 4, "strict"), used("b", 4))
    books.shop.clock.advance(40 * 86400)

    assert books.append(corrected("c1", "a"), corrected("c2", "b")) == ["LATE_REFUSED", "ACCEPTED"]
    assert books.total("strict")[:2] == (4, 1)
    assert books.total() == (0, 0, "adjusted")


def test_replicas_that_correct_the_same_event_at_once(books: Books) -> None:
    """Each correction is applied once, and the one with the highest row holds."""
    books.append(used("a", 1), used("b", 100))
    values = range(2, 14)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda value: books.append(corrected(f"c{value}", "a", value)), values))

    value, count, _ = books.total()
    assert count == 2
    assert value - 100 in values
    assert set(books.counters().values()) == {(0, value)}
    assert books.differences() == []


def test_corrections_checks_and_batches_at_once(books: Books) -> None:
    """They touch the same counters and aggregates in orders of their own, and never wait in a circle."""
    books.append(*(used(f"e{number}", 2) for number in range(30)))

    def work(number: int) -> object:
        asked = {"feature": "reports", "record_usage": True}
        match number % 3:
            case 0:
                return books.append(corrected(f"c{number}", f"e{number}", 1))
            case 1:
                return books.append(used(f"more{number}", 1), corrected(f"c{number}", f"e{number}"))
            case _:
                return books.shop.rest.post(f"{ACME}/quotas/check", json=asked).status_code

    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(work, range(30)))

    assert told == [["ACCEPTED"], ["ACCEPTED"] * 2, 200] * 10
    assert books.total()[:2] == (10 + 10 + 20, 30)
    assert set(books.counters()["day"]) == {0, 40}
    assert books.differences() == []
