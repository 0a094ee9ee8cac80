"""`entitlements check`: asks a sidecar, as an application would."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from entitlement_sidecar.cli.explanation import print_explanation
from entitlement_sidecar.cli.output import output_option, print_record, record_of
from entitlement_sidecar.cli.targets import Whole, sidecar_credentials, sidecar_options

TIMEOUT = 5.0
"""Seconds: a person waits longer than an application."""


@click.command(
    "check", epilog="Exit codes: 0 allowed; 1 denied; 2 the question is wrong; 3 no sidecar answered."
)
@click.argument("tenant")
@click.argument("feature")
@click.option("--consume", type=Whole(), metavar="N", help="Use N of it when allowed.")
@click.option("--peek", "--quantity", type=Whole(), metavar="N", help="Only ask for N of it. [default: 1]")
@click.option("--subject", default="", help="User, agent, project or resource inside the tenant.")
@click.option("--request-id", default="", help="Makes --consume safe to repeat.")
@click.option("--correlation-id", default="", help="Ties the usage to the work that caused it.")
@click.option("--value", metavar="JSON", help="Config features: the value that is to be used.")
@click.option("--max-staleness", type=click.FloatRange(0), metavar="SECONDS", help="Oldest answer accepted.")
@click.option("--min-snapshot-version", type=Whole(), metavar="N", help="Wait for this version.")
@click.option("--explain", is_flag=True, help="Show every step that led to the answer; consumes nothing.")
@sidecar_options
@output_option
@click.pass_context
def check(
    context: click.Context,
    /,
    *,
    tenant: str,
    feature: str,
    consume: int | None,
    peek: int | None,
    value: str | None,
    explain: bool,
    sidecar: str,
    output: str,
    **options: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Ask a sidecar whether TENANT may use FEATURE. Asks only, unless --consume is given."""
    from entitlement_sidecar.client import EntitlementsClient  # noqa: PLC0415 - keeps --help quick

    if consume is not None and peek is not None:
        raise click.UsageError("--consume uses and --peek only asks: give one of them")
    if explain and consume is not None:
        raise click.UsageError("--explain consumes nothing: ask with --peek N what --consume N would say")
    quantity = consume if consume is not None else peek
    given = {name: one for name, one in {**options, "quantity": quantity}.items() if one not in (None, "")}
    if value is not None:
        given["requested_value"] = _json(value)
    with EntitlementsClient(sidecar, timeout=TIMEOUT, credentials=sidecar_credentials()) as client:
        if explain:
            explanation = client.explain(tenant, feature, **given)
            decision = explanation.decision
            print_explanation(f"{tenant} · {feature}", explanation.steps, output)
        else:
            decision = client.check(tenant, feature, consume=consume is not None, **given)
            _print(decision, output)
    context.exit(0 if decision.allowed else 1)


def _json(text: str) -> Any:  # noqa: ANN401 - config values are JSON
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise click.BadParameter(
            f"{text!r} is not JSON: write 3, true or '\"text\"'", param_hint="--value"
        ) from error


_ALWAYS = frozenset({"allowed", "value", "limit", "used", "remaining"})
"""What a table shows also where it is false or zero."""


def _tells(name: str, value: object) -> bool:
    return name in _ALWAYS or (value is not False and value != 0)


def warnings_of(decision: Any) -> str:  # noqa: ANN401 - a Decision; its import costs --help
    """The warnings of a decision, in a cell."""
    return ", ".join(f"{one.kind.name} {one.detail}".strip() for one in decision.warnings)


def _print(decision: Any, output: str) -> None:  # noqa: ANN401 - a Decision; its import costs --help
    from entitlement_sidecar.domain.catalogue import FeatureKind  # noqa: PLC0415

    record = record_of(decision)
    record["kind"] = FeatureKind(decision.kind) if decision.kind else None
    if output == "table":
        record["provenance"] = ", ".join(f"{one.kind.name} {one.id}" for one in decision.provenance)
        record["warnings"] = warnings_of(decision)
        record["notes"] = ", ".join(decision.notes)
        record["credits"] = ", ".join(
            f"{one.grant} {one.remaining} of {one.amount}" for one in decision.credits
        )
        record = {name: one for name, one in record.items() if _tells(name, one)}
    print_record(record, output)
