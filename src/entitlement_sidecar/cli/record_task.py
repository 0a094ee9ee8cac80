"""`entitlements record-task`: reports a task with its tokens and compute, as an application would."""

from __future__ import annotations

from typing import Any

import click

from entitlement_sidecar.cli.instants import instant_of
from entitlement_sidecar.cli.output import output_option, print_records, record_of
from entitlement_sidecar.cli.report import EXIT_REFUSED
from entitlement_sidecar.cli.targets import Whole, pairs, sidecar_credentials, sidecar_options

COLUMNS = ("id", "outcome", "classification", "rule", "reason")


@click.command(
    "record-task",
    epilog="Exit codes: 0 kept (also when it was kept before); 2 refused, or kept and does not count; "
    "3 no sidecar answered.",
)
@click.argument("tenant")
@click.argument("task", metavar="TASK")
@click.option("--input-tokens", type=Whole(), default=0, help="Tokens read.")
@click.option("--output-tokens", type=Whole(), default=0, help="Tokens written.")
@click.option("--compute-ms", type=Whole(), default=0, help="Compute in milliseconds.")
@click.option("--occurred-at", metavar="INSTANT", help="When it ended, RFC 3339 with a zone. [default: now]")
@click.option("--subject", default="", help="User, agent, project or resource inside the tenant.")
@click.option("--actor-id", default="", help="Who did it.")
@click.option("--emitter", default="", help="The service that reports.")
@click.option(
    "--dimension", "dimensions", multiple=True, metavar="KEY=TEXT", help="An attribute; repeatable."
)
@sidecar_options
@output_option
@click.pass_context
def record_task(
    context: click.Context,
    /,
    *,
    tenant: str,
    task: str,
    occurred_at: str | None,
    dimensions: tuple[str, ...],
    sidecar: str,
    output: str,
    **parts: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Record TASK of TENANT with its tokens and compute, all or none; the same TASK again counts once."""
    from entitlement_sidecar.client import EntitlementsClient, UsageOutcome  # noqa: PLC0415 - keeps --help quick

    if occurred_at:
        parts["occurred_at"] = instant_of(occurred_at, "--occurred-at")
    parts["dimensions"] = pairs(dimensions, "--dimension")
    with EntitlementsClient(sidecar, credentials=sidecar_credentials()) as client:
        results = client.record_task(tenant, task, **parts)
    print_records([record_of(one) for one in results], COLUMNS, output)
    kept = {UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE, UsageOutcome.LATE_ACCEPTED}
    context.exit(0 if all(one.outcome in kept for one in results) else EXIT_REFUSED)
