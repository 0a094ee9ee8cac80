"""Mistakes that people make at a terminal: what they are told, and what is sent all the same."""

from __future__ import annotations

import pytest

from support.commands import AnsweringPlanstore, Run


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (("overrides", "show", "acme", "ovr_…"), "overrides/ovr_%E2%80%A6"),
        (("overrides", "revoke", "acme", "a b/../c"), "overrides/a%20b%2F..%2Fc/revoke"),
        (("credits", "show", "acme", "crg?x"), "credits/crg%3Fx"),
        (("credits", "void", "acme", "crg_…"), "credits/crg_%E2%80%A6/void"),
    ],
)
def test_an_id_is_one_segment_of_the_path(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str], command: tuple[str, ...], path: str
) -> None:
    """Whatever was pasted, the plan store gets it as it is and says that there is no such thing."""
    planstore.reply((404, {"detail": "no such thing", "reason": "NOT_FOUND"}))
    result = entitlements(*command, *at)
    assert (result.code, result.err) == (2, "Error: no such thing\n")
    assert [call.path for call in planstore.calls] == [f"/api/billing/organizations/acme/{path}"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--reason", "pilot", "overrides", "create", "acme", "sso", "--effect", "set"),
        ("overrides", "create", "acme", "sso", "--effect", "set", "--reason", "pilot"),
        ("--reason", "pilot", "credits", "grant", "acme", "gems", "5"),
    ],
)
def test_a_reason_counts_before_the_command_too(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str], arguments: tuple[str, ...]
) -> None:
    """What must have a reason takes it from where every other command takes it."""
    result = entitlements(*arguments, *at)
    assert result.code == 0, result.err
    assert b'"reason": "pilot"' in planstore.calls[0].body


def test_what_must_have_a_reason_asks_for_it(entitlements: Run, at: list[str]) -> None:
    """Nothing is sent without."""
    result = entitlements("overrides", "create", "acme", "sso", "--effect", "set", *at)
    assert result.code == 2
    assert "Missing option '--reason'" in result.err


def test_a_republication_that_goes_nowhere_has_nothing_to_go_on_from(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str]
) -> None:
    """A cursor that is wrong is not advised again; one that a page gave is, and one to be tried again."""
    wrong = {"violations": [{"field": "cursor", "description": "expected another"}]}
    page = {"republished": [], "next_cursor": "c-2"}
    command = ("snapshots", "republish", "--all", "--cursor", "c-1", *at)
    planstore.reply((422, wrong))
    assert entitlements(*command).err == "Error: cursor: expected another\n"
    planstore.reply((503, {"detail": "away"}))
    assert "go on with: --all --cursor c-1\n" in entitlements(*command).err
    planstore.reply((200, page), (403, {"detail": "no more"}))
    assert "go on with: --all --cursor c-2\n" in entitlements(*command).err


def test_tables_are_for_people(entitlements: Run, planstore: AnsweringPlanstore, at: list[str]) -> None:
    """Limits in words, names side by side, nothing for what is empty; JSON and CSV have all of it."""
    limits = [
        {"amount": 5, "window": "day", "soft": True},
        {"amount": None, "window": "month", "soft": False},
    ]
    override = {"id": "o", "value": ["a", "b"], "limits": limits, "feature": "f", "add_ons": {}}
    planstore.reply((200, override))
    shown = entitlements("overrides", "show", "acme", "o", *at).out
    assert "5 per day (soft), unlimited per month" in shown
    assert "a, b" in shown
    assert "add_ons" not in shown
    assert entitlements("overrides", "show", "acme", "o", *at, "-o", "json").json == override
    assert '"[""a"", ""b""]"' in entitlements("overrides", "show", "acme", "o", *at, "-o", "csv").out


@pytest.mark.parametrize("command", ["sidecar", "completion"])
def test_examples_in_help_are_lines(entitlements: Run, command: str) -> None:
    """They can be copied."""
    shown = entitlements(command, "--help").out
    assert "\\b" not in shown
    assert any("entitlements " in line and line.startswith("  ") for line in shown.splitlines()[2:])
