"""`entitlements report`: reports usage to a sidecar, as an application would."""

from __future__ import annotations

from typing import Any

import click

from entitlement_sidecar.cli.instants import instant_of
from entitlement_sidecar.cli.output import output_option, print_record, record_of
from entitlement_sidecar.cli.targets import Whole, pairs, sidecar_credentials, sidecar_options

EXIT_REFUSED = 2


@click.command(
    "report",
    epilog="Exit codes: 0 kept (also when it was kept before); 2 refused, or kept and does not count; "
    "3 no sidecar answered.",
)
@click.argument("tenant")
@click.argument("metric")
@click.argument("value", type=Whole())
@click.option("--id", "id", default="", help="Identity: the same id again counts once.")
@click.option(
    "--correlation-id", default="", help="Ties it to the work that caused it; billable metrics need it."
)
@click.option(
    "--occurred-at", metavar="INSTANT", help="When it happened, RFC 3339 with a zone. [default: now]"
)
@click.option("--subject", default="", help="User, agent, project or resource inside the tenant.")
@click.option("--actor-id", default="", help="Who did it.")
@click.option("--emitter", default="", help="The service that reports.")
@click.option("--unit", default="", help="Unit of VALUE; must be the metric's.")
@click.option(
    "--dimension", "dimensions", multiple=True, metavar="KEY=TEXT", help="An attribute; repeatable."
)
@sidecar_options
@output_option
@click.pass_context
def report(
    context: click.Context,
    /,
    *,
    occurred_at: str | None,
    dimensions: tuple[str, ...],
    sidecar: str,
    output: str,
    **fields: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Report that TENANT used VALUE of METRIC, an integer in the metric's smallest unit."""
    from entitlement_sidecar.client import EntitlementsClient, Usage, UsageOutcome  # noqa: PLC0415 - keeps --help quick

    fields["tenant_id"] = fields.pop("tenant")
    when = instant_of(occurred_at, "--occurred-at") if occurred_at else None
    usage = Usage(occurred_at=when, dimensions=pairs(dimensions, "--dimension"), **fields)
    with EntitlementsClient(sidecar, credentials=sidecar_credentials()) as client:
        (result,) = client.report([usage])
    print_record(record_of(result), output)
    kept = {UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE, UsageOutcome.LATE_ACCEPTED}
    context.exit(0 if result.outcome in kept else EXIT_REFUSED)
