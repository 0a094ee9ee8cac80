"""`entitlements overrides`: something that one tenant has beside its plan, or has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from entitlement_sidecar.cli.output import output_option, print_record, print_records
from entitlement_sidecar.cli.targets import (
    Whole,
    connect,
    organization_pages,
    planstore_options,
    version_option,
    why_option,
)

COLUMNS = ("id", "feature", "effect", "enabled", "value", "limits", "since", "until", "revoked_at", "reason")


_MODES = frozenset({"strict", "leased", "local_deny", "optimistic"})


@click.group("overrides")
def overrides() -> None:
    """Grant or deny one tenant a feature beside its plan, for a reason and mostly for a while."""


@overrides.command("list")
@click.argument("tenant")
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most overrides.")
@planstore_options
@output_option
def list_overrides(tenant: str, limit: int, planstore: str, token_file: Path | None, output: str) -> None:
    """List the overrides of TENANT, the newest first, also those that are over."""
    found = organization_pages(connect(planstore, token_file), tenant, "overrides", limit)
    print_records(found, COLUMNS, output)


@overrides.command("show")
@click.argument("tenant")
@click.argument("override_id", metavar="OVERRIDE")
@planstore_options
@output_option
def show(tenant: str, override_id: str, planstore: str, token_file: Path | None, output: str) -> None:
    """Show one OVERRIDE of TENANT."""
    print_record(connect(planstore, token_file).get(_path(tenant, override_id)), output)


@overrides.command("create")
@click.argument("tenant")
@click.argument("feature")
@click.option("--effect", type=click.Choice(["deny", "set", "add"]), required=True, help="What it does.")
@why_option
@click.option("--since", metavar="INSTANT", help="From when, in RFC 3339. [default: now]")
@click.option("--until", metavar="INSTANT", help="Until when, in RFC 3339. [default: open-ended]")
@click.option("--disabled", is_flag=True, help="Boolean features: set to off.")
@click.option("--value", metavar="JSON", help="Config features: the value.")
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="AMOUNT/WINDOW[/soft][/MODE]",
    help="Metered features; repeatable. MODE is strict, leased, local_deny or optimistic; without one it is"
    " that of the limit that this one adds to or replaces. [default: unlimited]",
)
@click.option("--seats", metavar="N", help="Seats: how many, or unlimited.")
@click.option("--credits", "credit", metavar="N", help="Credits: how many, or unlimited.")
@click.option("--window", metavar="UNIT", help="Window of seats or credits. [default: lifetime]")
@planstore_options
@output_option
def create(
    tenant: str,
    planstore: str,
    token_file: Path | None,
    output: str,
    **written: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Grant or deny TENANT a FEATURE. Which options apply depends on the feature's kind."""
    print_record(connect(planstore, token_file).post(_path(tenant), _body(written)), output)


@overrides.command("revoke")
@click.argument("tenant")
@click.argument("override_id", metavar="OVERRIDE")
@version_option
@planstore_options
@output_option
def revoke(
    *,
    tenant: str,
    override_id: str,
    expected_version: int | None,
    planstore: str,
    token_file: Path | None,
    output: str,
) -> None:
    """End an OVERRIDE of TENANT at once."""
    body = {} if expected_version is None else {"expected_version": expected_version}
    print_record(connect(planstore, token_file).post(_path(tenant, override_id, "revoke"), body), output)


def _body(written: dict[str, Any]) -> dict[str, Any]:
    body = {name: written[name] for name in ("feature", "effect", "reason", "since", "until", "window")}
    body |= {
        "seats": _amount(written["seats"], "--seats"),
        "credits": _amount(written["credit"], "--credits"),
    }
    if written["disabled"]:
        body["enabled"] = False
    if written["value"] is not None:
        body["value"] = _json(written["value"])
    if written["limits"]:
        body["limits"] = [_limit(text) for text in written["limits"]]
    return {name: value for name, value in body.items() if value is not None}


def _json(text: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}: expected JSON, for example 5 or '\"gold\"'", param_hint="--value"
        ) from error


def _limit(text: str) -> dict[str, Any]:
    amount, _, rest = text.partition("/")
    window, *more = rest.split("/")
    soft, modes = more[:1] == ["soft"], more[1:] if more[:1] == ["soft"] else more
    if not (amount and window) or len(modes) > 1 or not set(modes) <= _MODES:
        raise click.BadParameter(
            f"{text!r}: expected AMOUNT/WINDOW, then /soft or not, then /strict, /leased, /local_deny,"
            " /optimistic or none of these",
            param_hint="--limit",
        )
    found = {"amount": _amount(amount, "--limit"), "window": window}
    return found | ({"soft": True} if soft else {}) | ({"mode": modes[0]} if modes else {})


def _amount(text: str | None, option: str) -> int | str | None:
    if text is None or text == "unlimited":
        return text
    if not (text.isascii() and text.isdigit()):
        raise click.BadParameter(f"{text!r}: expected a number of 0 or more, or unlimited", param_hint=option)
    return int(text)


def _path(tenant: str, *below: str) -> str:
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    return organization(tenant, "overrides", *below)
