"""`check` and `report`, against a sidecar in this process."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.decision import (
    Decision,
    DecisionWarning,
    Provenance,
    ProvenanceKind,
    Reason,
    Source,
    WarningKind,
)
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.wire.v1 import decision_pb2
from support.answering import AnsweringSidecar, answering
from support.commands import Run

ALLOWED = Decision(
    allowed=True,
    reason=Reason.WITHIN_LIMIT,
    kind=FeatureKind.METERED,
    limit=10,
    used=9,
    remaining=1,
    reset_at=datetime(2026, 2, 1, tzinfo=UTC),
    provenance=(Provenance(ProvenanceKind.PLAN, "free@1"),),
    warnings=(DecisionWarning(WarningKind.NEAR_LIMIT_90, "month"),),
    source=Source.MEMORY,
)
DENIED = Decision(
    allowed=False, reason=Reason.QUOTA_EXCEEDED, limit=10, used=10, notes=("billing:quota-exceeded:tasks",)
)


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsweringSidecar]:
    """Allows everything; commands find it through the environment."""
    with answering(lambda _: ALLOWED) as server:
        monkeypatch.setenv("ENTITLEMENTS_SIDECAR", server.target)
        yield server


@pytest.fixture
def command(sidecar: AnsweringSidecar, entitlements: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command that finds the sidecar, whatever the order of fixtures."""
    monkeypatch.setenv("ENTITLEMENTS_SIDECAR", sidecar.target)
    return entitlements


def test_an_allowed_check_ends_with_0(command: Run, sidecar: AnsweringSidecar) -> None:
    """It peeks unless told to consume."""
    result = command("check", "acme", "tasks")

    assert (result.code, result.err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in result.out.splitlines() if line.strip())
    expected = {
        "allowed": "yes",
        "reason": "WITHIN_LIMIT",
        "limit": "10",
        "remaining": "1",
        "provenance": "PLAN free@1",
        "warnings": "NEAR_LIMIT_90 month",
    }
    assert {name: text.strip() for name, text in rows.items() if name in expected} == expected
    assert sidecar.checks[0].mode != decision_pb2.CHECK_MODE_CONSUME


def test_a_denied_check_ends_with_1(command: Run, sidecar: AnsweringSidecar) -> None:
    """A script can branch on it."""
    sidecar.judge = lambda _: DENIED
    result = command("check", "acme", "tasks", "--consume", "1")
    assert (result.code, result.err) == (1, "")
    assert "QUOTA_EXCEEDED" in result.out


def test_json_holds_the_whole_decision(command: Run) -> None:
    """Enums by name, instants in RFC 3339, and every field, set or not."""
    answer = command("check", "acme", "tasks", "--output", "json").json
    assert (answer["allowed"], answer["reason"], answer["kind"]) == (True, "WITHIN_LIMIT", "METERED")
    assert (answer["remaining"], answer["reset_at"]) == (1, "2026-02-01T00:00:00Z")
    assert answer["provenance"] == [{"kind": "PLAN", "id": "free@1"}]
    assert answer.keys() == set(Decision.__struct_fields__)


def test_csv_is_one_row(command: Run) -> None:
    """A header and the decision."""
    (row,) = csv.DictReader(command("check", "acme", "tasks", "-o", "csv").out.splitlines())
    assert (row["allowed"], row["limit"], row["value"]) == ("yes", "10", "")


def test_every_option_of_check_is_sent(command: Run, sidecar: AnsweringSidecar) -> None:
    """What was typed is what is asked."""
    words = "check acme models --consume 0 --subject u --request-id r --correlation-id c --max-staleness 0"
    result = command(*words.split(), "--min-snapshot-version", "3", "--value", '["a"]')

    assert result.code == 0
    (seen,) = sidecar.checks
    assert (seen.quantity, seen.subject, seen.request_id, seen.correlation_id) == (0, "u", "r", "c")
    assert (seen.requested_value_json, seen.min_snapshot_version) == ('["a"]', 3)
    assert seen.HasField("max_staleness")


def test_a_refused_question_ends_with_2(command: Run, sidecar: AnsweringSidecar) -> None:
    """The sidecar's own words about the field."""

    def refuse(_: decision_pb2.CheckEntitlementRequest) -> Decision:
        raise InvalidInputError.of("feature", "at most 128 characters")

    sidecar.judge = refuse
    result = command("check", "acme", "f" * 200)
    assert (result.code, result.out) == (2, "")
    assert "feature: at most 128 characters" in result.err


def test_without_a_sidecar_it_ends_with_3(entitlements: Run) -> None:
    """It names where nobody answered."""
    result = entitlements("check", "acme", "tasks", "--sidecar", "127.0.0.1:1")
    assert (result.code, result.out) == (3, "")
    assert "no sidecar answers at 127.0.0.1:1: is it running?" in result.err


def test_what_a_tenant_names_cannot_move_the_cursor(command: Run, sidecar: AnsweringSidecar) -> None:
    """Control characters and markup are printed as text."""
    sidecar.judge = lambda _: Decision(allowed=True, reason=Reason.ENABLED, value="\x1b[2J[red]x")
    result = command("check", "acme", "models")
    assert "\x1b" not in result.out
    assert "[red]x" in result.out


def test_a_task_is_recorded(command: Run, sidecar: AnsweringSidecar) -> None:
    """Every option reaches the sidecar."""
    words = "record-task acme job-7 --input-tokens 10 --output-tokens 20 --compute-ms 30 --subject s"
    at = ("--occurred-at", "2026-01-02T00:00:00+01:00")

    result = command(
        *words.split(),
        *("--actor-id", "a"),
        *("--emitter", "svc", "--dimension", "region=eu"),
        *at,
        "-o",
        "json",
    )

    assert (result.code, result.json[0]["outcome"]) == (0, "ACCEPTED")
    (task,) = sidecar.tasks
    assert (task.tenant_id, task.task_id, task.subject) == ("acme", "job-7", "s")
    assert (task.input_tokens, task.output_tokens, task.compute_ms) == (10, 20, 30)
    assert (task.actor_id, task.emitter, dict(task.dimensions)) == ("a", "svc", {"region": "eu"})
    assert task.occurred_at.ToDatetime(UTC) == datetime(2026, 1, 1, 23, tzinfo=UTC)


def test_usage_is_corrected(command: Run, sidecar: AnsweringSidecar) -> None:
    """With a value it is amended, without one voided; either has an identity and a reason."""
    amended = command("correct", "acme", "e1", "--value", "0", "--reason", "miscounted", "--request-id", "r1")
    voided = command("correct", "acme", "e1", "--reason", "test run", "--actor-id", "ops")

    assert (amended.code, voided.code) == (0, 0)
    first, second = sidecar.corrections
    assert (first.original_id, first.HasField("value"), first.request_id) == ("e1", True, "r1")
    assert (second.HasField("value"), second.reason, second.actor_id) == (False, "test run", "ops")
    assert second.request_id


def test_usage_is_reported(command: Run, sidecar: AnsweringSidecar) -> None:
    """Every option reaches the event, and the outcome is printed."""
    words = (
        "report acme tasks 3 --id e1 --correlation-id c --subject s --actor-id a --emitter svc --unit task"
    )
    result = command(
        *words.split(),
        *("--occurred-at", "2026-01-02T00:00:00+01:00"),
        *("--dimension", "region=eu", "--dimension", "note=a=b", "--output", "json"),
    )

    assert (result.code, result.json["outcome"], result.json["id"]) == (0, "ACCEPTED", "e1")
    (event,) = sidecar.events
    assert (event.tenant_id, event.metric, event.value, event.unit) == ("acme", "tasks", 3, "task")
    assert (event.subject, event.actor_id, event.emitter) == ("s", "a", "svc")
    assert dict(event.dimensions) == {"region": "eu", "note": "a=b"}
    assert event.occurred_at.ToDatetime(UTC) == datetime(2026, 1, 1, 23, tzinfo=UTC)
