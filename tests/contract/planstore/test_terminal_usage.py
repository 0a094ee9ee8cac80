"""The end of work: what happens after it is not billable, whichever arrives first (S0.9)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.usage import UsageEvent, UsageResult
from entitlement_sidecar.planstore.db import (
    Database,
    QuotaCounterRow,
    UsageClassificationRow,
    UsageLedgerRow,
)
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.facts import PAGE, Scope, facts
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.rebuild import Rebuild, RebuildRequest
from support.shop import CATALOGUE, NOW, Shop
from support.statements import Node, recorded
from support.waiting import until

METRICS = """
  done: {domain: api, unit: end, aggregation: sum, window: day, classification: non_billable, terminal: true}
plans:"""


def used(id_: str, minutes: float = 0, **more: Any) -> UsageEvent:
    """A billable event some minutes after one, of one piece of work."""
    fields = {"metric": "calls", "value": 1, "correlation_id": "order-1", **more}
    at = NOW + timedelta(minutes=60 + minutes)
    return UsageEvent(id=id_, tenant_id="acme", unit="", occurred_at=at, recorded_at=at, **fields)


def end(id_: str, minutes: float = 0, **more: Any) -> UsageEvent:
    """The end of that work."""
    return used(id_, minutes, metric="done", **more)


class Books:
    """The ledger of a shop with a terminal metric."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.ledger = Ledger(limits_of)

    def append(self, *events: UsageEvent) -> list[UsageResult]:
        """Stores events in a transaction of their own."""
        with self.shop.database.writing() as session:
            return self.ledger.append(session, [Arrival(event) for event in events], self.shop.clock.now())

    def classified(self) -> dict[str, str]:
        """What each event counts as now."""
        names = {1: "billable", 2: "non_billable", 3: "informational"}
        fact = facts(Scope("acme"))
        with self.shop.database.reading() as session:
            found = session.execute(select(fact.c.event_id, fact.c.classification)).all()
        return {event_id: names[classification] for event_id, classification in found}

    def sums(self) -> dict[int, int]:
        """Value of `calls` by classification."""
        row = UsageLedgerRow
        with self.shop.database.reading() as session:
            found = session.execute(select(row.classification, row.value).where(row.metric == "calls")).all()
        return {classification: value for classification, value in found if value}

    def unadmitted(self) -> set[int]:
        """What limits count without an admission."""
        with self.shop.database.reading() as session:
            return set(session.scalars(select(QuotaCounterRow.unadmitted)))

    def differences(self) -> list[Any]:
        """What a rebuild would change."""
        return Rebuild(self.shop.database, self.shop.clock).run(RebuildRequest(check=True)).differences


@pytest.fixture
def books(shop: Shop) -> Books:
    """Of a tenant that is subscribed."""
    shop.apply(CATALOGUE.replace("\nplans:", METRICS, 1))
    shop.subscribe()
    return Books(shop)


def test_after_the_end_nothing_is_billable(books: Books) -> None:
    """Later than the end, not at the same instant; other work, and other tenants, go on."""
    books.append(end("end"))

    before, same, after, other = books.append(
        used("before", -1), used("same"), used("after", 1), used("other", 1, correlation_id="order-2")
    )

    assert (before.rule, same.rule, other.rule) == ("", "", "")
    assert (after.outcome.name, after.rule) == ("ACCEPTED", "usage:terminal")
    assert books.classified() == {
        "end": "non_billable",
        "before": "billable",
        "same": "billable",
        "after": "non_billable",
        "other": "billable",
    }
    assert books.sums() == {1: 3, 2: 1}
    assert books.unadmitted() == {3}


def test_an_end_that_arrives_last_classifies_what_is_stored(books: Books) -> None:
    """By a record of its own; aggregates follow, and quota is given back."""
    books.append(used("before", -1), used("after", 1), used("later", 2))
    assert (books.sums(), books.unadmitted()) == ({1: 3}, {3})

    books.append(end("end"))

    assert books.classified()["after"] == books.classified()["later"] == "non_billable"
    assert (books.sums(), books.unadmitted()) == ({1: 1, 2: 2}, {1})
    with books.shop.database.reading() as session:
        rows = session.scalars(select(UsageClassificationRow).order_by(UsageClassificationRow.event_id)).all()
    assert [(row.event_id, row.rule) for row in rows] == [
        ("after", "usage:terminal"),
        ("later", "usage:terminal"),
    ]
    assert books.differences() == []


def test_an_end_of_long_work_that_arrives_last(books: Books) -> None:
    """More events than are read at once: each is classified anew, and gives back its quota."""
    books.append(*(used(f"e{number}", 1 + number / 100) for number in range(PAGE + 50)))
    books.append(used("void", corrects="e7", voids=True, value=0))

    books.append(end("end", 1))

    assert books.sums() == {1: 1, 2: PAGE + 48}
    assert len([one for one in books.classified().values() if one == "non_billable"]) == PAGE + 49
    assert max(books.unadmitted()) == 1
    assert books.differences() == []


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_events_are_not_compared_with_each_other(books: Books) -> None:
    """Also where PostgreSQL knows nothing yet of what was just stored, work grows as events do."""
    books.append(*(used(f"e{number}", 1) for number in range(PAGE)))

    with recorded(books.shop.database.engine) as statements:
        books.append(end("end"))
        books.append(used("void", corrects="e7", voids=True, value=0))
        assert books.differences() == []

    selects = [statement for statement in statements if statement.sql.startswith("SELECT")]
    with books.shop.database.engine.connect() as connection:
        most = max(_rows_passed(one.plan(connection, executed=True)) for one in selects)
    assert PAGE <= most < 20 * PAGE


def _rows_passed(plan: Node) -> int:
    """Rows that all steps together have handed on, or have compared for nothing."""
    passed = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")
    return sum(
        node.content["Actual Loops"] * sum(node.content.get(one, 0) for one in passed) for node in plan
    )


def test_an_end_and_a_correction_in_the_same_batch(books: Books) -> None:
    """What is voided in the batch that ends its work leaves one aggregate, and gives back its quota, once."""
    books.append(used("a", 1), used("b", 1))
    void = used("void", corrects="a", voids=True, value=0)

    books.append(end("end"), void)

    assert books.sums() == {2: 1}
    assert books.unadmitted() == {0}
    assert not books.differences()


def test_an_end_in_the_same_batch(books: Books) -> None:
    """Whatever the order in the batch, and the earliest end is the one."""
    books.append(used("after", 1), end("late-end", 5), end("end"), used("before", -1))
    books.append(end("earlier-end", -2), end("earlier-end", -2))

    assert books.classified()["after"] == books.classified()["before"] == "non_billable"
    assert books.sums() == {2: 2}
    assert books.differences() == []


def test_all_of_an_aggregate_may_leave(books: Books) -> None:
    """It stays as zeros, and counts again when something comes."""
    books.append(used("after", 1, value=5))
    books.append(end("end"))
    books.append(used("other", 3, value=2, correlation_id="order-2"))

    assert books.sums() == {1: 2, 2: 5}
    assert books.differences() == []


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_an_end_and_usage_at_once_at_two_replicas(books: Books, database: Database) -> None:
    """Neither sees what the other has not committed: the second waits for the first."""
    other = Ledger(limits_of)
    began = threading.Event()

    def append_other(event: UsageEvent) -> None:
        with database.writing() as session:
            began.set()
            other.append(session, [Arrival(event)], NOW)

    pairs: list[tuple[UsageEvent, UsageEvent]] = [(used("a", 1), end("a-end")), (end("b-end"), used("b", 1))]
    for first, second in pairs:
        began.clear()
        with ThreadPoolExecutor(1) as pool:
            with database.writing() as session:
                books.ledger.append(session, [Arrival(first)], NOW)
                waiting = pool.submit(append_other, second)
                began.wait(30)
                until(lambda: _waits(database), "somebody who waits for a turn")
            waiting.result(30)

    assert books.classified()["a"] == books.classified()["b"] == "non_billable"
    assert books.differences() == []


def _waits(database: Database) -> bool:
    """Whether somebody waits for a turn with a tenant."""
    with database.engine.connect() as connection:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool(connection.exec_driver_sql(query).scalar_one())


def test_many_at_once_leave_nothing_billable_after_the_end(books: Books) -> None:
    """Ends and usage in any order, by several replicas; the rest is as it should be."""
    works = [f"w{number}" for number in range(12)]
    batches: list[list[UsageEvent]] = [
        [end(f"end-{work}", correlation_id=work), used(f"b-{work}", -1, correlation_id=work)]
        for work in works
    ]
    batches += [
        [used(f"{work}-{number}", number + 1, correlation_id=work) for number in range(3)] for work in works
    ]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda batch: books.append(*batch), batches))

    assert books.sums() == {1: 12, 2: 36}
    assert books.differences() == []


def test_an_adjusted_aggregate_where_the_window_was_closed(books: Books) -> None:
    """A late end changes sums that were told to somebody."""
    books.append(used("after", 1))
    books.shop.clock.advance(timedelta(days=40).total_seconds())

    # Recorded in time, and long on a sidecar's disk.
    books.append(end("end"))

    with books.shop.database.reading() as session:
        rows = session.scalars(select(UsageLedgerRow).where(UsageLedgerRow.metric == "calls")).all()
    assert {row.state for row in rows} == {"adjusted"}
    assert books.sums() == {2: 1}
