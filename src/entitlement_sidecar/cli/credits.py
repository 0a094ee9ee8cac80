"""`entitlements credits`: credits that one tenant is given."""

from __future__ import annotations

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

COLUMNS = ("id", "feature", "amount", "priority", "since", "until", "voided_at", "reason")


@click.group("credits")
def credits() -> None:  # noqa: A001 - the command's name
    """Give a tenant credits, once, and take back what is left of them."""


@credits.command("list")
@click.argument("tenant")
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most grants.")
@planstore_options
@output_option
def list_credits(tenant: str, limit: int, planstore: str, token_file: Path | None, output: str) -> None:
    """List the credit grants of TENANT, the newest first, also those that are over."""
    found = organization_pages(connect(planstore, token_file), tenant, "credits", limit)
    print_records(found, COLUMNS, output)


@credits.command("show")
@click.argument("tenant")
@click.argument("grant_id", metavar="GRANT")
@planstore_options
@output_option
def show(tenant: str, grant_id: str, planstore: str, token_file: Path | None, output: str) -> None:
    """Show one credit GRANT of TENANT."""
    print_record(connect(planstore, token_file).get(_path(tenant, grant_id)), output)


@credits.command("grant")
@click.argument("tenant")
@click.argument("feature")
@click.argument("amount", type=Whole(1))
@why_option
@click.option("--priority", type=int, default=0, show_default=True, help="Smaller burns first.")
@click.option("--since", metavar="INSTANT", help="From when, in RFC 3339. [default: now]")
@click.option("--until", metavar="INSTANT", help="When they expire, in RFC 3339. [default: never]")
@planstore_options
@output_option
def grant(
    tenant: str,
    planstore: str,
    token_file: Path | None,
    output: str,
    **written: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Give TENANT an AMOUNT of credits of FEATURE."""
    body = {name: value for name, value in written.items() if value is not None}
    print_record(connect(planstore, token_file).post(_path(tenant), body), output)


@credits.command("void")
@click.argument("tenant")
@click.argument("grant_id", metavar="GRANT")
@version_option
@planstore_options
@output_option
def void(
    *,
    tenant: str,
    grant_id: str,
    expected_version: int | None,
    planstore: str,
    token_file: Path | None,
    output: str,
) -> None:
    """Take back what is left of a GRANT of TENANT; what was burnt stays burnt."""
    body = {} if expected_version is None else {"expected_version": expected_version}
    print_record(connect(planstore, token_file).post(_path(tenant, grant_id, "void"), body), output)


def _path(tenant: str, *below: str) -> str:
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    return organization(tenant, "credits", *below)
