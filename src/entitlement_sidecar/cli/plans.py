"""`entitlements plans`: what is sold."""

from __future__ import annotations

from pathlib import Path

import click

from entitlement_sidecar.cli.output import output_option, print_records
from entitlement_sidecar.cli.targets import connect, planstore_options

COLUMNS = ("code", "version", "title", "price", "billing_period", "billing_model", "trial_days", "active")


@click.group("plans")
def plans() -> None:
    """See what is sold."""


@plans.command("list")
@planstore_options
@output_option
def list_plans(planstore: str, token_file: Path | None, output: str) -> None:
    """List the plans that can be subscribed to."""
    found = connect(planstore, token_file).get("/api/billing/plans")["plans"]
    print_records(found, COLUMNS, output)
