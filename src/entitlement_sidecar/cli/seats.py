"""`entitlements seats`: who of a tenant has a seat."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import click

from entitlement_sidecar.cli.output import output_option, print_record, print_records
from entitlement_sidecar.cli.quotas import print_decision
from entitlement_sidecar.cli.targets import Whole, connect, organization_pages, planstore_options

COLUMNS = ("subject", "taken_at")


@click.group("seats")
def seats() -> None:
    """See who has a seat, take one for somebody, give it back."""


@seats.command("list")
@click.argument("tenant")
@click.argument("feature")
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most seats.")
@planstore_options
@output_option
def list_seats(
    *, tenant: str, feature: str, limit: int, planstore: str, token_file: Path | None, output: str
) -> None:
    """List who of TENANT has a seat of FEATURE."""
    rest = connect(planstore, token_file)
    found = organization_pages(rest, tenant, "seats", limit, path=f"seats/{quote(feature, safe='')}")
    print_records(found, COLUMNS, output)


@seats.command("assign")
@click.argument("tenant")
@click.argument("feature")
@click.argument("subject")
@planstore_options
@output_option
@click.pass_context
def assign(context: click.Context, /, tenant: str, feature: str, subject: str, **where: str) -> None:
    """Take a seat of FEATURE for a SUBJECT of TENANT; exits with 1 where there is none left."""
    answer = _post(where, tenant, f"{quote(feature, safe='')}/assign", subject)
    print_decision(answer, where["output"])
    context.exit(0 if answer["allowed"] else 1)


@seats.command("release")
@click.argument("tenant")
@click.argument("feature")
@click.argument("subject")
@planstore_options
@output_option
def release(tenant: str, feature: str, subject: str, **where: str) -> None:
    """Give the seat of FEATURE of a SUBJECT of TENANT back."""
    print_record(_post(where, tenant, f"{quote(feature, safe='')}/release", subject), where["output"])


def _post(where: dict[str, str], tenant: str, path: str, subject: str) -> dict[str, object]:
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    rest = connect(where["planstore"], Path(where["token_file"]) if where["token_file"] else None)
    answer: dict[str, object] = rest.post(organization(tenant, f"seats/{path}"), {"subject": subject})
    return answer
