"""Rows of usage in a file: JSON lines or CSV, each with its line number, as the plan store takes them.

Columns are the fields of an event (`docs/usage.md`); in CSV attributes stand in columns `dimensions.NAME`.
What `entitlements outbox export` and sinks write is read too: what the registry decided then is left out.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, Any

import msgspec

from entitlement_sidecar.domain.errors import InvalidInputError

MAX_LINE = 1 << 20
"""Characters of a line at most."""

MAX_TEXT = 512
"""Characters of a text that the plan store reads at all."""

TEXTS = (
    "id",
    "tenant_id",
    "metric",
    "unit",
    "actor_id",
    "correlation_id",
    "emitter",
    "subject",
    "consumption_id",
    "feature",
    "lease_id",
    "corrects",
    "reason",
    "recorded_by",
)
NUMBERS = ("value", "count", "schema_version", "registry_version")
INSTANTS = ("occurred_at", "recorded_at")
FLAGS = ("voids", "id_generated")
LEFT_OUT = frozenset({"classification", "rule", "cursor", "instance", "epoch", "sequence"})
"""What others have said of an event, and where it stood there."""

_DIMENSION = "dimensions."
_MOST = 2**63


class Row(msgspec.Struct, frozen=True):
    """One row: its text, and either an event for the plan store or what is wrong with it."""

    line: int
    text: str
    event: dict[str, Any] | None = None
    problem: str = ""


def rows_of(file: IO[str], form: str, tenant: str) -> Iterator[Row]:
    """The rows of a file, read one by one. `form` is `json` or `csv`; `tenant` is that of rows without one.

    Raises:
        InvalidInputError: The file has no rows of that form at all: a CSV without a known header.
    """
    if form == "csv":
        return _csv_rows(file, tenant)
    return _json_rows(file, tenant)


def _json_rows(file: IO[str], tenant: str) -> Iterator[Row]:
    line = 0
    while text := file.readline(MAX_LINE):
        line += 1
        if not text.endswith("\n") and len(text) == MAX_LINE:
            while (more := file.readline(MAX_LINE)) and not more.endswith("\n"):
                pass
            yield Row(line, text[:MAX_TEXT], problem=f"expected a line of at most {MAX_LINE} characters")
        elif text.strip():
            yield _row(line, text.strip(), _parsed(text), tenant)


def _parsed(text: str) -> dict[str, Any] | str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"expected a JSON object: {error}"
    if not isinstance(found, dict):
        return f"expected a JSON object, got {type(found).__name__}"
    # An exported record holds its event beside where it stood.
    inner = found.get("event")
    return inner if isinstance(inner, dict) else found


def _csv_rows(file: IO[str], tenant: str) -> Iterator[Row]:
    reader = csv.reader(file, strict=True)
    header = [name.strip() for name in _next(reader) or ()]
    _check_header(header)
    while True:
        line = reader.line_num + 1
        try:
            cells = _next(reader)
        except csv.Error as error:
            yield Row(line, "", problem=f"not CSV: {error}")
            continue
        if cells is None:
            return
        if cells:
            yield _row(line, ",".join(cells), _named(header, cells), tenant)


def _next(reader: Iterator[list[str]]) -> list[str] | None:
    return next(reader, None)


def _check_header(header: Sequence[str]) -> None:
    known = {*TEXTS, *NUMBERS, *INSTANTS, *FLAGS, *LEFT_OUT, "dimensions"}
    unknown = [name for name in header if name not in known and not name.startswith(_DIMENSION)]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if unknown or repeated or not header:
        what = f"got {', '.join(map(repr, unknown or repeated)) or 'none'}"
        raise InvalidInputError.of(
            "header",
            f"expected a first line of columns, each once, such as id,tenant_id,metric,value; {what}",
        )


def _named(header: Sequence[str], cells: Sequence[str]) -> dict[str, Any] | str:
    """Empty cells are left out: in a table they say nothing."""
    if len(cells) != len(header):
        return f"expected {len(header)} cells, as the header has, got {len(cells)}"
    found: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    dimensions = {name: found.pop(name) for name in list(found) if name.startswith(_DIMENSION)}
    if "dimensions" in found:
        parsed = _parsed(found["dimensions"])
        if isinstance(parsed, str):
            return f"dimensions: {parsed}"
        found["dimensions"] = parsed
    if dimensions:
        named = {name.removeprefix(_DIMENSION): text for name, text in dimensions.items()}
        found["dimensions"] = found.get("dimensions", {}) | named
    for name in NUMBERS:
        with suppress(KeyError, ValueError):
            found[name] = int(found[name])
    for name in FLAGS:
        if name in found:
            found[name] = {"true": True, "false": False}.get(found[name].lower(), found[name])
    return found


def _row(line: int, text: str, fields: dict[str, Any] | str, tenant: str) -> Row:
    if isinstance(fields, str):
        return Row(line, text, problem=fields)
    if tenant and not fields.get("tenant_id"):
        fields = {**fields, "tenant_id": tenant}
    event = {name: value for name, value in fields.items() if name not in LEFT_OUT and value is not None}
    if problem := next(_problems(event), ""):
        return Row(line, text, problem=problem)
    for name in INSTANTS:
        if name in event:
            event[name] = _instant(event[name])
    # The same row of the same file has the same identity, whenever it comes.
    event["id"] = event.get("id") or f"i-{_digest(line, event)}"
    return Row(line, text, event)


def _digest(line: int, event: dict[str, Any]) -> str:
    content = json.dumps([line, event], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _problems(event: dict[str, Any]) -> Iterator[str]:
    known = {*TEXTS, *NUMBERS, *INSTANTS, *FLAGS, "dimensions"}
    for name in sorted(event.keys() - known):
        yield f"{name[:64]!r} is no field of an event"
    if not event.get("tenant_id"):
        yield "tenant_id: required; --tenant names that of rows without one"
    for names, form, is_right in _FORMS:
        yield from (
            f"{name}: expected {form}" for name in names if name in event and not is_right(event[name])
        )


def _are_texts(dimensions: object) -> bool:
    return isinstance(dimensions, dict) and all(isinstance(one, str) for one in dimensions.values())


def _instant(text: object) -> str | None:
    try:
        instant = datetime.fromisoformat(text) if isinstance(text, str) else None
        return instant.astimezone(UTC).isoformat() if instant is not None and instant.tzinfo else None
    except (ValueError, OverflowError):
        return None


_FORMS: tuple[tuple[Sequence[str], str, Callable[[Any], bool]], ...] = (
    (
        TEXTS,
        f"text of at most {MAX_TEXT} characters",
        lambda one: isinstance(one, str) and len(one) <= MAX_TEXT,
    ),
    (
        NUMBERS,
        "a whole number",
        lambda one: isinstance(one, int) and not isinstance(one, bool) and abs(one) < _MOST,
    ),
    (INSTANTS, "an instant with a zone, such as 2026-01-31T12:00:00Z", lambda one: _instant(one) is not None),
    (FLAGS, "true or false", lambda one: isinstance(one, bool)),
    (("dimensions",), "texts by name", _are_texts),
)
"""Fields, what is right for them, and whether something is."""
