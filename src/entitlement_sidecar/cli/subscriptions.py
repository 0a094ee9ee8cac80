"""`entitlements subscriptions`: who is subscribed to what, and changes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from entitlement_sidecar.cli.output import output_option, print_record
from entitlement_sidecar.cli.targets import connect, pairs, planstore_options

_version_option = click.option(
    "--expected-version",
    type=click.IntRange(0),
    metavar="N",
    help="Change it only if this is still its version; 0: only if there is none.",
)


@click.group("subscriptions")
def subscriptions() -> None:
    """Create and change subscriptions. Every answer names the snapshot version that carries the change."""


@subscriptions.command("create")
@click.argument("tenant")
@click.option(
    "--plan", required=True, metavar="CODE[@VERSION]", help="The plan; without a version the current one."
)
@click.option(
    "--trial-days", type=click.IntRange(0), metavar="N", help="Days of trial. [default: the plan's]"
)
@click.option(
    "--add-on", "add_ons", multiple=True, metavar="KEY=N", help="An add-on and how many; repeatable."
)
@click.option(
    "--auto-renew/--fixed-term", default=None, help="Whether it goes on after its period. [default: it does]"
)
@_version_option
@planstore_options
@output_option
def create(
    tenant: str,
    add_ons: tuple[str, ...],
    planstore: str,
    token_file: Path | None,
    output: str,
    **wanted: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Subscribe TENANT, or change the plan, trial or add-ons that it has."""
    body = {name: value for name, value in wanted.items() if value is not None}
    if add_ons:
        body["add_ons"] = {key: _quantity(text) for key, text in pairs(add_ons, "--add-on").items()}
    _print(connect(planstore, token_file).post(_path(tenant), body), output)


def _quantity(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise click.BadParameter(
            f"{text!r}: expected KEY=N with a number of 0 or more", param_hint="--add-on"
        )
    return int(text)


@subscriptions.command("show")
@click.argument("tenant")
@planstore_options
@output_option
def show(tenant: str, planstore: str, token_file: Path | None, output: str) -> None:
    """Show what TENANT is subscribed to."""
    _print(connect(planstore, token_file).get(_path(tenant)), output)


@subscriptions.command("suspend")
@click.argument("tenant")
@_version_option
@planstore_options
@output_option
def suspend(
    tenant: str, expected_version: int | None, planstore: str, token_file: Path | None, output: str
) -> None:
    """Take everything away from TENANT until it is resumed."""
    _print(
        connect(planstore, token_file).post(_path(tenant, "suspend"), _expecting(expected_version)), output
    )


@subscriptions.command("resume")
@click.argument("tenant")
@_version_option
@planstore_options
@output_option
def resume(
    tenant: str, expected_version: int | None, planstore: str, token_file: Path | None, output: str
) -> None:
    """End a suspension, or take back a cancellation that has not taken effect."""
    _print(connect(planstore, token_file).post(_path(tenant, "resume"), _expecting(expected_version)), output)


@subscriptions.command("cancel")
@click.argument("tenant")
@click.option("--at-period-end", is_flag=True, help="When the running period ends, not now.")
@_version_option
@planstore_options
@output_option
def cancel(
    *,
    tenant: str,
    at_period_end: bool,
    expected_version: int | None,
    planstore: str,
    token_file: Path | None,
    output: str,
) -> None:
    """End what TENANT is subscribed to, now or at the end of its period."""
    body = {**_expecting(expected_version), "at_period_end": at_period_end}
    _print(connect(planstore, token_file).post(_path(tenant, "cancel"), body), output)


def _path(tenant: str, change: str = "") -> str:
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    return organization(tenant, f"subscription/{change}".rstrip("/"))


def _expecting(version: int | None) -> dict[str, Any]:
    return {} if version is None else {"expected_version": version}


def _print(answer: dict[str, Any], output: str) -> None:
    print_record(answer, output)
