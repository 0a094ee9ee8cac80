"""`entitlements correct`: voids an event or amends its value, through a sidecar."""

from __future__ import annotations

from typing import Any

import click

from entitlement_sidecar.cli.output import output_option, print_record, record_of
from entitlement_sidecar.cli.report import EXIT_REFUSED
from entitlement_sidecar.cli.targets import Whole, sidecar_credentials, sidecar_options, why_option


@click.command(
    "correct",
    epilog="Exit codes: 0 on its way (also when it was before); 2 refused; 3 no sidecar answered. "
    "`entitlements usage correct` asks the plan store itself.",
)
@click.argument("tenant")
@click.argument("event_id", metavar="EVENT_ID")
@click.option("--value", type=Whole(), help="What it should have had. [default: it is voided]")
@why_option
@click.option("--request-id", default="", help="The same id for the same event is the same correction.")
@click.option("--actor-id", default="", help="Who corrects, for the audit log.")
@click.option("--emitter", default="", help="The service that corrects; one that may emit the metric.")
@sidecar_options
@output_option
@click.pass_context
def correct(
    context: click.Context,
    /,
    *,
    tenant: str,
    event_id: str,
    reason: str,
    sidecar: str,
    output: str,
    **options: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Void the event EVENT_ID of TENANT, or amend its value."""
    from entitlement_sidecar.client import EntitlementsClient, UsageOutcome  # noqa: PLC0415 - keeps --help quick

    given = {name: value for name, value in options.items() if value is not None}
    with EntitlementsClient(sidecar, credentials=sidecar_credentials()) as client:
        result = client.correct(tenant, event_id, reason, **given)
    print_record(record_of(result), output)
    kept = {UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE}
    context.exit(0 if result.outcome in kept else EXIT_REFUSED)
