"""Cursors that no page gave: refused by name, whatever they would ask a database for."""

from __future__ import annotations

import base64
import json
from typing import Any

ACME = "/api/billing/organizations/acme"
QUARANTINE = "/api/billing/usage/quarantine"
AT = "2026-01-01T00:00:00Z"
BEYOND = 2**70

PLAIN = [
    *(f"{ACME}/{what}" for what in ("usage/events", "history", "overrides", "credits", "seats/desks")),
    "/api/billing/organizations",
    "/api/billing/break-glass",
]
WRONG = ["\0", "a\0", str(BEYOND), "-1"]


def forged(place: list[Any]) -> str:
    """A cursor that says any place."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


PLACES = [
    (f"{ACME}/usage/report", ["\0", "calls", 1]),
    (f"{ACME}/usage/report", ["a", "\0", 1]),
    (f"{ACME}/usage/report", ["a", "calls", BEYOND]),
    (f"{ACME}/usage/report", ["a", "calls", -BEYOND]),
    (f"{ACME}/usage/report", ["a", "calls", 2**40]),
    (f"{ACME}/usage/report", ["\ud800", "calls", 1]),
    (f"{ACME}/usage/daily", ["\0", "calls", 1]),
    (f"{ACME}/usage", [AT, "\0", "month", "", 1]),
    (f"{ACME}/usage", ["2026-01-01T00:00:00", "calls", "month", "", 1]),
    (f"{ACME}/usage", ["9999-12-31T23:59:59-10:00", "calls", "month", "", 1]),
    ("/api/billing/usage/sources", ["i", BEYOND]),
    ("/api/billing/usage/sources", ["\0", 1]),
    (QUARANTINE, [AT, "acme", "\0"]),
    (QUARANTINE, ["2026-01-01T00:00:00", "acme", "a"]),
    (QUARANTINE, ["0001-01-01T00:00:00+14:00", "acme", "a"]),
]


def named(answer: Any) -> bool:
    """Whether an answer says that the cursor is wrong, as problems do."""
    told = answer.json()
    return answer.status_code == 422 and told["detail"].startswith("cursor: expected the `next_cursor`")


def test_a_forged_cursor_is_named(shop: Any) -> None:
    """Texts with NUL, numbers beyond a column, instants of no zone or of no year: all are wrong cursors."""
    shop.subscribe()
    asked = [(path, place, shop.rest.get(path, params={"cursor": forged(place)})) for path, place in PLACES]

    assert [(path, place, answer.text) for path, place, answer in asked if not named(answer)] == []


def test_a_forged_cursor_changes_nothing(shop: Any) -> None:
    """Replay and discard read the same cursors, out of their body."""
    bodies = [{"everything": True, "cursor": forged(place)} for path, place in PLACES if path == QUARANTINE]
    actions = [f"{QUARANTINE}/{action}" for action in ("replay", "discard")]
    answers = [shop.rest.post(action, json=body) for action in actions for body in bodies]

    assert [answer.text for answer in answers if not named(answer)] == []


def test_a_plain_cursor_breaks_no_list(shop: Any, catalogue_text: str) -> None:
    """Lists whose cursor is a name or a number answer it, or say that it is wrong."""
    for section, more in (
        ("features:\n", "  desks: {kind: seats}\n"),
        ("entitlements:\n", "      desks: {seats: 2}\n"),
    ):
        catalogue_text = catalogue_text.replace(section, section + more, 1)
    shop.apply(catalogue_text)
    shop.subscribe()
    asked = [(path, shop.rest.get(path, params={"cursor": cursor})) for path in PLAIN for cursor in WRONG]

    assert [(path, answer.text) for path, answer in asked if answer.status_code not in {200, 422}] == []
