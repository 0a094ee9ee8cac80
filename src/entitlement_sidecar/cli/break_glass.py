"""`entitlements break-glass`: what an operator does in an emergency, for a while and on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from entitlement_sidecar.cli.durations import seconds_of
from entitlement_sidecar.cli.output import output_option, print_record, print_records
from entitlement_sidecar.cli.targets import Whole, connect, pages, planstore_options, why_option

COLUMNS = (
    "id",
    "action",
    "feature",
    "tenant_id",
    "state",
    "since",
    "until",
    "ended_at",
    "created_by",
    "ended_by",
    "reason",
)

_PATH = "/api/billing/break-glass"
_LONGEST = 7 * 86400
"""Seconds; the plan store has the same limit."""

_tenant = click.option("--tenant", default="", metavar="TENANT", help="For this tenant.")
_all = click.option("--all", "everybody", is_flag=True, help="For every tenant.")
_for = click.option(
    "--for",
    "life",
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="When it ends by itself, such as 90s, 30m, 2h or 7d, which is the longest.",
)


@click.group("break-glass")
def break_glass() -> None:
    """In an emergency: open a feature, or freeze snapshots; it ends by itself. See docs/break-glass.md."""


@break_glass.command("open")
@click.argument("feature")
@_tenant
@_all
@_for
@why_option
@planstore_options
@output_option
def open_feature(
    feature: str,
    planstore: str,
    token_file: Path | None,
    output: str,
    **written: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Allow a FEATURE for one tenant, or for all: without a limit, and whatever else is known."""
    body = {"action": "open", "feature": feature, **_body(**written)}
    print_record(connect(planstore, token_file).post(_PATH, body), output)


@break_glass.command("freeze")
@_tenant
@_all
@_for
@why_option
@planstore_options
@output_option
def freeze(
    planstore: str,
    token_file: Path | None,
    output: str,
    **written: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Have sidecars keep the snapshots that they hold, of one tenant or of all."""
    body = {"action": "freeze", **_body(**written)}
    print_record(connect(planstore, token_file).post(_PATH, body), output)


@break_glass.command("list")
@click.option("--ended", is_flag=True, help="Also those that are over.")
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most of them.")
@planstore_options
@output_option
def list_entries(*, ended: bool, limit: int, planstore: str, token_file: Path | None, output: str) -> None:
    """List what is in force, the newest first."""
    rest = connect(planstore, token_file)
    found = pages(rest, _PATH, "break_glass", limit, ended=str(ended).lower())
    print_records(found, COLUMNS, output)


@break_glass.command("end")
@click.argument("entry", metavar="ID")
@planstore_options
@output_option
def end(entry: str, planstore: str, token_file: Path | None, output: str) -> None:
    """End the entry ID at once."""
    path = f"{_PATH}/{quote(entry, safe='')}/end"
    print_record(connect(planstore, token_file).post(path, {}), output)


def _body(*, tenant: str, everybody: bool, life: str, reason: str) -> dict[str, Any]:
    if everybody is bool(tenant):
        raise click.UsageError("Give either --tenant TENANT or --all.")
    return {
        "tenant_id": tenant,
        "all_tenants": everybody,
        "expires_in": _seconds(life),
        "reason": reason,
    }


def _seconds(text: str) -> int:
    seconds = seconds_of(text, "--for", "2h")
    if seconds > _LONGEST:
        raise click.BadParameter(f"{text!r}: expected at most {_LONGEST // 86400}d", param_hint="--for")
    return seconds
