"""`entitlements leases` and `usage reconcile`: what they ask, what they print, how they exit."""

from __future__ import annotations

import json
from typing import Any

from support.commands import AnsweringPlanstore, Run

LEASE = {
    "id": "lease:1",
    "kind": "lease",
    "feature": "requests",
    "holder": "edge-1:7",
    "granted": 100,
    "used": 40,
    "returned": 0,
    "outstanding": 60,
    "state": "forfeited",
    "strict": True,
    "opened_at": "2026-01-31T12:00:00Z",
    "expires_at": "2026-01-31T12:00:30Z",
    "ends_at": None,
}


def line(difference: int, unexplained: int, *explained: dict[str, Any]) -> dict[str, Any]:
    """A line of a reconciliation."""
    return {
        "feature": "requests",
        "limit": "month",
        "window_start": "2026-01-01T00:00:00Z",
        "window_end": "2026-02-01T00:00:00Z",
        "column": "admitted",
        "authority": 40 + difference,
        "ledger": 40,
        "difference": difference,
        "unexplained": unexplained,
        "strict": False,
        "explained": list(explained),
    }


ON_THE_WAY = {"cause": "on the way", "quantity": 2, "lease_id": "lease:1", "holder": "edge-1:7"}


def test_leases_are_listed(entitlements: Run, planstore: AnsweringPlanstore, at: list[str]) -> None:
    """Page after page; the filters are the query."""
    planstore.reply(
        (200, {"leases": [LEASE], "next_cursor": "x"}), (200, {"leases": [LEASE], "next_cursor": None})
    )

    result = entitlements("leases", "list", "a/b", "--forfeited", "--feature", "requests", *at, "-o", "json")

    assert (result.code, [one["outstanding"] for one in result.json]) == (0, [60, 60])
    first, second = planstore.calls
    assert first.path.startswith("/api/billing/organizations/a%2Fb/leases?")
    assert "forfeited=true" in first.path
    assert "feature=requests" in first.path
    assert "cursor=x" in second.path


def test_what_lost_holders_had_is_released(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str]
) -> None:
    """With a reason, which is required."""
    assert entitlements("leases", "release-forfeited", "acme", *at).code == 2
    planstore.reply((200, {"leases": 1, "tokens": 60}))

    result = entitlements("leases", "release-forfeited", "acme", "--reason", "scrapped", *at, "-o", "json")

    assert (result.code, result.json) == (0, {"leases": 1, "tokens": 60})
    (call,) = planstore.calls
    assert (call.method, call.path) == ("POST", "/api/billing/organizations/acme/leases/release-forfeited")
    assert json.loads(call.body) == {"feature": "", "reason": "scrapped"}


def test_differences_are_shown_with_their_cause(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str]
) -> None:
    """What agrees is left out; what is explained is no failure."""
    answer = {"at": "2026-01-31T12:00:00Z", "lines": [line(0, 0), line(2, 0, ON_THE_WAY)]}
    planstore.reply((200, answer), (200, answer))

    result = entitlements("usage", "reconcile", "acme", "--at", "2026-01-31T12:00:00Z", *at, "-o", "json")
    everything = entitlements("usage", "reconcile", "acme", "--all", *at, "-o", "json")

    assert (result.code, [one["cause"] for one in result.json]) == (
        0,
        ["2: on the way (lease:1 of edge-1:7)"],
    )
    assert "at=2026-01-31T12%3A00%3A00" in planstore.calls[0].path
    assert len(everything.json) == 2


def test_a_limit_that_is_strict_is_shown(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str]
) -> None:
    """Although nothing differs."""
    forfeited = {**line(0, 0), "column": "forfeited", "strict": True}
    planstore.reply((200, {"at": "2026-01-31T12:00:00Z", "lines": [line(0, 0), forfeited]}))

    result = entitlements("usage", "reconcile", "acme", *at, "-o", "json")

    assert (result.code, [one["cause"] for one in result.json]) == (
        0,
        ["strict: so much is lost that no leases are granted"],
    )


def test_what_has_no_cause_is_a_failure(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str]
) -> None:
    """So that it can be run by a timer."""
    planstore.reply((200, {"at": "2026-01-31T12:00:00Z", "lines": [line(2, 2)]}))

    assert entitlements("usage", "reconcile", "acme", *at).code == 1
