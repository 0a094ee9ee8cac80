"""`usage import`: what is read from a file, what is sent, and how it goes on after it was cut off."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from entitlement_sidecar.cli.usage_rows import MAX_LINE, Row, rows_of
from entitlement_sidecar.domain.errors import InvalidInputError
from support.commands import AnsweringPlanstore, Run

CALL = {"tenant_id": "acme", "metric": "calls", "value": 3, "correlation_id": "w"}


def read(text: str, form: str = "json", tenant: str = "") -> list[Row]:
    return list(rows_of(io.StringIO(text, newline=""), form, tenant))


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def outcomes(*names: str) -> dict[str, Any]:
    return {"results": [{"outcome": name, "reason": f"because of {name}"} for name in names]}


def test_a_row_is_the_same_whenever_it_is_read() -> None:
    """Its identity is made of content and line: equal rows of one file are two; an id that is given stays."""
    text = lines(CALL, CALL, {**CALL, "id": "mine"})
    first, again = read(text), read(text)

    identities = [row.event["id"] for row in first if row.event]
    assert [row.event["id"] for row in again if row.event] == identities
    assert len(set(identities)) == 3
    assert identities[2] == "mine"
    assert {len(one) for one in identities[:2]} == {34}


def test_what_others_write_is_read() -> None:
    """Lines of sinks and of an exported outbox: without what the registry made of the event then."""
    line = {**CALL, "id": "e", "cursor": 9, "classification": "billable", "rule": "late", "count": 2}
    exported = {"sequence": 4, "event": {**CALL, "id": "f", "recorded_at": "2026-01-01T01:00:00+01:00"}}

    one, other = read(lines(line, exported))

    assert one.event == {**CALL, "id": "e", "count": 2}
    assert other.event == {**CALL, "id": "f", "recorded_at": "2026-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({**CALL, "colour": "red"}, "'colour' is no field of an event"),
        ({"metric": "calls"}, "tenant_id: required"),
        ({**CALL, "value": 1.5}, "value: expected a whole number"),
        ({**CALL, "value": True}, "value: expected a whole number"),
        ({**CALL, "value": 2**63}, "value: expected a whole number"),
        ({**CALL, "subject": 7}, "subject: expected text"),
        ({**CALL, "subject": "x" * 513}, "subject: expected text of at most 512"),
        ({**CALL, "occurred_at": "2026-01-01T00:00:00"}, "occurred_at: expected an instant with a zone"),
        ({**CALL, "occurred_at": "0001-01-01T00:00:00+14:00"}, "occurred_at: expected an instant"),
        ({**CALL, "dimensions": {"a": 1}}, "dimensions: expected texts by name"),
        ({**CALL, "voids": "yes"}, "voids: expected true or false"),
        ([1], "expected a JSON object, got list"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(row: Any, problem: str) -> None:
    """With its line, and its neighbours are read."""
    before, wrong, after = read(lines(CALL, row, CALL))
    assert (wrong.line, wrong.event) == (2, None)
    assert wrong.problem.startswith(problem)
    assert before.event
    assert after.event


def test_lines_that_are_no_json_are_rows_too() -> None:
    """Empty ones are not; one without end is cut."""
    found = read(f"{{\n\n{'x' * (MAX_LINE + 9)}\n{json.dumps(CALL)}\n")
    assert [(row.line, bool(row.event)) for row in found] == [(1, False), (3, False), (4, True)]
    assert "at most" in found[1].problem


def test_a_table_is_read() -> None:
    """Empty cells say nothing, attributes have columns of their own, and a row of other length is wrong."""
    header = "metric,value,tenant_id,dimensions.project,dimensions,voids\n"
    rows = ['calls,2,,p1,"{""zone"": ""eu""}",', "calls,two,globex,,,TRUE", "calls,1"]

    first, second, third = read(header + "\n".join(rows), "csv", "acme")

    assert first.event is not None
    told = {"metric": "calls", "value": 2, "tenant_id": "acme", "dimensions": {"zone": "eu", "project": "p1"}}
    assert {**first.event, "id": ""} == {**told, "id": ""}
    assert (second.line, second.problem) == (3, "value: expected a whole number")
    assert third.problem == "expected 6 cells, as the header has, got 2"


@pytest.mark.parametrize("header", ["", "calls,2,acme", "metric,metric", "metric,colour"])
def test_a_table_without_a_header_is_refused(header: str) -> None:
    """As a whole: nobody knows what its cells are."""
    with pytest.raises(InvalidInputError, match="expected a first line of columns"):
        read(f"{header}\n1,2\n", "csv")


Import = list[str]


def written(tmp_path: Path, rows: Sequence[Any]) -> Path:
    file = tmp_path / "usage.jsonl"
    file.write_text(lines(*rows))
    return file


def test_refused_rows_are_put_aside(
    entitlements: Run, planstore: AnsweringPlanstore, at: Import, tmp_path: Path
) -> None:
    """With line, reason and text; the others are counted by what became of them."""
    file = written(tmp_path, [CALL, {"value": 1}, CALL, CALL])
    planstore.reply((200, outcomes("ACCEPTED", "CONFLICT", "QUARANTINED")))

    result = entitlements("usage", "import", str(file), "--rejects", str(tmp_path / "no"), *at, "-o", "json")

    assert result.code == 1
    expected = {"rows": 4, "accepted": 1, "quarantined": 1, "rejected": 2, "duplicate": 0}
    assert expected.items() <= result.json.items()
    first, second = [json.loads(line) for line in (tmp_path / "no").read_text().splitlines()]
    assert (first["line"], first["row"]) == (2, '{"value": 1}')
    assert (second["line"], second["reason"]) == (3, "CONFLICT: because of CONFLICT")
    [call] = planstore.calls
    assert (call.method, call.path) == ("POST", "/api/billing/usage/events")
    assert [one["value"] for one in json.loads(call.body)["events"]] == [3, 3, 3]


def test_a_plan_store_that_is_away_is_asked_again(
    entitlements: Run, planstore: AnsweringPlanstore, at: Import, tmp_path: Path
) -> None:
    """With the same events, so that nothing counts twice."""
    planstore.reply((503, {"detail": "away"}), (429, {"detail": "busy"}), (200, outcomes("ACCEPTED")))
    result = entitlements("usage", "import", str(written(tmp_path, [CALL])), *at)
    assert result.code == 0
    assert len({call.body for call in planstore.calls}) == 1
    assert len(planstore.calls) == 3


def test_one_row_that_spoils_a_call_is_found(
    entitlements: Run, planstore: AnsweringPlanstore, at: Import, tmp_path: Path
) -> None:
    """The call is halved until it stands alone."""
    refused = (422, {"detail": "no"})
    planstore.reply(refused, (200, outcomes("ACCEPTED")), refused, refused, (200, outcomes("ACCEPTED")))
    result = entitlements("usage", "import", str(written(tmp_path, [CALL] * 3)), *at, "-o", "json")
    assert (result.code, result.json["accepted"], result.json["rejected"]) == (1, 2, 1)
    assert "line 2: " in result.err


def test_an_import_that_was_cut_off_goes_on(
    entitlements: Run, planstore: AnsweringPlanstore, at: Import, tmp_path: Path
) -> None:
    """Where it ended; once it is done, nothing is left beside the file."""
    file = written(tmp_path, [{**CALL, "value": n} for n in range(700)])
    planstore.reply((200, outcomes(*["ACCEPTED"] * 500)), (403, {"detail": "the token has ended"}))
    assert entitlements("usage", "import", str(file), *at).code == 2

    planstore.reply((200, outcomes(*["ACCEPTED"] * 200)))
    result = entitlements("usage", "import", str(file), "--resume", *at, "-o", "json")

    assert (result.code, result.json["skipped"], result.json["accepted"]) == (0, 500, 200)
    assert [one["value"] for one in json.loads(planstore.calls[-1].body)["events"]] == [*range(500, 700)]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("usage")] == ["usage.jsonl"]


def test_what_cannot_be_imported_is_said(entitlements: Run, at: Import, tmp_path: Path) -> None:
    """A file of no known form, none at all, and a progress that nobody can read."""
    (tmp_path / "usage.jsonl").write_text("")
    (tmp_path / "usage.jsonl.progress").write_text("?")
    for words, said in (
        (["-"], "standard input: say what it is with --format"),
        ([str(tmp_path / "usage.xlsx")], "--format json or --format csv"),
        ([str(tmp_path / "none.csv")], "No such file"),
        ([str(tmp_path / "usage.jsonl"), "--resume"], "import without --resume"),
    ):
        result = entitlements("usage", "import", *words, *at)
        assert result.code == 2
        assert said in " ".join(result.err.split())


def test_reports_and_corrections_are_asked_for(
    entitlements: Run, planstore: AnsweringPlanstore, at: Import
) -> None:
    """With what was said, page after page."""
    line = {"key": "p1", "metric": "calls", "value": 5}
    planstore.reply(
        (200, {"lines": [line], "next_cursor": "c"}), (200, {"lines": [line], "next_cursor": None})
    )
    words = ("--by", "dimension:project", "--since", "2026-01-01T00:00:00+01:00", "--metric", "calls")
    result = entitlements("usage", "report", "acme", *words, *at, "-o", "csv")
    assert result.out.splitlines()[1:] == ["p1,calls,,5,,,"] * 2
    assert "by=dimension%3Aproject" in planstore.calls[0].path
    assert "since=2025-12-31T23%3A00%3A00%2B00%3A00" in planstore.calls[0].path
    assert "cursor=c" in planstore.calls[1].path

    planstore.reply((200, {"id": "k-1", "outcome": "ACCEPTED"}))
    assert entitlements("usage", "correct", "acme", "e/1", "--value", "0", "--reason", "x", *at).code == 0
    call = planstore.calls[-1]
    assert call.path == "/api/billing/organizations/acme/usage/corrections"
    assert json.loads(call.body) == {"event_id": "e/1", "value": 0, "reason": "x"}


def test_the_examples_are_the_same_usage_in_both_forms() -> None:
    """So importing one after the other counts once."""
    folder = Path(__file__).parents[3] / "examples" / "usage"
    table, lines_of = (folder / f"tasks.{form}" for form in ("csv", "jsonl"))
    found = [row.event for row in read(table.read_text(), "csv", "acme")]
    assert found == [row.event for row in read(lines_of.read_text())]
    assert len([one for one in found if one]) == 5
