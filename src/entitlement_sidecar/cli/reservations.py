"""`entitlements reserve`, `settle` and `release`: amounts whose cost is known only afterwards."""

from __future__ import annotations

from typing import Any

import click

from entitlement_sidecar.cli.durations import seconds_of
from entitlement_sidecar.cli.output import output_option, print_record, record_of
from entitlement_sidecar.cli.report import EXIT_REFUSED
from entitlement_sidecar.cli.targets import Whole, pairs, sidecar_credentials, sidecar_options


@click.command("reserve", epilog="Exit codes: 0 held; 1 not held; 3 no sidecar answered, or no plan store.")
@click.argument("tenant")
@click.argument("feature")
@click.argument("quantity", type=Whole())
@click.option(
    "--id", "reservation_id", default="", help="Its name: again, it is the same. [default: a fresh one]"
)
@click.option("--ttl", metavar="DURATION", help="How long it lasts, such as 5m; at most 1h. [default: 60s]")
@click.option("--subject", default="", help="User, agent, project or resource inside the tenant.")
@click.option("--correlation-id", default="", help="Ties the usage to the work that caused it.")
@sidecar_options
@output_option
@click.pass_context
def reserve(
    context: click.Context,
    /,
    *,
    tenant: str,
    feature: str,
    quantity: int,
    ttl: str | None,
    sidecar: str,
    output: str,
    **options: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Hold QUANTITY of FEATURE for TENANT, until it is settled or released."""
    from entitlement_sidecar.client import EntitlementsClient  # noqa: PLC0415 - keeps --help quick

    if ttl:
        options["ttl"] = seconds_of(ttl, "--ttl", "5m")
    with EntitlementsClient(sidecar, credentials=sidecar_credentials()) as client:
        answer = client.reserve(tenant, feature, quantity, **options)
    record = record_of(answer)
    decision = record.pop("decision")
    print_record({**record, "reason": decision.reason, "limit": decision.limit}, output)
    context.exit(0 if answer.held else 1)


@click.command(
    "settle", epilog="Exit codes: 0 billed, or kept until it is; 2 refused; 3 no sidecar answered."
)
@click.argument("tenant")
@click.argument("reservation", metavar="RESERVATION")
@click.argument("quantity", type=Whole())
@click.option(
    "--dimension", "dimensions", multiple=True, metavar="KEY=TEXT", help="An attribute; repeatable."
)
@sidecar_options
@output_option
@click.pass_context
def settle(
    context: click.Context,
    /,
    *,
    tenant: str,
    reservation: str,
    quantity: int,
    dimensions: tuple[str, ...],
    sidecar: str,
    output: str,
) -> None:
    """End RESERVATION of TENANT with the QUANTITY that was really used; the same again bills once."""
    from entitlement_sidecar.client import EntitlementsClient, UsageOutcome  # noqa: PLC0415 - keeps --help quick

    with EntitlementsClient(sidecar, credentials=sidecar_credentials()) as client:
        settled = client.settle(tenant, reservation, quantity, pairs(dimensions, "--dimension"))
    record = record_of(settled)
    result = record.pop("result")
    print_record({"event_id": result.id, "outcome": result.outcome, **record}, output)
    kept = {UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE, UsageOutcome.LATE_ACCEPTED}
    context.exit(0 if result.outcome in kept else EXIT_REFUSED)


@click.command(
    "release", epilog="Exit codes: 0 given back, also when it was before; 2 refused; 3 no sidecar answered."
)
@click.argument("tenant")
@click.argument("reservation", metavar="[RESERVATION]", default="")
@click.option("--consumption", default="", metavar="ID", help="Undo this allowed consumption instead.")
@sidecar_options
@output_option
def release(*, tenant: str, reservation: str, consumption: str, sidecar: str, output: str) -> None:
    """Give back RESERVATION of TENANT, of which nothing was used, or undo a consumption."""
    from entitlement_sidecar.client import EntitlementsClient  # noqa: PLC0415 - keeps --help quick

    if bool(reservation) == bool(consumption):
        raise click.UsageError("name a RESERVATION, or a consumption with --consumption ID")
    with EntitlementsClient(sidecar, credentials=sidecar_credentials()) as client:
        returned = client.release(tenant, reservation_id=reservation, consumption_id=consumption)
    print_record({"returned": returned}, output)
