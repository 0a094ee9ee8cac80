"""`entitlements usage quarantine` and `usage sources`: usage that does not count, or never came."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entitlement_sidecar.cli.output import Record, output_option, print_record, print_records
from entitlement_sidecar.cli.targets import Whole, connect, pages, planstore_options

if TYPE_CHECKING:
    from entitlement_sidecar.cli.rest import PlanstoreRest

HELD = ("tenant_id", "event_id", "metric", "emitter", "rule", "occurred_at", "received_at", "state", "reason")
SOURCES = (
    "instance",
    "epoch",
    "accepted_total",
    "stored",
    "duplicates",
    "conflicts",
    "quarantined",
    "refused",
    "declared",
    "outstanding",
    "silent",
    "last_seen_at",
)

PAGE = 500
"""Events that one call replays or discards."""

_PATH = "/api/billing/usage/quarantine"

_tenant = click.option("--tenant", default="", metavar="TENANT", help="Of this tenant.")
_metric = click.option("--metric", default="", metavar="METRIC", help="Of this metric.")
_rule = click.option("--rule", default="", metavar="RULE", help="Kept by this rule, such as usage:metric.")
_events = click.option("--event", "events", multiple=True, metavar="ID", help="This one; may be repeated.")
_everything = click.option("--all", "everything", is_flag=True, help="All that are held.")


@click.group("quarantine")
def quarantine() -> None:
    """See, replay or discard usage that is kept and does not count. See docs/usage.md."""


@quarantine.command("list")
@_tenant
@_metric
@_rule
@click.option(
    "--state",
    type=click.Choice(["held", "released", "discarded"]),
    default="held",
    show_default=True,
    help="What became of them.",
)
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most of them.")
@planstore_options
@output_option
def list_held(
    *,
    limit: int,
    planstore: str,
    token_file: Path | None,
    output: str,
    **wanted: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """List events in quarantine, the oldest first, with the rule that keeps each."""
    wanted["tenant_id"] = wanted.pop("tenant")
    found = pages(connect(planstore, token_file), _PATH, "quarantine", limit, **wanted)
    print_records(found, HELD, output)


@quarantine.command("replay")
@_tenant
@_metric
@_rule
@_events
@_everything
@planstore_options
@output_option
def replay(
    *,
    planstore: str,
    token_file: Path | None,
    output: str,
    **wanted: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Judge held events again, by the catalogue in force: they count now, or say why not."""
    done = {"looked_at": 0, "released": 0, "still_held": 0}
    for page in _each(connect(planstore, token_file), "replay", _body(**wanted)):
        done = {name: number + page[name] for name, number in done.items()}
    print_record(done, output)


@quarantine.command("discard")
@_tenant
@_metric
@_rule
@_events
@_everything
@planstore_options
@output_option
def discard(
    *,
    planstore: str,
    token_file: Path | None,
    output: str,
    **wanted: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Give held events up: they will never count."""
    rest = connect(planstore, token_file)
    discarded = sum(page["discarded"] for page in _each(rest, "discard", _body(**wanted)))
    print_record({"discarded": discarded}, output)


@click.command("sources")
@click.option("--instance", default="", metavar="NAME", help="Only this sidecar.")
@click.option("--silent", is_flag=True, help="Only those that somebody has to look at.")
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most of them.")
@planstore_options
@output_option
def sources(
    *, instance: str, silent: bool, limit: int, planstore: str, token_file: Path | None, output: str
) -> None:
    """Show what came from each start of each sidecar, and what of it never came."""
    rest = connect(planstore, token_file)
    path = "/api/billing/usage/sources"
    found = pages(rest, path, "sources", limit, instance=instance, silent=str(silent).lower())
    print_records(found, SOURCES, output)


def _body(
    *, tenant: str, metric: str, rule: str, events: tuple[str, ...], everything: bool
) -> dict[str, Any]:
    named = {"tenant_id": tenant, "metric": metric, "rule": rule, "event_ids": list(events)}
    if everything is any(named.values()):
        raise click.UsageError("Give --tenant, --metric, --rule or --event, or else --all.")
    if events and not tenant:
        raise click.UsageError("Give --tenant with --event: ids are those of a tenant.")
    return {**named, "everything": everything, "limit": PAGE}


def _each(rest: PlanstoreRest, action: str, body: dict[str, Any]) -> Iterator[Record]:
    """What each call has come to, until there are no more."""
    cursor: str | None = ""
    while cursor is not None:
        page = rest.post(f"{_PATH}/{action}", {**body, "cursor": cursor})
        yield page
        cursor = page["next_cursor"]
