"""`entitlements usage`: what the ledger holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from entitlement_sidecar.cli.output import output_option, print_records, tell_more
from entitlement_sidecar.cli.quarantine import quarantine, sources
from entitlement_sidecar.cli.targets import Whole, connect, organization_pages, planstore_options
from entitlement_sidecar.cli.usage_import import import_usage
from entitlement_sidecar.cli.usage_rebuild import rebuild
from entitlement_sidecar.cli.usage_reconcile import reconcile
from entitlement_sidecar.cli.usage_reports import correct, daily, report, sinks

SUMMARY = (
    "metric",
    "window",
    "window_start",
    "window_end",
    "value",
    "event_count",
    "classification",
    "state",
)
EVENTS = ("event_id", "metric", "value", "unit", "occurred_at", "subject", "classification", "correlation_id")
PAGE = 500
"""Events per call."""


@click.group("usage")
def usage() -> None:
    """See what the ledger holds."""


for command in (quarantine, sources, report, daily, correct, import_usage, sinks, rebuild, reconcile):
    usage.add_command(command)


@usage.command("summary")
@click.argument("tenant")
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most windows.")
@planstore_options
@output_option
def summary(tenant: str, limit: int, planstore: str, token_file: Path | None, output: str) -> None:
    """Sum up what TENANT has used, per metric and window, the newest first."""
    found = organization_pages(connect(planstore, token_file), tenant, "usage", limit)
    print_records(found, SUMMARY, output)


@usage.command("events")
@click.argument("tenant")
@click.option("--metric", help="Only events of this metric.")
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most events.")
@planstore_options
@output_option
def events(
    *, tenant: str, metric: str | None, limit: int, planstore: str, token_file: Path | None, output: str
) -> None:
    """List what TENANT has used, event by event, the newest arrival first."""
    print_records(_events(connect(planstore, token_file), tenant, metric, limit), EVENTS, output)


def _events(rest: Any, tenant: str, metric: str | None, limit: int) -> list[dict[str, Any]]:  # noqa: ANN401 - PlanstoreRest
    from entitlement_sidecar.cli.progress import progress  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415

    found: list[dict[str, Any]] = []
    cursor = None
    with progress("reading events", limit) as advance:
        while len(found) < limit:
            page = rest.get(
                organization(tenant, "usage/events"),
                metric=metric,
                limit=min(PAGE, limit - len(found)),
                cursor=cursor,
            )
            found += page["events"]
            advance(len(page["events"]))
            cursor = page.get("next_cursor")
            if cursor is None:
                break
    tell_more(len(found), cursor)
    return found
