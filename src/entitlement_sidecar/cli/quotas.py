"""`entitlements quotas`: asks the plan store itself, which has the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from entitlement_sidecar.cli.output import output_option, print_record
from entitlement_sidecar.cli.targets import Whole, connect, planstore_options


@click.group("quotas")
def quotas() -> None:
    """Ask the plan store itself what a tenant may use."""


@quotas.command(
    "check", epilog="Exit codes: 0 allowed; 1 denied; 2 the question is wrong; 3 no plan store answered."
)
@click.argument("tenant")
@click.argument("feature")
@click.option("--quantity", type=Whole(), metavar="N", help="How much. [default: 1]")
@click.option("--record-usage", is_flag=True, help="Also use it: consume the quota and record usage.")
@click.option("--request-id", help="Makes --record-usage safe to repeat.")
@click.option("--subject", help="User, agent, project or resource inside the tenant.")
@click.option("--correlation-id", help="Ties the usage to the work that caused it.")
@click.option("--value", metavar="JSON", help="Config features: the value that is to be used.")
@planstore_options
@output_option
@click.pass_context
def check(
    context: click.Context,
    /,
    *,
    tenant: str,
    feature: str,
    record_usage: bool,
    value: str | None,
    planstore: str,
    token_file: Path | None,
    output: str,
    **asked: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Ask whether TENANT may use FEATURE, as a sidecar would that has the newest of everything."""
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    body = {name: one for name, one in asked.items() if one is not None}
    body |= {"feature": feature, "record_usage": record_usage}
    if value is not None:
        body["requested_value"] = _json(value)
    answer = connect(planstore, token_file).post(organization(tenant, "quotas/check"), body)
    print_decision(answer, output)
    context.exit(0 if answer["allowed"] else 1)


def _json(text: str) -> Any:  # noqa: ANN401 - config values are JSON
    import json  # noqa: PLC0415 - keeps --help quick

    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not JSON: write 3, true or '\"text\"'", param_hint="--value"
        ) from error


_ALWAYS = frozenset({"allowed", "value", "limit", "used", "remaining"})
"""What a table shows also where it is false or zero."""


_EVER = "1970-01-01T00:00:00Z"
"""Where the window of what is never reset begins."""


def print_decision(answer: dict[str, Any], output: str) -> None:
    """Prints a plan store's decision; a table has what it tells, and no more."""
    if output == "table":
        answer = {name: one for name, one in answer.items() if name in _ALWAYS or (one and one != _EVER)}
        answer = {name: _line(one) if isinstance(one, list) else one for name, one in answer.items()}
    print_record(answer, output)


def _line(entries: list[Any]) -> str:
    """A list as people read it: what each entry names, side by side."""
    return ", ".join(
        " ".join(str(part) for part in one.values() if part) if isinstance(one, dict) else str(one)
        for one in entries
    )
