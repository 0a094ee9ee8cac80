"""Many at once: a limit is reached and not passed, and of two operators one learns that he was late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from sqlalchemy import func, select

from entitlement_sidecar.planstore.db import (
    ConsumptionRow,
    Database,
    QuotaCounterRow,
    UsageEventKeyRow,
    UsageEventRow,
    create_engine_for,
)
from support.shop import CATALOGUE, Shop

CALLERS = 200
LIMIT = 50
ACME = "/api/billing/organizations/acme"
FIFTY = CATALOGUE.replace("{amount: 5, window: day}", f"{{amount: {LIMIT}, window: day}}")

_T = TypeVar("_T")


@pytest.fixture
def replica(shop: Shop) -> Any:
    """A second plan store on the same database, with connections of its own."""
    url = shop.database.engine.url.render_as_string(hide_password=False)
    database = Database(create_engine_for(url))
    yield Shop(database)
    database.close()


def _at_once(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """All of them, begun together."""
    together = threading.Barrier(len(calls))

    def begin(call: Callable[[], _T]) -> _T:
        together.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(begin, calls))


def _use(shop: Shop, number: int) -> Callable[[], dict[str, Any]]:
    body = {
        "feature": "calls",
        "record_usage": True,
        "request_id": f"job-{number}",
        "correlation_id": "together",
    }

    def call() -> dict[str, Any]:
        answer = shop.rest.post(f"{ACME}/quotas/check", json=body)
        assert answer.status_code == 200, answer.text
        decision: dict[str, Any] = answer.json()
        return decision

    return call


def _assert_fifty(shop: Shop, decisions: Sequence[dict[str, Any]]) -> None:
    """As many were allowed as may be, and every table says the same."""
    allowed = [one for one in decisions if one["allowed"]]
    assert len(allowed) == LIMIT
    assert {one["reason"] for one in decisions if not one["allowed"]} == {"QUOTA_EXCEEDED"}
    assert sorted(one["used"] for one in allowed) == list(range(1, LIMIT + 1))
    assert len({one["consumption_id"] for one in allowed}) == LIMIT
    summary = shop.rest.get(f"{ACME}/usage").json()["usage"]
    assert [(row["metric"], row["value"], row["event_count"]) for row in summary] == [("calls", LIMIT, LIMIT)]
    with shop.database.reading() as session:
        for table in (UsageEventRow, UsageEventKeyRow, ConsumptionRow):
            assert session.scalar(select(func.count()).select_from(table)) == LIMIT
        counters = session.scalars(select(QuotaCounterRow)).all()
        assert [(row.admitted, row.unadmitted, row.delegated) for row in counters] == [(LIMIT, 0, 0)] * 2


def test_a_limit_is_reached_and_not_passed(shop: Shop) -> None:
    """Two hundred at once get fifty between them; asked again, the same fifty get the same answer."""
    shop.apply(FIFTY)
    shop.subscribe()
    calls = [_use(shop, number) for number in range(CALLERS)]
    decisions = _at_once(calls)
    _assert_fifty(shop, decisions)
    again = _at_once(calls)
    assert [one["consumption_id"] for one in again] == [one["consumption_id"] for one in decisions]
    _assert_fifty(shop, again)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_replicas_share_one_limit(shop: Shop, replica: Shop) -> None:
    """Two plan stores on one database, half of the calls at each, and every call at both."""
    shop.apply(FIFTY)
    shop.subscribe()
    here, there = shop, replica
    decisions = _at_once([_use(here if number % 2 else there, number) for number in range(CALLERS)])
    _assert_fifty(shop, decisions)
    crossed = _at_once([_use(there if number % 2 else here, number) for number in range(CALLERS)])
    assert [one["consumption_id"] for one in crossed] == [one["consumption_id"] for one in decisions]
    _assert_fifty(replica, crossed)


@pytest.mark.parametrize(
    ("named", "status"),
    [({"json": {"expected_version": 1}}, 409), ({"headers": {"If-Match": '"1"'}}, 412)],
    ids=["expected_version", "If-Match"],
)
def test_of_two_operators_one_is_late(shop: Shop, named: dict[str, Any], status: int) -> None:
    """Whoever comes second is refused and told the version that there is now; nothing of his is done."""
    shop.subscribe()

    def change(plan: str) -> Callable[[], Any]:
        headers = {"Authorization": "Bearer of-this-test", **named.get("headers", {})}
        body = {"plan": plan, **named.get("json", {})}
        return lambda: shop.rest.post(f"{ACME}/subscription", json=body, headers=headers)

    answers = dict(zip(("trial", "free"), _at_once([change("trial"), change("free")]), strict=True))
    assert sorted(answer.status_code for answer in answers.values()) == [200, status]
    (late,) = [answer for answer in answers.values() if answer.status_code == status]
    (won,) = [plan for plan, answer in answers.items() if answer.status_code == 200]
    assert late.json()["current_version"] == 2
    assert late.headers["etag"] == '"2"'
    now = shop.rest.get(f"{ACME}/subscription").json()
    assert (now["plan"], now["version"]) == (won, 2)
