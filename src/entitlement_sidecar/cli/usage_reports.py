"""`entitlements usage report|daily|correct|sinks`: what usage adds up to, and what is put right in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from entitlement_sidecar.cli.instants import instant_of
from entitlement_sidecar.cli.output import output_option, print_record, print_records
from entitlement_sidecar.cli.targets import Whole, connect, pages, planstore_options, why_option

LINES = ("key", "metric", "unit", "value", "event_count", "classification", "last_event_at")
SINKS = ("name", "cursor", "events", "behind", "updated_at")

_SINCE = click.option("--since", metavar="INSTANT", help="From then on, RFC 3339. [default: 31 days before]")
_UNTIL = click.option("--until", metavar="INSTANT", help="Before then, RFC 3339. [default: now]")
_METRIC = click.option("--metric", help="Only this metric.")
_LIMIT = click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most lines.")


@click.command("report")
@click.argument("tenant")
@click.option(
    "--by",
    default="subject",
    show_default=True,
    help="subject, actor, emitter, metric, day, or dimension:NAME, for example dimension:project.",
)
@_METRIC
@_SINCE
@_UNTIL
@_LIMIT
@planstore_options
@output_option
def report(
    *,
    tenant: str,
    planstore: str,
    token_file: Path | None,
    output: str,
    limit: int,
    **asked: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Sum up what TENANT has used, by subject, actor, emitter, metric, day or a dimension."""
    print_records(_lines(connect(planstore, token_file), tenant, "report", limit, asked), LINES, output)


@click.command("daily")
@click.argument("tenant")
@_METRIC
@_SINCE
@_UNTIL
@_LIMIT
@planstore_options
@output_option
def daily(
    *,
    tenant: str,
    planstore: str,
    token_file: Path | None,
    output: str,
    limit: int,
    **asked: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Sum up what TENANT has used, day by day (UTC)."""
    print_records(_lines(connect(planstore, token_file), tenant, "daily", limit, asked), LINES, output)


@click.command("correct")
@click.argument("tenant")
@click.argument("event_id", metavar="EVENT_ID")
@click.option("--value", type=Whole(), help="What it should have had. [default: it is voided]")
@why_option
@click.option("--request-id", help="The same for the same event again is the same correction.")
@planstore_options
@output_option
def correct(*, tenant: str, planstore: str, token_file: Path | None, output: str, **written: Any) -> None:  # noqa: ANN401 - typed by their options
    """Void the event EVENT_ID of TENANT, or amend its value."""
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    body = {name: value for name, value in written.items() if value is not None}
    answer = connect(planstore, token_file).post(organization(tenant, "usage/corrections"), body)
    print_record(answer, output)


@click.command("sinks")
@planstore_options
@output_option
def sinks(planstore: str, token_file: Path | None, output: str) -> None:
    """List the sinks of accepted usage, and how far each has got."""
    found = connect(planstore, token_file).get("/api/billing/usage/sinks")
    print_records(found["sinks"], SINKS, output)


def _lines(
    rest: Any,  # noqa: ANN401 - PlanstoreRest
    tenant: str,
    name: str,
    limit: int,
    asked: dict[str, Any],
) -> list[dict[str, Any]]:
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    for option in ("since", "until"):
        if asked.get(option) is not None:
            asked[option] = instant_of(asked[option], f"--{option}").isoformat()
    return pages(rest, organization(tenant, f"usage/{name}"), "lines", limit, **asked)
