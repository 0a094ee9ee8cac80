"""Commands that talk to a plan store: what they send, what they print, how they fail."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.commands import AnsweringPlanstore, Run

CATALOGUE = Path(__file__).parents[3] / "examples" / "catalogues" / "tasks-and-tokens.yaml"


def test_a_catalogue_is_applied_as_it_is_written(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str]
) -> None:
    """The file's text, with its type and the token."""
    planstore.reply((200, {"version": 3, "changed_plans": ["pro"]}))
    result = entitlements("catalogue", "apply", str(CATALOGUE), *at, "-o", "json")

    assert (result.code, result.json["version"]) == (0, 3)
    (call,) = planstore.calls
    assert (call.method, call.path) == ("POST", "/api/billing/catalogue")
    assert (call.headers["content-type"], call.headers["authorization"]) == (
        "application/yaml",
        "Bearer s3cret",
    )
    assert call.body == CATALOGUE.read_bytes()


def test_a_wrong_catalogue_is_not_sent(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str], tmp_path: Path
) -> None:
    """Every problem is said with its place before anything leaves."""
    path = tmp_path / "c.yaml"
    path.write_text("catalogue: c\nfeatures: {}\nplan: {}\n")
    for command in (("catalogue", "validate"), ("catalogue", "apply", *at)):
        result = entitlements(*command, str(path))
        assert (result.code, result.out) == (2, "")
        assert f"{path}: line 3, column 1: 'plan' is not known (did you mean 'plans'?)" in result.err
        assert "features: {}" not in result.err
    assert planstore.calls == []


def test_valid_catalogues_are_counted(entitlements: Run, tmp_path: Path) -> None:
    """Several files, good ones in the table, wrong ones on standard error."""
    missing = tmp_path / "missing.yaml"
    result = entitlements("catalogue", "validate", str(CATALOGUE), str(missing), "-o", "json")
    assert result.code == 2
    assert [(one["catalogue"], one["plans"]) for one in result.json] == [("tasks-and-tokens", 4)]
    assert "missing.yaml: cannot be read" in result.err


class Change(NamedTuple):
    """A command, and the call that it makes."""

    arguments: tuple[str, ...]
    path: str
    body: dict[str, Any]


@pytest.mark.parametrize(
    "change",
    [
        Change(("create", "a/b", "--plan", "pro@2"), "", {"plan": "pro@2"}),
        Change(
            (
                "create",
                "a/b",
                "--plan",
                "pro",
                "--trial-days",
                "0",
                "--fixed-term",
                "--expected-version",
                "0",
            ),
            "",
            {"plan": "pro", "trial_days": 0, "auto_renew": False, "expected_version": 0},
        ),
        Change(
            ("create", "a/b", "--plan", "pro", "--add-on", "x=2", "--add-on", "y=0"),
            "",
            {"plan": "pro", "add_ons": {"x": 2, "y": 0}},
        ),
        Change(("suspend", "a/b"), "/suspend", {}),
        Change(("resume", "a/b", "--expected-version", "4"), "/resume", {"expected_version": 4}),
        Change(("cancel", "a/b"), "/cancel", {"at_period_end": False}),
        Change(("cancel", "a/b", "--at-period-end"), "/cancel", {"at_period_end": True}),
    ],
    ids=lambda change: " ".join(change.arguments),
)
def test_subscriptions_are_changed(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str], change: Change
) -> None:
    """Each change is one call, and the answer names the snapshot version that carries it."""
    planstore.reply((200, {"tenant_id": "a/b", "plan": "pro@2", "snapshot_version": 8}))
    result = entitlements("subscriptions", *change.arguments, *at, "-o", "json")

    assert (result.code, result.json["snapshot_version"]) == (0, 8)
    (call,) = planstore.calls
    assert (call.method, call.path) == ("POST", f"/api/billing/organizations/a%2Fb/subscription{change.path}")
    assert json.loads(call.body) == change.body


def test_a_subscription_is_shown(entitlements: Run, planstore: AnsweringPlanstore, at: list[str]) -> None:
    """The table leaves out what is not set."""
    planstore.reply((200, {"plan": "pro@2", "state": "active", "cancel_at": None, "add_ons": {"x": 2}}))
    result = entitlements("subscriptions", "show", "acme", *at)
    assert [line.split() for line in result.out.splitlines() if line.strip()] == [
        ["plan", "pro@2"],
        ["state", "active"],
        ["add_ons", '{"x":', "2}"],
    ]


def test_plans_are_listed(entitlements: Run, planstore: AnsweringPlanstore, at: list[str]) -> None:
    """As a table, and as JSON with everything that came."""
    plan = {
        "code": "pro",
        "version": 2,
        "title": "Pro",
        "price": "29.00 USD",
        "more": 1,
    }
    planstore.reply((200, {"plans": [plan]}))
    table = entitlements("plans", "list", *at)
    assert (table.code, "29.00 USD" in table.out) == (0, True)
    assert entitlements("plans", "list", *at, "-o", "json").json == [plan]


def test_usage_is_summed_up(entitlements: Run, planstore: AnsweringPlanstore, at: list[str]) -> None:
    """One row per metric and window."""
    row = {"metric": "tasks", "value": 3, "event_count": 2, "window_start": "2026-01-01T00:00:00Z"}
    planstore.reply((200, {"usage": [row]}))
    result = entitlements("usage", "summary", "acme", *at, "-o", "csv")
    (read,) = csv.DictReader(result.out.splitlines())
    assert (read["metric"], read["value"], read["event_count"]) == ("tasks", "3", "2")
    assert planstore.calls[0].path == "/api/billing/organizations/acme/usage?limit=100"


def test_events_are_read_page_by_page(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str]
) -> None:
    """It follows the cursor until it has what was asked for, or there is no more."""
    planstore.reply(
        (200, {"events": [{"event_id": "1"}, {"event_id": "2"}], "next_cursor": "c2"}),
        (200, {"events": [{"event_id": "3"}], "next_cursor": None}),
    )
    result = entitlements("usage", "events", "acme", "--metric", "tasks", "--limit", "5", *at, "-o", "json")

    assert [event["event_id"] for event in result.json] == ["1", "2", "3"]
    first, second = (call.path.partition("?")[2] for call in planstore.calls)
    assert first == "metric=tasks&limit=5"
    assert second == "metric=tasks&limit=3&cursor=c2"


class Problem(NamedTuple):
    """A reply, and what a person gets of it."""

    status: int
    answer: Any
    code: int
    said: str


@pytest.mark.parametrize(
    "problem",
    [
        Problem(401, {"title": "Unauthorized", "detail": "wrong token"}, 2, "wrong token"),
        Problem(404, {"detail": "no tenant 'acme': create a subscription for it first"}, 2, "create a sub"),
        Problem(409, {"detail": "version 3 is current"}, 2, "version 3 is current"),
        Problem(
            422,
            {"detail": "x", "violations": [{"field": "plan", "description": "is bad"}]},
            2,
            "plan: is bad",
        ),
        Problem(422, {"detail": "bad"}, 2, "bad"),
        Problem(429, {"detail": "slow down"}, 3, "slow down"),
        Problem(503, b"<html>", 3, "answered 503"),
        Problem(200, b"<html>", 3, "not JSON"),
        Problem(302, b"", 2, "answered 302"),
    ],
    ids=lambda problem: f"{problem.status} {problem.said}",
)
def test_problems_become_messages(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str], problem: Problem
) -> None:
    """The plan store's words, and an exit code that says whether trying again can help."""
    planstore.reply((problem.status, problem.answer))
    result = entitlements("subscriptions", "show", "acme", *at)
    assert (result.code, result.out) == (problem.code, "")
    assert problem.said in result.err
    assert "s3cret" not in result.err


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:7410", "ftp://x", "http://", "http://u:p@x", "http://x:port", "http://[x", "http://x?y"],
)
def test_a_malformed_url_is_refused(entitlements: Run, at: list[str], url: str) -> None:
    """It names the option, and does not repeat what may hold a password."""
    result = entitlements("plans", "list", *at, "--planstore", url)
    assert (result.code, result.out) == (2, "")
    assert "--planstore: expected http://HOST:PORT" in result.err
    assert not {"u:p", "ftp", "?y"} & set(result.err.replace("/", " ").split())


def test_without_a_plan_store_it_ends_with_3(entitlements: Run, at: list[str]) -> None:
    """It names where nobody answered."""
    result = entitlements("plans", "list", *at, "--planstore", "http://127.0.0.1:1")
    assert (result.code, result.out) == (3, "")
    assert "plan store at 127.0.0.1:1: Connection refused; is it running?" in result.err


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"two\nlines"])
def test_a_token_file_that_is_none_is_named(entitlements: Run, tmp_path: Path, content: bytes | None) -> None:
    """The message says which file, never what is in it."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    result = entitlements("plans", "list", "--token-file", str(path))
    assert (result.code, result.out) == (2, "")
    assert f"token file {path}" in result.err
    assert "lines" not in result.err
