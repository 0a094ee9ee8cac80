"""What a catalogue changes and whom it touches, for people to read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import click

from entitlement_sidecar.cli.output import Record, print_record, print_records, printable

COLUMNS = ("section", "key", "change", "becomes", "field", "old", "new")
_SIGNS = {"added": "+", "changed": "~", "retired": "-"}
_ONE = {
    "features": "feature",
    "metrics": "metric",
    "plans": "plan",
    "add_ons": "add-on",
    "emitters": "emitter",
    "rules": "rule",
    "task_metrics": "part of tasks",
    "retention": "retention of",
}
_SHOWN = 10
"""Tenants that are named; JSON names more."""


def print_changes(found: Record, output: str) -> None:
    """Prints a diff: a tree for people, everything as JSON, or a CSV with a row for each field."""
    if output == "json":
        print_record(found, output)
    elif output == "csv":
        print_records(list(_rows(found["differences"])), COLUMNS, output)
    else:
        for line in _tree(found):
            click.echo(printable(line))


def print_losses(losses: Sequence[Any], file: str) -> None:
    """Says on standard error what was refused, and what to type."""
    click.echo("Error: nothing was changed: this catalogue takes something in use from tenants", err=True)
    for loss in losses:
        click.echo(printable(f"  {_touching(loss, 'lose')}"), err=True)
        tenants = [{"tenant_id": one["tenant_id"], "what": one["loses"]} for one in loss["first"]]
        for line in _tenants(loss["tenants"], tenants):
            click.echo(printable(f"    {line}"), err=True)
    typed = f"entitlements catalogue apply {shlex.quote(file)} --accept-losses"
    click.echo(printable(f"To take it from them: {typed}"), err=True)


def _rows(differences: Sequence[Record]) -> Iterator[Record]:
    for one in differences:
        head = {name: one[name] for name in ("section", "key", "change", "becomes")}
        for field in one["fields"] or [{"path": None, "old": None, "new": None}]:
            yield {**head, "field": field["path"], "old": field["old"], "new": field["new"]}


def _tree(found: Record) -> Iterator[str]:
    against = f"version {found['version']}" if found["version"] else "nothing: there is no catalogue yet"
    if not found["changed"]:
        yield f"no changes against {against}"
        return
    yield f"against {against}"
    for section in _ONE:
        listed = [one for one in found["differences"] if one["section"] == section]
        if listed:
            yield f"{section}:"
        for one in listed:
            becomes = f" → {one['becomes']}" if one["becomes"] else ""
            yield f"  {_SIGNS[one['change']]} {one['key']} {one['change']}{becomes}"
            for field in one["fields"]:
                yield f"      {field['path']}: {_value(field['old'])} → {_value(field['new'])}"
    yield from _effects(found["effects"])


def _effects(effects: Sequence[Record]) -> Iterator[str]:
    if not effects:
        yield "tenants: nobody gains or loses anything now; subscribers keep the versions that they bought"
        return
    yield "tenants:"
    for effect in effects:
        for side, verb in (("lost", "lose"), ("gained", "gain")):
            affected = effect[side]
            if affected["tenants"]:
                yield f"  {_touching({**effect, 'tenants': affected['tenants']}, verb)}"
                yield from (f"    {line}" for line in _tenants(affected["tenants"], affected["first"]))


def _touching(effect: Record, verb: str) -> str:
    number = f"1 tenant {verb}s" if effect["tenants"] == 1 else f"{effect['tenants']} tenants {verb}"
    return f"{_ONE[effect['section']]} {effect['key']} {effect['change']}: {number}"


def _tenants(count: int, first: Sequence[Record]) -> Iterator[str]:
    shown = first[:_SHOWN]
    for one in shown:
        yield f"{one['tenant_id']}: {', '.join(one['what'])}"
    if count > len(shown):
        yield f"… and {count - len(shown)} more"


def _value(value: Any) -> str:  # noqa: ANN401 - JSON
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
