"""Reports of usage: by whom, by what and by day, with what holds of each event now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.usage.arrival import Arrival
from support.shop import CATALOGUE

ACME = "/api/billing/organizations/acme"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MORE = """
  peak: {domain: api, unit: call, aggregation: max, window: day, classification: non_billable}
  level: {domain: storage, unit: byte, aggregation: last, window: day, classification: informational}
  people: {domain: api, unit: person, aggregation: unique_count, window: day, classification: non_billable}
plans:"""


def used(id_: str, **more: Any) -> UsageEvent:
    """An event of `calls`, an hour ago."""
    at = more.pop("at", NOW - timedelta(hours=1))
    fields = {"tenant_id": "acme", "metric": "calls", "value": 1, "unit": "", "correlation_id": "w"}
    return UsageEvent(id=id_, occurred_at=at, recorded_at=at, **{**fields, **more})


def correction(id_: str, original: str, value: int | None) -> UsageEvent:
    """It voids without a value."""
    more = {"value": value or 0, "corrects": original, "voids": value is None, "reason": "wrong"}
    return used(id_, metric="", **more)


@pytest.fixture
def books(shop: Any) -> Any:
    """A shop with a subscribed tenant and metrics of every kind."""
    shop.apply(CATALOGUE.replace("\nplans:", MORE))
    shop.subscribe()
    return shop


def store(shop: Any, *events: UsageEvent) -> None:
    with shop.database.writing() as session:
        results = shop.ledger.append(session, [Arrival(one) for one in events], shop.clock.now())
    assert {one.outcome.name for one in results} == {"ACCEPTED"}


def report(shop: Any, **query: Any) -> list[dict[str, Any]]:
    answer = shop.rest.get(f"{ACME}/usage/report", params=query)
    assert answer.status_code == 200, answer.text
    lines: list[dict[str, Any]] = answer.json()["lines"]
    return lines


def sums(lines: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(one["key"], one["metric"]): (one["value"], one["event_count"]) for one in lines}


WHO = {"subject": "ann", "actor_id": "bot", "emitter": "svc", "dimensions": {"project": "p1"}}


BY = {
    "subject": "ann",
    "actor": "bot",
    "emitter": "svc",
    "dimension:project": "p1",
    'dimension:it\'s "odd".': "",
}


def test_usage_by_each_of_them(books: Any) -> None:
    """Events that say nothing of it have an empty key; those of other metrics have lines of their own."""
    store(
        books,
        used("a", value=2, **WHO),
        used("b", value=3, **WHO),
        used("c", value=4),
        used("d", metric="peak"),
    )

    for by, key in BY.items():
        calls = {(key, "calls"): (5, 2), ("", "calls"): (4, 1)} if key else {("", "calls"): (9, 3)}
        assert sums(report(books, by=by)) == {**calls, ("", "peak"): (1, 1)}
    assert sums(report(books, by="metric")) == {("calls", "calls"): (9, 3), ("peak", "peak"): (1, 1)}
    assert set(sums(report(books, by="day"))) == {("2026-01-31", "calls"), ("2026-01-31", "peak")}


NAMES = ['a"b', "a'b", "$.x", "a.b", "[0]", "a\\b", "\u00e9", "\U0001f600", "1", "a b"]


def test_a_dimension_of_any_name_is_found(books: Any) -> None:
    """Names are those that events have, whatever they would mean in a path."""
    store(books, *(used(f"e{n}", dimensions={name: f"of {name}"}) for n, name in enumerate(NAMES)))

    for name in NAMES:
        assert {one["key"] for one in report(books, by=f"dimension:{name}")} == {"", f"of {name}"}


def test_sums_end_at_64_bits(books: Any) -> None:
    """As those of the ledger do: reports of very large values are answered, and exact while they can be."""
    most = 2**53 - 1
    store(books, *(used(f"a{n}", value=most, count=most, subject="ann") for n in range(1100)))
    store(books, *(used(f"b{n}", value=most, count=most, subject="bob") for n in range(900)))

    assert sums(report(books)) == {
        ("ann", "calls"): (2**63 - 1, 2**63 - 1),
        ("bob", "calls"): (900 * most, 900 * most),
    }


def test_values_add_up_as_their_metric_says(books: Any) -> None:
    """The greatest, the last to happen, and how many subjects there were."""
    hours = [NOW - timedelta(hours=back) for back in (3, 1, 2)]
    for metric in ("peak", "level", "people"):
        events = [
            used(f"{metric}{n}", metric=metric, value=value, subject=subject, at=at)
            for n, (value, subject, at) in enumerate(zip((7, 3, 5), ("a", "b", "a"), hours, strict=True))
        ]
        store(books, *events)

    assert sums(report(books, by="metric")) == {
        ("peak", "peak"): (7, 3),
        ("level", "level"): (3, 3),
        ("people", "people"): (2, 3),
    }


def test_corrections_hold(books: Any) -> None:
    """What is voided is in no line, what is amended has its last value; a correction is no event itself."""
    store(
        books, used("a", value=5, subject="ann"), used("b", value=7, subject="ann"), used("c", subject="bob")
    )
    store(books, correction("k1", "a", 9), correction("k2", "a", 2), correction("k3", "c", None))

    assert sums(report(books, by="subject")) == {("ann", "calls"): (9, 2)}


def test_a_report_has_a_span_and_a_metric(books: Any) -> None:
    """The instant that it begins at belongs to it, the one that it ends at does not."""
    days = [NOW - timedelta(days=back) for back in (1, 2, 3, 40)]
    store(
        books, *(used(f"e{n}", at=at) for n, at in enumerate(days)), used("other", metric="peak", at=days[0])
    )

    since, until = (at.isoformat() for at in (days[2], days[0]))
    found = report(books, by="day", metric="calls", since=since, until=until)
    daily = books.rest.get(f"{ACME}/usage/daily", params={"metric": "calls"}).json()

    assert [one["key"] for one in found] == ["2026-01-28", "2026-01-29"]
    assert [one["key"] for one in daily["lines"]] == ["2026-01-28", "2026-01-29", "2026-01-30"]
    assert (daily["by"], daily["next_cursor"]) == ("day", None)


def test_a_report_goes_on_where_it_ended(books: Any) -> None:
    """Page after page each line comes once."""
    store(books, *(used(f"e{n}", subject=f"s{n % 7}", metric=("calls", "peak")[n % 2]) for n in range(40)))

    pages, cursor = [], ""
    while cursor is not None:
        answer = books.rest.get(f"{ACME}/usage/report", params={"limit": 3, "cursor": cursor}).json()
        pages.append(answer["lines"])
        cursor = answer["next_cursor"]

    lines = [(one["key"], one["metric"]) for page in pages for one in page]
    assert [len(page) for page in pages] == [3, 3, 3, 3, 2]
    assert len(lines) == len(set(lines)) == 14


WRONG: list[tuple[dict[str, str], str]] = [
    ({"by": "colour"}, "by"),
    ({"by": "dimension:"}, "by"),
    ({"metric": "No Such"}, "metric"),
    ({"since": "2024-01-01T00:00:00Z"}, "since"),
    ({"since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "since"),
    ({"until": "0001-01-01T00:00:00Z"}, "until"),
    ({"cursor": "x"}, "cursor"),
]


def test_what_is_wrong_with_a_report_is_named(books: Any) -> None:
    """With what would be right."""
    for query, field in WRONG:
        answer = books.rest.get(f"{ACME}/usage/report", params=query)
        assert answer.status_code == 422
        assert [one["field"] for one in answer.json()["violations"]] == [field]


def test_a_tenant_sees_its_own(books: Any) -> None:
    """Of nobody else; a tenant that nobody knows is not found."""
    store(books, used("a", tenant_id="globex"))
    assert report(books) == []
    assert books.rest.get("/api/billing/organizations/none/usage/report").status_code == 404
