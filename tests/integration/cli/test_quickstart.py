"""The command line against the real processes, as `quickstart` runs them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.processes import ENTITLEMENTS, Process
from support.waiting import until

CATALOGUE = Path(__file__).parents[3] / "examples" / "catalogues" / "tasks-and-tokens.yaml"


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, read as JSON."""
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def entitlements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a command that finds the quickstart of this module."""
    state = tmp_path_factory.mktemp("quickstart")
    ports = ("--listen", "--http", "--planstore-http", "--planstore-grpc")
    addresses = [word for port in ports for word in (port, "127.0.0.1:0")]
    process = Process(["quickstart", "--state-dir", str(state), *addresses])
    try:
        sidecar = process.wait_for("sidecar      gRPC").split()[2]
        planstore = process.wait_for("plan store   REST").split()[3].removesuffix("/docs")
        environment = {
            **os.environ,
            "ENTITLEMENTS_SIDECAR": sidecar,
            "ENTITLEMENTS_PLANSTORE_URL": planstore,
            "ENTITLEMENTS_TOKEN_FILE": str(state / "token"),
        }

        def run(*arguments: str) -> Result:
            command = [*ENTITLEMENTS, *arguments]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=60, env=environment
            )
            return Result(done.returncode, done.stdout, done.stderr)

        yield run
        assert process.interrupt() == 0, process.output
    finally:
        process.kill()


def test_a_person_can_follow_what_is_printed(entitlements: Run) -> None:
    """Consume, look, and find it in the ledger."""
    before = entitlements("check", "acme", "tasks", "-o", "json").json["used"]
    consumed = entitlements(
        "check", "acme", "tasks", "--consume", "1", "--correlation-id", "c1", "-o", "json"
    )
    assert (consumed.code, consumed.json["used"]) == (0, before + 1)
    assert "NOT_IN_PLAN" in entitlements("check", "acme", "sso").out

    def in_ledger() -> list[Any]:
        events = entitlements("usage", "events", "acme", "-o", "json").json
        return [event for event in events if event["correlation_id"] == "c1"]

    (event,) = until(in_ledger, "the event to arrive")
    assert (event["event_id"], event["metric"]) == (consumed.json["consumption_id"], "tasks")
    (row,) = entitlements("usage", "summary", "acme", "-o", "json").json
    assert (row["metric"], row["value"] >= 1) == ("tasks", True)


def test_a_change_is_answered_with_the_version_to_ask_for(entitlements: Run) -> None:
    """Create, upgrade, suspend, resume, cancel: each is visible in a check of its version."""

    def change(*arguments: str) -> str:
        done = entitlements("subscriptions", *arguments, "-o", "json")
        assert done.code == 0, done.err
        return str(done.json["snapshot_version"])

    def reason(version: str) -> str:
        checked = entitlements(
            "check", "globex", "agent-placement", "--min-snapshot-version", version, "-o", "json"
        )
        return str(checked.json["reason"])

    assert reason(change("create", "globex", "--plan", "free")) == "NOT_IN_PLAN"
    assert reason(change("create", "globex", "--plan", "team", "--add-on", "extra-tasks=2")) == "ENABLED"
    assert reason(change("suspend", "globex")) == "SUBSCRIPTION_SUSPENDED"
    assert reason(change("resume", "globex")) == "ENABLED"
    assert entitlements("subscriptions", "show", "globex", "-o", "json").json["add_ons"] == {"extra-tasks": 2}
    assert reason(change("cancel", "globex")) == "SUBSCRIPTION_ENDED"


def test_what_is_sold_is_listed_and_applied_again(entitlements: Run) -> None:
    """Applying what is in force makes no new plan versions."""
    first = entitlements("catalogue", "apply", str(CATALOGUE), "-o", "json")
    again = entitlements("catalogue", "apply", str(CATALOGUE), "-o", "json")
    assert (first.code, first.json["plans"]) == (0, [])
    assert (again.json["version"], again.json["changed"]) == (first.json["version"], False)

    plans = entitlements("plans", "list", "-o", "json").json
    assert {plan["code"]: plan["version"] for plan in plans} == dict.fromkeys(
        ("free", "pro", "team", "enterprise"), 1
    )


def test_mistakes_are_explained(entitlements: Run) -> None:
    """The plan store's and the sidecar's own words, exit code 2."""
    unknown = entitlements("subscriptions", "create", "initech", "--plan", "nope")
    assert (unknown.code, unknown.out) == (2, "")
    assert "nope" in unknown.err
    stale = entitlements("subscriptions", "create", "acme", "--plan", "free", "--expected-version", "999")
    assert stale.code == 2
    assert "999" in stale.err
    malformed = entitlements("check", "a b", "tasks")
    assert malformed.code == 2
    assert "tenant_id" in malformed.err
