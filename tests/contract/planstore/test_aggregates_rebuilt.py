"""Aggregates follow from events: whatever arrives, in whatever order, a rebuild finds nothing to change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text, update

from entitlement_sidecar.cli.main import run
from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.db import UsageLedgerRow
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.rebuild import Rebuild, RebuildRequest
from support.shop import CATALOGUE, Shop

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
METRICS = """
  peak: {domain: api, unit: call, aggregation: max, window: day, classification: billable}
  level: {domain: storage, unit: byte, aggregation: last, window: day, classification: billable}
  people: {domain: api, unit: person, aggregation: unique_count, window: day, classification: billable}
  cycle: {domain: api, unit: call, aggregation: sum, window: billing_cycle, classification: billable}
  done: {domain: api, unit: end, aggregation: sum, window: day, classification: non_billable, terminal: true}
plans:"""

USED = ("calls", "peak", "level", "people", "cycle", "done")


def used(number: int, metric: str, value: int, minutes: int, **more: Any) -> UsageEvent:
    """An event some minutes before now."""
    work, subject = f"work-{minutes % 2}", f"u{value % 3}"
    fields = {"unit": "", "correlation_id": work, "recorded_at": NOW, "subject": subject}
    at = NOW - timedelta(minutes=minutes)
    return UsageEvent(
        id=f"e{number}", tenant_id="acme", metric=metric, value=value, occurred_at=at, **{**fields, **more}
    )


def correction(number: int, of: int, value: int, *, voids: bool) -> UsageEvent:
    """A void, or another value."""
    return UsageEvent(
        id=f"c{number}",
        tenant_id="acme",
        metric="",
        value=0 if voids else value,
        unit="",
        occurred_at=NOW,
        recorded_at=NOW,
        corrects=f"e{of}",
        voids=voids,
        reason="a mistake",
    )


# Within the day, in the days before, and in months whose windows are closed.
_MINUTES = st.one_of(st.integers(0, 8), st.integers(700, 708), st.sampled_from([50_000, 50_001, 1_440]))
_VALUES = st.one_of(st.integers(0, 9), st.just(MAX_QUANTITY))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(USED), _VALUES, _MINUTES),
        st.tuples(st.just("correct"), st.integers(0, 30), _VALUES, st.booleans()),
        st.tuples(st.just("again"), st.integers(0, 30)),
    ),
    min_size=8,
    max_size=40,
)


def _events(steps: list[tuple[Any, ...]]) -> list[UsageEvent]:
    """Steps name earlier ones by number; those that have none to name are left out."""
    made: list[UsageEvent] = []
    numbers: list[int] = []
    for number, step in enumerate(steps):
        if step[0] == "again" and made:
            made.append(made[step[1] % len(made)])
        elif step[0] == "correct" and numbers:
            of = numbers[step[1] % len(numbers)]
            made.append(correction(number, of, step[2], voids=step[3]))
        elif step[0] in USED:
            numbers.append(number)
            made.append(used(number, *step))
    return made


class Books:
    """A ledger, and the rebuild of its aggregates."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.ledger = Ledger(limits_of)
        self.rebuild = Rebuild(shop.database, shop.clock)

    def append(self, *events: UsageEvent) -> list[str]:
        """Stores events in a transaction; names of their outcomes."""
        with self.shop.database.writing() as session:
            arrivals = [Arrival(event) for event in events]
            results = self.ledger.append(session, arrivals, self.shop.clock.now())
        return [result.outcome.name for result in results]

    def differences(self, **more: Any) -> list[Any]:
        """What a check finds."""
        return self.rebuild.run(RebuildRequest(check=True, **more)).differences

    def rows(self, metric: str = "") -> dict[tuple[str, int, datetime], UsageLedgerRow]:
        """Aggregates."""
        with self.shop.database.reading() as session:
            found = session.query(UsageLedgerRow).all()
        return {
            (row.metric, row.classification, row.window_start): row
            for row in found
            if not metric or row.metric == metric
        }


@pytest.fixture
def books(shop: Shop) -> Books:
    """Of a tenant that is subscribed."""
    shop.apply(CATALOGUE.replace("\nplans:", METRICS, 1))
    shop.subscribe()
    return Books(shop)


def test_random_histories_are_rebuilt_to_the_bit(books: Books) -> None:
    """Events late and in time, ends of work, corrections and repetitions, in batches of any size."""
    tenants = iter(range(10_000))

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_STEPS, st.data())
    def history(steps: list[tuple[Any, ...]], data: st.DataObject) -> None:
        tenant = f"t{next(tenants)}"
        books.shop.subscribe(tenant)
        events = [_of(event, tenant) for event in _events(steps)]
        while events:
            size = data.draw(st.integers(1, 8))
            books.append(*events[:size])
            events = events[size:]
        assert books.differences(tenant_id=tenant) == []

    history()


def _of(event: UsageEvent, tenant: str) -> UsageEvent:
    return msgspec.structs.replace(event, tenant_id=tenant)


def test_what_was_damaged_is_found_and_put_right(books: Books) -> None:
    """A wrong value, a missing aggregate and one without events: each is told, and then it is right."""
    books.append(used(1, "calls", 5, 1), used(2, "peak", 7, 1), used(3, "level", 3, 1))
    with books.shop.database.writing() as session:
        session.execute(update(UsageLedgerRow).where(UsageLedgerRow.metric == "calls").values(value=6))
        session.execute(text("DELETE FROM subscription_usage_ledger WHERE metric = 'peak'"))

    found = books.differences()
    repaired = books.rebuild.run(RebuildRequest())

    assert [(one.key.metric, one.kept.get("value"), one.right["value"]) for one in found] == [
        ("calls", 6, 5),
        ("peak", None, 7),
    ]
    assert repaired.different == 2
    assert books.differences() == []
    assert {key[0]: row.value for key, row in books.rows().items()} == {"calls": 5, "peak": 7, "level": 3}


def test_the_command_lists_what_differs(
    books: Books, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`--check` ends with 1 and changes nothing; without it all is right afterwards."""
    books.append(used(1, "calls", 5, 1), used(2, "peak", 7, 1))
    with books.shop.database.writing() as session:
        session.execute(update(UsageLedgerRow).where(UsageLedgerRow.metric == "calls").values(value=6))
    url = books.shop.database.engine.url.render_as_string(hide_password=False)
    where = ["usage", "rebuild", "--database", url, "--state-dir", str(tmp_path / "state"), "-o", "json"]

    codes = [run([*where, *more]) for more in (["--check"], ["--check", "--metric", "peak"], [], ["--check"])]

    said = capsys.readouterr()
    assert codes == [1, 0, 0, 0]
    assert said.out.count('"right": 5') == 2
    assert said.err.splitlines() == [
        "2 aggregates of 2 events: 1 differ",
        "1 aggregates of 1 events: 0 differ",
        "2 aggregates of 2 events: 1 differed and were made again",
        "2 aggregates of 2 events: 0 differ",
    ]
