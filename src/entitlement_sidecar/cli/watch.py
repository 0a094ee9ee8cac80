"""`entitlements watch`: follows what a tenant has."""

from __future__ import annotations

import json

import click

from entitlement_sidecar.cli.check import warnings_of
from entitlement_sidecar.cli.output import plain, print_records
from entitlement_sidecar.cli.targets import Whole, sidecar_credentials, sidecar_options

_COLUMNS = ("feature", "allowed", "reason", "value", "limit", "used", "remaining", "warnings")


@click.command("watch", epilog="Ends with Ctrl-C, or with --once after the first state.")
@click.argument("tenant")
@click.option(
    "--after-version",
    type=Whole(),
    default=0,
    metavar="N",
    help="No state older than this version.",
)
@click.option("--once", is_flag=True, help="Print one state and end.")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How states are printed; JSON is one line each.",
)
@sidecar_options
def watch(*, tenant: str, after_version: int, once: bool, output: str, sidecar: str) -> None:
    """Print everything that TENANT has, now and after each change."""
    from entitlement_sidecar.client import EntitlementsClient  # noqa: PLC0415 - keeps --help quick

    with EntitlementsClient(sidecar, credentials=sidecar_credentials()) as client:
        for state in client.watch(tenant, after_version):
            if output == "json":
                click.echo(json.dumps(plain(state), ensure_ascii=False))
            else:
                click.echo(f"snapshot {state.snapshot_version}")
                rows = [{"feature": key, **_row(one)} for key, one in state.entitlements.items()]
                print_records(rows, _COLUMNS, "table")
            if once:
                return


def _row(decision: object) -> dict[str, object]:
    row = {name: getattr(decision, name) for name in _COLUMNS[1:]}
    return {**row, "warnings": warnings_of(decision)}
