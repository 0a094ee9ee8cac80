"""`entitlements leases`: who holds quota of a tenant without asking."""

from __future__ import annotations

from pathlib import Path

import click

from entitlement_sidecar.cli.output import output_option, print_record, print_records
from entitlement_sidecar.cli.targets import Whole, connect, pages, planstore_options, why_option

COLUMNS = (
    "id", "kind", "feature", "holder", "granted", "used", "outstanding", "state", "strict", "expires_at",
)  # fmt: skip

_FEATURE = click.option("--feature", default="", metavar="KEY", help="Only of this feature.")


@click.group("leases")
def leases() -> None:
    """See who holds quota, and take back what lost holders had.

    Only limits whose mode is leased have leases and blocks; of others each use is the authority's matter.
    """


@leases.command("list")
@click.argument("tenant")
@_FEATURE
@click.option("--forfeited", is_flag=True, help="Only those whose holder was lost.")
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most leases.")
@planstore_options
@output_option
def list_leases(
    *, tenant: str, feature: str, planstore: str, token_file: Path | None, output: str, **wanted: int
) -> None:
    """List the leases and blocks of TENANT that still have tokens."""
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    asked = {"feature": feature} if feature else {}
    if wanted["forfeited"]:
        asked["forfeited"] = "true"
    path = organization(tenant, "leases")
    found = pages(connect(planstore, token_file), path, "leases", wanted["limit"], **asked)
    print_records(found, COLUMNS, output)


@leases.command("release-forfeited")
@click.argument("tenant")
@_FEATURE
@why_option
@planstore_options
@output_option
def release_forfeited(
    *, tenant: str, feature: str, reason: str, planstore: str, token_file: Path | None, output: str
) -> None:
    """Take back what lost holders of TENANT had.

    Only where none of them can still be using it: nobody but you knows. What one of them tells later all the
    same is counted as usage that nobody admitted.
    """
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    body = {"feature": feature, "reason": reason}
    answer = connect(planstore, token_file).post(organization(tenant, "leases/release-forfeited"), body)
    print_record(answer, output)
