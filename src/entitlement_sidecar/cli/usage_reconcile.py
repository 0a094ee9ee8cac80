"""`entitlements usage reconcile`: what the root has counted against what the ledger holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from entitlement_sidecar.cli.instants import instant_of
from entitlement_sidecar.cli.output import output_option, print_records
from entitlement_sidecar.cli.targets import connect, planstore_options

COLUMNS = (
    "feature", "limit", "window_start", "column", "authority", "ledger", "difference", "unexplained", "cause",
)  # fmt: skip


@click.command("reconcile")
@click.argument("tenant")
@click.option("--feature", metavar="KEY", help="Only this feature.")
@click.option("--at", metavar="INSTANT", help="Windows that hold this instant, RFC 3339. [default: now]")
@click.option("--all", "everything", is_flag=True, help="Also what agrees.")
@planstore_options
@output_option
def reconcile(
    *,
    tenant: str,
    feature: str | None,
    at: str | None,
    everything: bool,
    planstore: str,
    token_file: Path | None,
    output: str,
) -> None:
    """Compare what the root has counted of TENANT with the ledger, and explain each difference.

    Between a use and its event or its settlement the two differ for a while: that is explained, lease by
    lease. Exits with 1 where something is unexplained.
    """
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    asked = None if at is None else instant_of(at, "--at").isoformat()
    path = organization(tenant, "usage/reconciliation")
    lines = connect(planstore, token_file).get(path, feature=feature, at=asked)["lines"]
    shown = [line for line in lines if everything or line["difference"] or line["strict"]]
    print_records([_flat(line) for line in shown], COLUMNS, output)
    if any(line["unexplained"] for line in lines):
        click.get_current_context().exit(1)


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    causes = [_told(one) for one in line["explained"]]
    strict = ["strict: so much is lost that no leases are granted"] if line["strict"] else []
    return line | {"cause": "; ".join(causes + strict)}


def _told(one: dict[str, Any]) -> str:
    lease = f" ({one['lease_id']} of {one['holder']})" if one["lease_id"] else ""
    return f"{one['quantity']}: {one['cause']}{lease}"
