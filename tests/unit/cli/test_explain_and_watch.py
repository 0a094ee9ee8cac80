"""`check --explain` and `watch`, against a sidecar in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from entitlement_sidecar.client import AsyncEntitlementsClient, EntitlementsClient, RetryableError
from entitlement_sidecar.domain.decision import (
    Decision,
    DecisionWarning,
    Provenance,
    ProvenanceKind,
    Reason,
    WarningKind,
)
from entitlement_sidecar.domain.explain import Step
from entitlement_sidecar.wire.codec import decision_to_proto
from entitlement_sidecar.wire.v1 import decision_pb2
from support.answering import AnsweringSidecar, answering
from support.commands import Run

DENIED = Decision(allowed=False, reason=Reason.QUOTA_EXCEEDED, limit=10, used=10)
STEPS = [
    Step("tenant", "snapshot 1, confirmed at 2026-01-15 12:00:00 UTC"),
    Step("subscription", "s1 is active", Provenance(ProvenanceKind.PLAN, "pro@1")),
    Step("subscription", "s2 is ended", Provenance(ProvenanceKind.PLAN, "old@1"), applied=False),
    Step("limit", "month: 10 of 10, 0 left", decisive=True),
]


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsweringSidecar]:
    """Denies everything, and says why."""
    with answering(lambda _: DENIED) as server:
        server.steps = STEPS
        server.states = [
            decision_pb2.WatchEntitlementsResponse(
                snapshot_version=version,
                entitlements=[decision_pb2.Entitlement(feature="calls", decision=decision_to_proto(DENIED))],
            )
            for version in (4, 5)
        ]
        monkeypatch.setenv("ENTITLEMENTS_SIDECAR", server.target)
        yield server


@pytest.fixture
def command(sidecar: AnsweringSidecar, entitlements: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command that finds the sidecar, whatever the order of fixtures."""
    monkeypatch.setenv("ENTITLEMENTS_SIDECAR", sidecar.target)
    return entitlements


def test_an_explanation_is_a_tree(command: Run) -> None:
    """Steps of one rule stand together; what did not count and what decided are marked."""
    result = command("check", "acme", "calls", "--explain")
    assert result.code == 1
    assert result.out.splitlines() == [
        "acme · calls",
        "├── tenant",
        "│   └── ✓ snapshot 1, confirmed at 2026-01-15 12:00:00 UTC",
        "├── subscription",
        "│   ├── ✓ pro@1: s1 is active",
        "│   └── · old@1: s2 is ended",
        "└── limit",
        "    └── ✓ month: 10 of 10, 0 left  ◀",
    ]


def test_an_explanation_for_programs(command: Run) -> None:
    """Every step as an object, or as a row."""
    told = json.loads(command("check", "acme", "calls", "--explain", "-o", "json").out)
    assert [one["rule"] for one in told if one["decisive"]] == ["limit"]
    assert told[1]["about"] == "pro@1"
    rows = command("check", "acme", "calls", "--explain", "-o", "csv").out.splitlines()
    assert rows[0] == "rule,about,outcome,applied,decisive"
    assert len(rows) == 5


def test_an_explanation_consumes_nothing(command: Run, sidecar: AnsweringSidecar) -> None:
    """Asking for both is a mistake that says what to ask instead."""
    result = command("check", "acme", "calls", "--explain", "--consume", "3")
    assert result.code == 2
    assert "--peek" in result.err
    command("check", "acme", "calls", "--explain", "--peek", "3")
    assert [check.quantity for check in sidecar.checks] == [3]


def test_a_watch_prints_each_state(command: Run, sidecar: AnsweringSidecar) -> None:
    """A table for people, a line of JSON for programs; when the sidecar goes away it says so."""
    result = command("watch", "acme", "-o", "json", "--after-version", "3")
    assert result.code == 3
    states = [json.loads(line) for line in result.out.splitlines()]
    assert [state["snapshot_version"] for state in states] == [4, 5]
    assert states[0]["entitlements"]["calls"]["reason"] == "QUOTA_EXCEEDED"
    assert sidecar.watches[0].after_version == 3
    assert "shutting down" in result.err


def test_a_watch_shows_what_is_open_in_an_emergency(command: Run, sidecar: AnsweringSidecar) -> None:
    """An answer under break-glass is marked in the table too."""
    until = DecisionWarning(WarningKind.BREAK_GLASS, "2026-01-01T00:00:00Z")
    opened = Decision(allowed=True, reason=Reason.ENABLED, warnings=(until,))
    entitlement = decision_pb2.Entitlement(feature="sso", decision=decision_to_proto(opened))
    sidecar.states = [decision_pb2.WatchEntitlementsResponse(snapshot_version=1, entitlements=[entitlement])]

    assert "BREAK_GLASS 2026-01-01T00:00:00Z" in command("watch", "acme", "--once").out


def test_a_watch_may_end_after_one_state(command: Run) -> None:
    """And is a success."""
    result = command("watch", "acme", "--once")
    assert result.code == 0
    assert result.out.startswith("snapshot 4\n")
    assert "QUOTA_EXCEEDED" in result.out


async def test_the_asynchronous_client_explains_and_watches(sidecar: AnsweringSidecar) -> None:
    """As the other one does."""
    async with AsyncEntitlementsClient(sidecar.target) as client:
        explanation = await client.explain("acme", "calls")
        assert explanation.steps == tuple(STEPS)
        assert explanation.decision.reason is Reason.QUOTA_EXCEEDED
        states = client.watch("acme")
        assert [(await anext(states)).snapshot_version for _ in range(2)] == [4, 5]
        with pytest.raises(RetryableError, match="shutting down"):
            await anext(states)


def test_leaving_a_watch_ends_its_call(sidecar: AnsweringSidecar) -> None:
    """Nothing goes on behind who has left."""
    with EntitlementsClient(sidecar.target) as client:
        states = client.watch("acme")
        assert next(states).snapshot_version == 4
        states.close()  # type: ignore[attr-defined]
