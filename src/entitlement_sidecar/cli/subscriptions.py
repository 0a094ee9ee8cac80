"""`entitlements subscriptions`: who is subscribed to what, and changes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click

from entitlement_sidecar.cli.output import output_option, print_record, print_records
from entitlement_sidecar.cli.targets import (
    Whole,
    connect,
    organization_pages,
    pairs,
    planstore_options,
    version_option,
)

COLUMNS = (
    "product",
    "plan",
    "plan_version",
    "status",
    "current_period_end",
    "cancel_at",
    "next_plan",
    "version",
)
HISTORY_COLUMNS = ("at", "version", "action", "status", "plan", "actor")

_Command = TypeVar("_Command", bound=Callable[..., Any])

_product_option = click.option(
    "--product", metavar="KEY", help="Which one, where the tenant is subscribed to several products."
)


@click.group("subscriptions")
def subscriptions() -> None:
    """Create and change subscriptions. Every answer names the snapshot version that carries the change."""


@subscriptions.command("create")
@click.argument("tenant")
@click.option(
    "--plan", required=True, metavar="CODE[@VERSION]", help="The plan; without a version the current one."
)
@click.option("--trial-days", type=Whole(), metavar="N", help="Days of trial. [default: the plan's]")
@click.option(
    "--add-on", "add_ons", multiple=True, metavar="KEY=N", help="An add-on and how many; repeatable."
)
@click.option(
    "--auto-renew/--fixed-term", default=None, help="Whether it goes on after its period. [default: it does]"
)
@click.option(
    "--at-period-end", is_flag=True, help="The plan changes when the running period or trial ends, not now."
)
@version_option
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
    body = {name: value for name, value in wanted.items() if value is not None and value is not False}
    if wanted["auto_renew"] is False:
        body["auto_renew"] = False
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
@_product_option
@planstore_options
@output_option
def show(tenant: str, product: str | None, planstore: str, token_file: Path | None, output: str) -> None:
    """Show what TENANT is subscribed to."""
    _print(connect(planstore, token_file).get(_path(tenant), product=product), output)


@subscriptions.command("list")
@click.argument("tenant")
@planstore_options
@output_option
def list_subscriptions(tenant: str, planstore: str, token_file: Path | None, output: str) -> None:
    """List what TENANT is subscribed to, of each product."""
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    answer = connect(planstore, token_file).get(organization(tenant, "subscriptions"))
    print_records(answer["subscriptions"], COLUMNS, output)


@subscriptions.command("history")
@click.argument("tenant")
@click.option("--limit", type=Whole(1), default=50, show_default=True, help="Most versions.")
@planstore_options
@output_option
def history(tenant: str, limit: int, planstore: str, token_file: Path | None, output: str) -> None:
    """Show what became of TENANT's subscriptions, the newest change first."""
    found = organization_pages(connect(planstore, token_file), tenant, "history", limit)
    print_records(found, HISTORY_COLUMNS, output)


def _changing(name: str, text: str) -> Callable[[_Command], click.Command]:
    """A command that changes a subscription: its options, and what they are called."""

    def declare(command: _Command) -> click.Command:
        for option in (output_option, planstore_options, version_option, _product_option):
            command = option(command)
        argument = click.argument("tenant")
        return subscriptions.command(name, help=text)(argument(command))

    return declare


@_changing("activate", "Begin to charge for a trial of TENANT, or end the grace of what was paid after all.")
def activate(tenant: str, **how: Any) -> None:  # noqa: ANN401 - typed by their options
    """Activates."""
    _change(tenant, "activate", how)


@_changing("renew", "Add a period to TENANT's fixed term; say that what was due is paid.")
def renew(tenant: str, **how: Any) -> None:  # noqa: ANN401 - typed by their options
    """Renews."""
    _change(tenant, "renew", how)


@_changing("past-due", "A payment of TENANT failed: take everything away when the grace is over, not now.")
@click.option("--grace-days", type=Whole(), metavar="N", help="Days of grace. [default: 3]")
def past_due(tenant: str, **how: Any) -> None:  # noqa: ANN401 - typed by their options
    """Marks as past due."""
    _change(tenant, "past-due", how)


@_changing("suspend", "Take everything away from TENANT until it is resumed.")
def suspend(tenant: str, **how: Any) -> None:  # noqa: ANN401 - typed by their options
    """Suspends."""
    _change(tenant, "suspend", how)


@_changing("resume", "End a suspension, or take back a cancellation or plan that is scheduled.")
def resume(tenant: str, **how: Any) -> None:  # noqa: ANN401 - typed by their options
    """Resumes."""
    _change(tenant, "resume", how)


@_changing("cancel", "End what TENANT is subscribed to, now or at the end of its period.")
@click.option("--at-period-end", is_flag=True, help="When the running period ends, not now.")
def cancel(tenant: str, **how: Any) -> None:  # noqa: ANN401 - typed by their options
    """Cancels."""
    _change(tenant, "cancel", how)


def _change(tenant: str, change: str, how: dict[str, Any]) -> None:
    rest = connect(how.pop("planstore"), how.pop("token_file"))
    output, product = how.pop("output"), how.pop("product")
    body = {name: value for name, value in how.items() if value is not None}
    path = _path(tenant, change) + (f"?product={quote(product, safe='')}" if product else "")
    _print(rest.post(path, body), output)


def _path(tenant: str, change: str = "") -> str:
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    return organization(tenant, f"subscription/{change}".rstrip("/"))


def _print(answer: dict[str, Any], output: str) -> None:
    print_record(answer, output)
