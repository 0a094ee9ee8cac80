"""`entitlements organizations`: all tenants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from entitlement_sidecar.cli.output import output_option, print_records, tell_more
from entitlement_sidecar.cli.targets import Whole, connect, planstore_options

COLUMNS = ("tenant_id", "subscriptions", "snapshot_version", "created_at")
ENTITLEMENT_COLUMNS = ("feature", "allowed", "reason", "value", "limit", "used", "remaining", "reset_at")
PAGE = 500
"""Organizations per call."""

_STATUS = ("trialing", "active", "past_due", "unpaid", "suspended", "cancelled", "ended")


@click.group("organizations")
def organizations() -> None:
    """See which organizations there are."""


@organizations.command("list")
@click.option("--plan", metavar="CODE", help="Only those with a subscription to this plan.")
@click.option("--status", type=click.Choice(_STATUS), help="Only those with one of this status now.")
@click.option("--after", metavar="TENANT", help="Only those whose id comes after this one.")
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most organizations.")
@planstore_options
@output_option
def list_organizations(
    limit: int,
    planstore: str,
    token_file: Path | None,
    output: str,
    **wanted: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """List organizations in the order of their ids."""
    found = _organizations(connect(planstore, token_file), limit, wanted)
    print_records(found if output == "json" else [_flat(one) for one in found], COLUMNS, output)


@organizations.command("show")
@click.argument("tenant")
@planstore_options
@output_option
def show(tenant: str, planstore: str, token_file: Path | None, output: str) -> None:
    """Show everything that TENANT has, and how much of it is left."""
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    answer = connect(planstore, token_file).get(organization(tenant, "entitlements"))
    found = answer["entitlements"]
    records = [{"feature": one["feature"], **one["decision"]} for one in found]
    print_records(found if output == "json" else records, ENTITLEMENT_COLUMNS, output)


def _organizations(rest: Any, limit: int, wanted: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ANN401 - PlanstoreRest
    from entitlement_sidecar.cli.progress import progress  # noqa: PLC0415 - keeps --help quick

    found: list[dict[str, Any]] = []
    cursor = wanted.pop("after")
    with progress("reading organizations", limit) as advance:
        while len(found) < limit:
            asked = min(PAGE, limit - len(found))
            page = rest.get("/api/billing/organizations", cursor=cursor, limit=asked, **wanted)
            found += page["organizations"]
            advance(len(page["organizations"]))
            cursor = page["next_cursor"]
            if cursor is None:
                break
    tell_more(len(found), cursor)
    return found


def _flat(one: dict[str, Any]) -> dict[str, Any]:
    """One line per organization: `PLAN@VERSION STATUS` of each product."""
    held = (f"{each['plan']}@{each['plan_version']} {each['status']}" for each in one["subscriptions"])
    return {**one, "subscriptions": ", ".join(held)}
