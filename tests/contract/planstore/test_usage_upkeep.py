"""What time makes of usage: windows are closed, raw events removed, months get their partitions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.db import Database, UsageLedgerRow
from entitlement_sidecar.planstore.db.partitions import drop_empty_months, make_months
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.closing import Closer
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.rebuild import Rebuild, RebuildRequest
from entitlement_sidecar.planstore.usage.retention import Retaining
from support.shop import CATALOGUE, NOW, Shop

DAY = 86400.0
LONG_AGO = datetime(2024, 1, 9, tzinfo=UTC)
"""In a month that no other test has a partition for."""
METRICS = """
  pages: {domain: api, unit: page, aggregation: sum, window: day, classification: billable,
          max_age: 400d, close_after: 2d}
  views: {domain: api, unit: view, aggregation: sum, window: day, classification: informational,
          max_age: 2d, close_after: 2d}
  ever: {domain: api, unit: view, aggregation: sum, window: lifetime, classification: informational,
         max_age: 2d}
plans:"""
KEPT = """
retention: {informational: 30d}
plans:"""


class Books:
    """The ledger of a shop, and what becomes of it with time."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.ledger = Ledger(limits_of)
        self.closer = Closer(shop.database, shop.clock)
        self.retaining = Retaining(shop.database, shop.clock)

    def append(self, id_: str, metric: str, **more: Any) -> str:
        """Stores one event; the name of its outcome."""
        now = self.shop.clock.now()
        fields = {"value": 1, "occurred_at": now, "recorded_at": now, **more}
        event = UsageEvent(id=id_, tenant_id="acme", metric=metric, unit="", correlation_id="work", **fields)
        with self.shop.database.writing() as session:
            return self.ledger.append(session, [Arrival(event)], now)[0].outcome.name

    def states(self) -> list[tuple[str, str, int]]:
        """Metric, state and value of each aggregate, in the order of windows."""
        with self.shop.database.reading() as session:
            rows = session.query(UsageLedgerRow).order_by(UsageLedgerRow.window_start, UsageLedgerRow.metric)
            return [(row.metric, row.state, row.value) for row in rows]

    def events(self) -> list[str]:
        """Ids of the raw events that are there."""
        with self.shop.database.reading() as session:
            return list(session.scalars(text("SELECT event_id FROM usage_events ORDER BY id")))


@pytest.fixture
def books(shop: Shop) -> Books:
    """Of a tenant that is subscribed, with usage that is kept for a month where nobody pays for it."""
    shop.apply(CATALOGUE.replace("\nplans:", METRICS, 1).replace("\nplans:", KEPT, 1))
    shop.subscribe()
    return Books(shop)


def test_a_window_is_closed_when_its_grace_has_passed(books: Books) -> None:
    """Two days after its end, once; what comes later is counted and shows."""
    books.append("a", "pages")
    books.shop.clock.advance(2 * DAY)
    early = books.closer.close_due()
    books.shop.clock.advance(DAY)

    assert (early, books.closer.close_due(), books.closer.close_due()) == (0, 1, 0)
    assert books.states() == [("pages", "closed", 1)]

    assert books.append("late", "pages", occurred_at=NOW) == "LATE_ACCEPTED"
    assert books.closer.close_due() == 0
    assert books.states() == [("pages", "adjusted", 2)]


def test_what_comes_first_after_the_end_is_an_adjustment(books: Books) -> None:
    """Whether the worker has come by or not: nobody was told of that sum before."""
    books.shop.clock.advance(10 * DAY)
    books.append("late", "pages", occurred_at=NOW)
    books.append("in-time", "pages")

    assert books.states() == [("pages", "adjusted", 1), ("pages", "open", 1)]


def test_raw_events_are_removed_class_by_class(books: Books) -> None:
    """Aggregates stay, as does what is billable, young, or of a window that never ends."""
    for id_, metric in (("paid", "pages"), ("seen", "views"), ("ever", "ever")):
        books.append(id_, metric)
    books.shop.clock.advance(40 * DAY)
    books.append("young", "views")
    before = books.states()

    removed = books.retaining.step(), books.retaining.step()

    assert removed == (1, 0)
    assert books.events() == ["paid", "ever", "young"]
    assert books.states() == before
    assert books.append("seen", "views", occurred_at=NOW, recorded_at=NOW) == "DUPLICATE"


def test_a_rebuild_leaves_what_was_removed(books: Books) -> None:
    """It says how many windows it cannot make again, and changes none of them."""
    books.append("seen", "views", value=7)
    books.append("paid", "pages", value=3)
    books.shop.clock.advance(40 * DAY)
    books.retaining.step()
    before = books.states()

    report = Rebuild(books.shop.database, books.shop.clock).run(RebuildRequest())

    assert (report.skipped, report.aggregates, report.different) == (1, 1, 0)
    assert books.states() == before


def test_a_window_without_its_events_still_counts_late_ones(books: Books) -> None:
    """What is added is added to what was known."""
    books.append("seen", "views", value=7)
    books.shop.clock.advance(40 * DAY)
    books.retaining.step()

    books.append("late", "views", occurred_at=NOW, recorded_at=NOW, value=2)

    assert books.states() == [("views", "adjusted", 9)]


def test_nothing_else_is_removed(books: Books) -> None:
    """The database refuses, whoever asks, also after retention has removed something."""
    books.append("seen", "views")
    books.shop.clock.advance(40 * DAY)
    books.retaining.step()
    books.append("young", "views")

    for statement in ("DELETE FROM usage_events", "UPDATE usage_events SET value = 2"):
        with pytest.raises(DBAPIError, match="append-only"), books.shop.database.writing() as session:
            session.execute(text(statement))
    assert books.events() == ["young"]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
class TestMonths:
    """Partitions, which PostgreSQL alone has."""

    @pytest.fixture(autouse=True)
    def back_to_the_default(self, database: Database) -> Any:
        """Partitions that a test made are there for nobody else."""
        with database.engine.begin() as connection:
            before = self._months(connection)
        yield
        with database.engine.begin() as connection:
            for name in set(self._months(connection)) - set(before):
                connection.execute(text(f"DROP TABLE {name}"))

    def _months(self, connection: Any) -> list[str]:
        query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage_events'::regclass"
        return sorted(set(connection.scalars(text(query))) - {"usage_events_default"})

    def test_what_waited_for_its_month_moves(self, books: Books, database: Database) -> None:
        """Events without a partition are kept in the default one until theirs is made."""
        for id_, at in (("a", LONG_AGO), ("b", LONG_AGO - timedelta(days=40))):
            books.append(id_, "pages", occurred_at=at, recorded_at=at)
        count = text("SELECT count(*) FROM ONLY usage_events_default")

        with database.engine.begin() as connection:
            before = connection.scalar(count)
            made = make_months(connection, LONG_AGO.date()), make_months(connection, LONG_AGO.date())
            after = connection.scalar(count)
            names = self._months(connection)

        assert (before, after) == (2, 1)
        assert made == (4, 0)
        assert {"usage_events_2024_01", "usage_events_2024_04"} <= set(names)
        assert books.events() == ["a", "b"]
        assert books.append("c", "pages", occurred_at=LONG_AGO, recorded_at=LONG_AGO) == "ACCEPTED"

    def test_months_that_hold_nothing_are_dropped(self, books: Books, database: Database) -> None:
        """Only those, and only old ones."""
        with database.engine.begin() as connection:
            make_months(connection, (LONG_AGO - timedelta(days=60)).date())
        books.append("a", "pages", occurred_at=LONG_AGO, recorded_at=LONG_AGO)

        with database.engine.begin() as connection:
            dropped = drop_empty_months(connection, (LONG_AGO + timedelta(days=40)).date())
            names = self._months(connection)

        assert dropped == 2
        assert "usage_events_2024_01" in names
        assert "usage_events_2023_12" not in names

    def test_the_last_day_is_never_removed(self, database: Database) -> None:
        """Whatever is asked of the function that removes."""
        call = text("SELECT usage_events_remove(1, :now - interval '1 day', :now, :now)")
        with (
            pytest.raises(DBAPIError, match="events of the last day are kept"),
            database.writing() as session,
        ):
            session.execute(call, {"now": datetime.now(UTC)})

    def test_a_setting_alone_opens_nothing_for_others(self, books: Books, database: Database) -> None:
        """Functions of the owner remove; a role with the right to delete, and the setting, does not."""
        books.append("a", "pages")
        with database.engine.connect() as connection, connection.begin() as transaction:
            for statement in (
                "CREATE ROLE usage_remover",
                "GRANT SELECT, DELETE ON usage_events TO usage_remover",
                "SET LOCAL entitlements.usage_events = 'removing'",
                "SET LOCAL ROLE usage_remover",
            ):
                connection.execute(text(statement))
            with pytest.raises(DBAPIError, match="append-only"):
                connection.execute(text("DELETE FROM usage_events"))
            transaction.rollback()
        assert books.events() == ["a"]
