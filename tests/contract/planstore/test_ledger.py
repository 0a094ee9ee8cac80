"""The usage ledger on both databases: each event once, and sums that follow from the events."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, Classification
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.planstore.db import CatalogueRow, QuotaCounterRow, UsageEventRow, UsageLedgerRow
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.subscriptions import Target
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.queries import usage_events, usage_summary
from entitlement_sidecar.wire.v1 import usage_pb2

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)

MORE_METRICS = """
  peak: {domain: api, unit: call, aggregation: max, window: day, classification: non_billable}
  level: {domain: storage, unit: byte, aggregation: last, window: day, classification: informational}
  people: {domain: api, unit: person, aggregation: unique_count, window: day, classification: billable,
           feature: reports}
  cycle: {domain: api, unit: call, aggregation: sum, window: billing_cycle, classification: billable}
plans:"""


def usage(id_: str, **more: Any) -> UsageEvent:
    """A billable event of metric `calls`."""
    fields = {
        "tenant_id": "acme",
        "metric": "calls",
        "value": 1,
        "unit": "",
        "occurred_at": NOW,
        "recorded_at": more.get("occurred_at", NOW),
        "correlation_id": "work",
    }
    return UsageEvent(id=id_, **{**fields, **more})


class Books:
    """The ledger of a shop."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        self.ledger = Ledger(limits_of)

    def append(self, *events: UsageEvent) -> list[UsageResult]:
        """Stores events in a transaction of their own."""
        with self.shop.database.writing() as session:
            return self.ledger.append(session, [Arrival(event) for event in events], self.shop.clock.now())

    def outcomes(self, *events: UsageEvent) -> list[str]:
        """Names of what became of them."""
        return [result.outcome.name for result in self.append(*events)]

    def totals(self, metric: str = "calls", tenant: str = "acme") -> list[UsageLedgerRow]:
        """What the events add up to, the newest window first."""
        with self.shop.database.reading() as session:
            return list(usage_summary(session, tenant, metric))

    def unadmitted(self) -> dict[str, int]:
        """Usage that no admission covered, by limit."""
        with self.shop.database.reading() as session:
            rows = session.scalars(select(QuotaCounterRow)).all()
        return {row.limit_key.partition("@")[0]: row.unadmitted for row in rows}

    def stored(self) -> list[str]:
        """Ids of stored events, in the order of their arrival."""
        with self.shop.database.reading() as session:
            return list(session.scalars(select(UsageEventRow.event_id).order_by(UsageEventRow.id)))


@pytest.fixture
def books(shop: Any, catalogue_text: str) -> Books:
    """A ledger with metrics of every aggregation, and a tenant with limits of 5 a day and 50 a cycle."""
    shop.apply(catalogue_text.replace("\nplans:", MORE_METRICS, 1))
    shop.subscribe()
    return Books(shop)


def test_an_event_is_stored_whole(books: Books) -> None:
    """Columns for queries, and the event itself, as the registry classifies it."""
    event = usage("a", value=3, subject="u1", dimensions={"region": "eu"}, lease_id="root:1")
    with books.shop.database.writing() as session:
        arrival = Arrival(event, instance="i-1", epoch=2, sequence=7)
        books.ledger.append(session, [arrival], books.shop.clock.now())

    with books.shop.database.reading() as session:
        [row] = usage_events(session, "acme")
    payload = usage_pb2.UsageEvent.FromString(row.payload)

    assert (row.event_id, row.metric, row.value, row.subject, row.lease_id) == (
        "a",
        "calls",
        3,
        "u1",
        "root:1",
    )
    assert (row.instance, row.epoch, row.sequence) == ("i-1", 2, 7)
    assert (row.occurred_at, row.received_at) == (NOW, books.shop.clock.now())
    assert row.classification == payload.classification == Classification.BILLABLE
    assert dict(payload.dimensions) == {"region": "eu"}


def test_each_identity_counts_once(books: Books) -> None:
    """Inside a batch and across batches; other content under the same id is refused and told."""
    first = books.outcomes(usage("a"), usage("a"), usage("a", value=9), usage("b"))
    second = books.outcomes(usage("b"), usage("a", value=9), usage("c"))

    assert first == ["ACCEPTED", "DUPLICATE", "CONFLICT", "ACCEPTED"]
    assert second == ["DUPLICATE", "CONFLICT", "ACCEPTED"]
    assert [(row.value, row.event_count) for row in books.totals()] == [(3, 3)]
    assert books.stored() == ["a", "b", "c"]


def test_what_does_not_count_takes_no_identity(books: Books) -> None:
    """After a wrong event, or one that is held, the right one of its id counts, also in one batch."""
    told = books.outcomes(usage("a", unit="page"), usage("b", metric="faxes"), usage("a"), usage("b"))

    assert told == ["INVALID", "QUARANTINED", "ACCEPTED", "ACCEPTED"]
    assert books.stored() == ["a", "b"]


def test_tenants_have_ids_of_their_own(books: Books) -> None:
    """Identity is tenant and id."""
    assert books.outcomes(usage("a"), usage("a", tenant_id="globex")) == ["ACCEPTED", "ACCEPTED"]
    assert books.totals(tenant="globex")[0].subscription_id == ""


def test_a_second_delivery_may_be_recorded_at_another_time(books: Books) -> None:
    """Who recorded it, when, and by which registry is no part of the fact."""
    later = NOW + timedelta(minutes=1)

    again = usage("a", occurred_at=later, recorded_at=later, recorded_by="other", registry_version=9)

    assert books.outcomes(usage("a"), again) == ["ACCEPTED", "DUPLICATE"]


def test_an_unknown_metric_does_not_count(books: Books) -> None:
    """It is kept for operators, its neighbours count; its id is free for an event of a known metric."""
    [unknown, known] = books.append(usage("a", metric="faxes"), usage("b"))

    assert (unknown.outcome, unknown.retriable) == (UsageOutcome.QUARANTINED, False)
    assert (unknown.rule, unknown.registry_version) == (RuleName.METRIC, 2)
    assert "'faxes'" in unknown.reason
    assert known.outcome is UsageOutcome.ACCEPTED
    assert books.stored() == ["b"]
    assert books.outcomes(usage("a")) == ["ACCEPTED"]


def test_without_a_catalogue_nothing_is_judged(database: Any, shop: Any) -> None:
    """Events would be refused for good that are fine a minute later."""
    with database.writing() as session:
        session.execute(delete(CatalogueRow))

    with pytest.raises(SourceUnavailableError, match="no catalogue"):
        Books(shop).append(usage("a"))


def test_windows_and_subscriptions_have_totals_of_their_own(books: Books) -> None:
    """Usage belongs to the window in which it happened, however late it arrives."""
    books.append(usage("a", value=2), usage("b", value=3, occurred_at=NOW - timedelta(days=40)))
    books.append(usage("c", value=5, occurred_at=NOW - timedelta(days=40)))

    [january, december] = books.totals()

    assert (january.window_start, january.value, january.event_count) == (
        datetime(2026, 1, 1, tzinfo=UTC),
        2,
        1,
    )
    assert (december.window_end, december.value, december.event_count) == (january.window_start, 8, 2)
    assert january.window_kind == "month"
    assert january.unit == "call"
    assert january.subscription_id == december.subscription_id != ""
    assert december.version == 2
    assert december.watermark > january.watermark


@pytest.mark.parametrize("seed", range(3))
def test_totals_do_not_depend_on_order_or_batches(books: Books, seed: int) -> None:
    """Sum, maximum, last and number of subjects, from shuffled events in batches of any size."""
    shuffled = random.Random(seed)  # noqa: S311 - an order, not a secret
    facts = [(value, NOW - timedelta(minutes=value % 7), f"u{value % 4}") for value in range(1, 21)]
    events = [
        usage(f"{metric}-{value}", metric=metric, value=value, occurred_at=at, subject=subject)
        for metric in ("calls", "peak", "level", "people")
        for value, at, subject in facts
        if metric != "level" or at != NOW or value == 14
    ]
    shuffled.shuffle(events)
    while events:
        size = shuffled.randint(1, 30)
        books.append(*events[:size])
        events = events[size:]

    values = {metric: books.totals(metric)[0].value for metric in ("calls", "peak", "level", "people")}

    assert values == {"calls": 210, "peak": 20, "level": 14, "people": 4}
    [calls] = books.totals("calls")
    assert (calls.first_event_at, calls.last_event_at) == (NOW - timedelta(minutes=6), NOW)


def test_billing_cycles_count_from_the_subscriptions_anchor(books: Books) -> None:
    """A metric may be counted per cycle without knowing whose."""
    books.append(usage("a", metric="cycle", value=4))

    [total] = books.totals("cycle")

    assert total.window_start == NOW
    assert total.window_end == datetime(2026, 2, 28, 12, tzinfo=UTC)


def test_usage_belongs_to_the_subscription_of_its_time(books: Books) -> None:
    """A tenant that cancelled and came back has a total for each subscription."""
    shop = books.shop
    before = usage("before", occurred_at=NOW + timedelta(hours=1), metric="people", subject="u1")
    books.append(before)
    with shop.database.writing() as session:
        shop.subscriptions.cancel(session, Target(tenant_id="acme"), at_period_end=False)
    shop.clock.advance(7200)
    shop.subscribe()
    shop.clock.advance(3600)
    after = [
        usage(f"after{number}", occurred_at=NOW + timedelta(hours=3), metric="people", subject=f"u{number}")
        for number in range(3)
    ]
    late = usage("late", occurred_at=NOW + timedelta(hours=1), metric="people", subject="u9")

    books.append(*after, late)

    assert sorted((row.value, row.event_count) for row in books.totals("people")) == [(2, 2), (3, 3)]
    assert len({row.subscription_id for row in books.totals("people")}) == 2


def test_usage_without_admission_uses_up_quota(books: Books) -> None:
    """All limits in force, also beyond them; what a lease paid for is counted already."""
    books.append(usage("a", value=4), usage("b", value=40), usage("c", value=3, lease_id="root:1"))
    books.append(usage("d", value=2))

    assert books.unadmitted() == {"day": 46, "billing_cycle": 46}


@pytest.mark.parametrize(
    "event",
    [
        usage("a", metric="peak", value=5),
        usage("a", metric="level", value=5),
        usage("a", metric="reports", value=5),
        usage("a", value=0, consumption_id="c-1"),
        usage("a", tenant_id="globex", value=5),
    ],
    ids=["non-billable", "informational", "unlimited", "attributes", "no subscription"],
)
def test_what_uses_no_quota(books: Books, event: UsageEvent) -> None:
    """It is in the ledger all the same."""
    assert books.outcomes(event) == ["ACCEPTED"]
    assert books.unadmitted() == {}
    assert books.totals(event.metric, event.tenant_id)[0].event_count == 1


def test_the_registry_decides_on_classification(books: Books) -> None:
    """Not the sender, who may have judged by an older one."""
    books.append(usage("a", metric="peak", classification=Classification.BILLABLE))

    assert books.totals("peak")[0].classification == Classification.NON_BILLABLE


def test_what_a_sidecar_without_a_catalogue_could_not_know(books: Books) -> None:
    """The unit is filled in; what does not fit its metric is refused with the field."""
    fine, wrong, loose = books.append(
        usage("a", unit="", classification=None),
        usage("b", unit="page"),
        usage("c", correlation_id=""),
    )

    with books.shop.database.reading() as session:
        [row] = usage_events(session, "acme")
    assert fine.outcome is UsageOutcome.ACCEPTED
    assert wrong.outcome is loose.outcome is UsageOutcome.INVALID
    assert wrong.reason.startswith("unit: expected 'call'")
    assert loose.reason.startswith("correlation_id: required")
    assert (row.unit, row.classification) == ("call", Classification.BILLABLE)


def test_sums_that_leave_64_bits_stay_at_the_largest(books: Books) -> None:
    """One absurd tenant must not keep every later batch of its sidecar from being stored."""
    for batch in range(3):
        most = {"value": MAX_QUANTITY, "count": MAX_QUANTITY}
        events = [usage(f"e{batch}-{number}", **most) for number in range(500)]
        assert set(books.outcomes(*events)) == {"ACCEPTED"}

    [total] = books.totals()
    assert (total.value, total.event_count) == (2**63 - 1, 2**63 - 1)
    assert set(books.unadmitted().values()) == {2**61}


def test_replicas_that_get_the_same_events_count_them_once(books: Books) -> None:
    """The same events at once, in other batches and another order, as after a lost answer."""
    events = [usage(f"e{number}", tenant_id=f"t{number % 7}") for number in range(300)]
    batches = [events[:200], events[100:], events[::-1], events[50:250]]

    with ThreadPoolExecutor(len(batches)) as pool:
        results = list(pool.map(lambda batch: books.append(*batch), batches))

    accepted = [result.id for batch in results for result in batch if result.outcome is UsageOutcome.ACCEPTED]
    outcomes = {result.outcome for batch in results for result in batch}
    assert sorted(accepted) == sorted(event.id for event in events)
    assert outcomes == {UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE}
    assert sum(_value(books.totals(tenant=f"t{number}")) for number in range(7)) == 300


def _value(rows: Sequence[UsageLedgerRow]) -> int:
    return sum(row.value for row in rows)


def test_nothing_is_half_counted(books: Books) -> None:
    """An error after the append undoes events, identities, totals and counters together."""
    with pytest.raises(RuntimeError):
        _append_and_fail(books)

    assert (books.stored(), books.totals(), books.unadmitted()) == ([], [], {})
    assert books.outcomes(usage("a")) == ["ACCEPTED"]


def _append_and_fail(books: Books) -> None:
    with books.shop.database.writing() as session:
        books.ledger.append(session, [Arrival(usage("a"))], NOW)
        raise RuntimeError


def test_pages_of_events(books: Books) -> None:
    """The newest arrival first; the id of the last one seen is the cursor of the next page."""
    books.append(*(usage(f"e{number}") for number in range(5)), usage("p", metric="peak"))

    with books.shop.database.reading() as session:
        first = usage_events(session, "acme", "calls", limit=3)
        second = usage_events(session, "acme", "calls", before=first[-1].id, limit=3)
        others = usage_events(session, "globex")

    assert [row.event_id for row in (*first, *second)] == ["e4", "e3", "e2", "e1", "e0"]
    assert not others


def test_a_batch_that_adds_up_to_too_much_is_stored(shop: Any) -> None:
    """More in one batch than 64 bits hold: every event is kept, and the sum stays at the largest number."""
    books = Books(shop)
    events = [usage(f"e{number}", value=MAX_QUANTITY) for number in range(1100)]

    results = books.append(*events)
    books.append(usage("one-more"))

    assert {result.outcome for result in results} == {UsageOutcome.ACCEPTED}
    assert [(row.value, row.event_count) for row in books.totals()] == [(2**63 - 1, 1101)]
