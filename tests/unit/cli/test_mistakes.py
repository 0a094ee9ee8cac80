"""Mistakes that people make at a terminal: what they are told, and what is sent all the same."""

from __future__ import annotations

import json
import socket
import threading

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


@pytest.mark.parametrize("life", ["8d", "169h", "1", "2w", "0s"])
def test_a_life_that_break_glass_cannot_have_is_named(entitlements: Run, at: list[str], life: str) -> None:
    """By the option that was typed, before anything is sent."""
    result = entitlements("break-glass", "open", "sso", "--all", "--reason", "x", "--for", life, *at)
    assert result.code == 2
    assert "--for" in result.err
    assert repr(life) in result.err


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


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("5/day", {"amount": 5, "window": "day"}),
        ("5/day/soft", {"amount": 5, "window": "day", "soft": True}),
        ("unlimited/day/strict", {"amount": "unlimited", "window": "day", "mode": "strict"}),
        ("5/day/soft/optimistic", {"amount": 5, "window": "day", "soft": True, "mode": "optimistic"}),
    ],
)
def test_a_limit_is_typed_in_short(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str], text: str, limit: dict[str, object]
) -> None:
    """Amount, window, whether it is soft, and its mode; what is left out is not sent."""
    command = ("overrides", "create", "acme", "calls", "--effect", "set", "--reason", "x", "--limit", text)
    assert entitlements(*command, *at).code == 0
    assert json.loads(planstore.calls[0].body)["limits"] == [limit]


@pytest.mark.parametrize(
    "text", ["5", "5/", "/day", "5/day/", "5/day/lenient", "5/day/strict/soft", "5/day/soft/soft"]
)
def test_a_limit_that_cannot_be_read_is_not_sent(entitlements: Run, at: list[str], text: str) -> None:
    """The message says what would be right."""
    command = ("overrides", "create", "acme", "calls", "--effect", "set", "--reason", "x", "--limit", text)
    result = entitlements(*command, *at)
    assert result.code == 2
    assert repr(text) in result.err
    assert "expected AMOUNT/WINDOW" in result.err


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
    carried = {"carry_over_cap": 7, "overage_price": "0.01 EUR"}
    limits = [
        {"amount": 5, "window": "day", "soft": True},
        {"amount": None, "window": "month", "soft": False, **carried},
        {"amount": 9, "window": "year", "soft": False, "mode": "strict", "on_holder_loss": "reclaim"},
    ]
    override = {"id": "o", "value": ["a", "b"], "limits": limits, "feature": "f", "add_ons": {}}
    planstore.reply((200, override))
    shown = entitlements("overrides", "show", "acme", "o", *at).out
    assert "5 per day (soft), unlimited per month (7 at most carried over; then 0.01 EUR each)" in shown
    assert "9 per year (strict; lost holders reclaim)" in shown
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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--reason", "a\nb", "plans", "list"), "expected one line of at most 500 printable characters"),
        (("audit", "export", "-o", "json"), "'json': expected the file to write; --format says its form"),
        (("audit", "export", "-o", "-"), "'-': expected the file to write"),
        (("tokens", "delete"), "There are: create, list, revoke"),
        (
            ("subscriptions", "suspend", "acme", "--reason", "x"),
            "It comes before the command: entitlements --reason TEXT subscriptions suspend …",
        ),
        (
            ("check", "acme", "tasks", "--consume", "9" * 20),
            "expected a whole number from 0 to 9007199254740991",
        ),
        (
            ("credits", "grant", "acme", "gems", "many", "--reason", "x"),
            "'many': expected a whole number from 1",
        ),
    ],
)
def test_what_would_be_right_is_told(entitlements: Run, arguments: tuple[str, ...], told: str) -> None:
    """Nobody has to look it up."""
    result = entitlements(*arguments)
    assert result.code == 2
    assert told in result.err


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ((404, b"<html>"), "answered 404 Not Found: is that the URL of its REST?"),
        ((401, {"detail": "no such token"}), "no such token; --token-file names the file of it"),
        ((502, b""), "answered 502 Bad Gateway"),
    ],
)
def test_who_answers_may_be_another(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str], reply: tuple[int, object], told: str
) -> None:
    """A wrong address or token says which option it comes from."""
    planstore.reply(reply)
    result = entitlements("plans", "list", *at)
    assert result.code == (3 if reply[0] >= 500 else 2)
    assert result.err.rstrip().endswith(told)


def test_http_is_not_https(entitlements: Run, planstore: AnsweringPlanstore, at: list[str]) -> None:
    """A plan store without TLS that is asked with it."""
    url = planstore.url.replace("http:", "https:")
    result = entitlements("plans", "list", *at, "--planstore", url)
    assert result.code == 3
    assert "should the URL begin with http://?" in result.err


def test_what_does_not_speak_http_is_told(entitlements: Run, at: list[str]) -> None:
    """For example a sidecar's gRPC: none of its bytes reaches the terminal."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=_answer, args=(server,))
        answering.start()
        result = entitlements(
            "plans", "list", *at, "--planstore", f"http://127.0.0.1:{server.getsockname()[1]}"
        )
        answering.join()
    assert result.code == 3
    assert "what answers there does not speak HTTP: is that the URL of its REST?" in result.err


def _answer(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"\x00\x00\x12\x04 PRI\x1b[2J\r\n\r\n")


def test_a_seat_that_is_not_left_is_a_no(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str]
) -> None:
    """It says so first, as every decision does."""
    provenance = [{"kind": "PLAN", "id": "starter@1"}]
    decision = {"allowed": False, "reason": "SEATS_EXHAUSTED", "limit": 2, "provenance": provenance}
    planstore.reply((200, {**decision, "window_start": "1970-01-01T00:00:00Z", "overage": 0}))
    result = entitlements("seats", "assign", "acme", "editors", "cyn", *at)
    assert result.code == 1
    told = [line.split(maxsplit=1) for line in result.out.splitlines()]
    assert [name for name, _ in told] == ["allowed", "reason", "limit", "provenance"]
    assert told[0] == ["allowed", "no"]
    assert told[3] == ["provenance", "PLAN starter@1"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("organizations", "list"), "organizations"),
        (("credits", "list", "acme"), "credits"),
        (("usage", "events", "acme"), "events"),
        (("audit", "list"), "entries"),
    ],
)
def test_a_list_that_goes_on_says_so(
    entitlements: Run, planstore: AnsweringPlanstore, at: list[str], command: tuple[str, ...], name: str
) -> None:
    """On standard error, so that programs read the entries alone; and only where there is more."""
    entries = [{"id": "a", "subscriptions": []}, {"id": "b", "subscriptions": []}]
    planstore.reply((200, {name: entries, "next_cursor": "b"}))
    result = entitlements(*command, *at, "--limit", "2", "-o", "json")
    assert len(result.json) == 2
    assert result.err == "2 are shown, and there are more: --limit N shows N\n"
    planstore.reply((200, {name: entries, "next_cursor": None}))
    assert entitlements(*command, *at, "--limit", "2").err == ""
