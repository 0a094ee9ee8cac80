"""Usage whose window is over or closed when it arrives, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entitlement_sidecar.domain.usage import UsageEvent, UsageResult
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.ledger import Ledger

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
STRICT = """metrics:
  strict: {domain: api, unit: call, window: day, classification: billable, close_after: 1d,
           after_close: refuse}
"""


def usage(id_: str, **more: Any) -> UsageEvent:
    """A billable event of metric `calls`, recorded as it happened unless told otherwise."""
    at = more.setdefault("occurred_at", NOW)
    fields = {
        "tenant_id": "acme",
        "metric": "calls",
        "value": 1,
        "unit": "",
        "recorded_at": at,
        "correlation_id": "work",
    }
    return UsageEvent(id=id_, **{**fields, **more})


@pytest.fixture
def books(shop: Any, catalogue_text: str) -> Any:
    """A function that stores events."""
    shop.apply(catalogue_text.replace("metrics:\n", STRICT, 1))
    shop.subscribe()
    ledger = Ledger(limits_of)

    def append(*events: UsageEvent) -> list[UsageResult]:
        with shop.database.writing() as session:
            return ledger.append(session, [Arrival(event) for event in events], shop.clock.now())

    return append


def told(results: list[UsageResult]) -> list[tuple[str, str]]:
    """Outcomes with their rules."""
    return [(one.outcome.name, one.rule) for one in results]


def test_what_was_recorded_in_time_is_not_late(books: Any, shop: Any) -> None:
    """However long it waited on a sidecar's disk; what was written down after its window ended is."""
    last_month = NOW - timedelta(days=31)

    waited = books(usage("waited", occurred_at=last_month))
    late = books(usage("late", occurred_at=last_month, recorded_at=NOW))

    months = shop.rest.get("/api/billing/organizations/acme/usage").json()["usage"]
    assert (told(waited), told(late)) == ([("ACCEPTED", "")], [("LATE_ACCEPTED", "usage:late")])
    assert [(one["window_start"], one["value"]) for one in months] == [("2025-12-01T00:00:00Z", 2)]


def test_a_closed_window_may_refuse(books: Any, shop: Any) -> None:
    """A day after its end nothing more counts in it, corrections neither; until then it does."""
    yesterday = NOW - timedelta(days=1)

    in_time = books(usage("a", metric="strict", occurred_at=yesterday))
    shop.clock.advance(timedelta(days=1).total_seconds())
    too_late = books(
        usage("b", metric="strict", occurred_at=yesterday),
        usage("void", metric="", value=0, corrects="a", voids=True, occurred_at=NOW),
    )

    assert told(in_time) == [("ACCEPTED", "")]
    assert told(too_late) == [("LATE_REFUSED", "usage:closed")] * 2


def test_the_bounds_of_a_metric(books: Any) -> None:
    """Older than 35 days, or more than five minutes ahead, when it was recorded: refused, and told why."""
    results = books(
        usage("old", occurred_at=NOW - timedelta(days=36), recorded_at=NOW),
        usage("ahead", occurred_at=NOW + timedelta(minutes=6), recorded_at=NOW),
    )

    assert told(results) == [("LATE_REFUSED", "usage:age"), ("INVALID", "usage:future")]
