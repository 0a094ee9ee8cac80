"""`entitlements plans`: what is sold, and who is moved from one version to another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entitlement_sidecar.cli.output import Record, output_option, print_record, print_records
from entitlement_sidecar.cli.progress import progress
from entitlement_sidecar.cli.targets import connect, planstore_options

if TYPE_CHECKING:
    from entitlement_sidecar.cli.rest import PlanstoreRest

COLUMNS = (
    "code",
    "version",
    "product",
    "title",
    "price",
    "billing_period",
    "billing_model",
    "trial_days",
    "active",
)
PAGE = 100
"""Tenants that one call moves."""

_MIGRATIONS = "/api/billing/plans/migrations"


@click.group("plans")
def plans() -> None:
    """See what is sold, and move subscribers to another version."""


@plans.command("list")
@planstore_options
@output_option
def list_plans(planstore: str, token_file: Path | None, output: str) -> None:
    """List the plans that can be subscribed to."""
    found = connect(planstore, token_file).get("/api/billing/plans")["plans"]
    print_records(found, COLUMNS, output)


@plans.command("migrate-tenants")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--dry-run", is_flag=True, help="Move nobody, and say who would be denied what they use today.")
@click.option("--tenant", "tenants", multiple=True, metavar="TENANT", help="Only this one; repeatable.")
@click.option("--at-period-end", is_flag=True, help="Each when its running period or trial ends.")
@planstore_options
@output_option
def migrate_tenants(
    source: str,
    target: str,
    planstore: str,
    token_file: Path | None,
    **chosen: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Move the subscribers of plan version FROM (CODE@VERSION) to TO (also CODE: the version on sale).

    Each tenant is moved by itself. Run it again after an interruption: it goes on with who is left.
    """
    wanted = {"from": source, "to": target, "tenants": list(chosen["tenants"])}
    wanted |= {name: chosen[name] for name in ("dry_run", "at_period_end")}
    found = _summary(list(_moved(connect(planstore, token_file), wanted)))
    if chosen["output"] == "json":
        print_record(found, chosen["output"])
        return
    rows = [*_skipped(found), *_denied(found)]
    if rows or chosen["output"] == "csv":
        print_records(rows, ("tenant_id", "what", "feature", "before", "after", "used"), chosen["output"])
    verb = "would be moved" if found["dry_run"] else "set to move" if chosen["at_period_end"] else "moved"
    told = f"{found['moved']} {verb} from {found['from']} to {found['to']}, {len(found['skipped'])} skipped"
    click.echo(
        f"{told}, {len(found['denied'])} would be denied something" if found["dry_run"] else told, err=True
    )


def _moved(rest: PlanstoreRest, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Pages of what became of tenants."""
    first = rest.post(_MIGRATIONS, {**wanted, "limit": PAGE})
    with progress("moving", first["subscribers"]) as advance:
        page = first
        while True:
            advance(page["moved"] + len(page["skipped"]))
            yield page
            cursor = page["next_cursor"]
            if cursor is None:
                return
            page = rest.post(_MIGRATIONS, {**wanted, "limit": PAGE, "cursor": cursor})


def _summary(pages: list[dict[str, Any]]) -> dict[str, Any]:
    """All pages as one answer."""
    first = pages[0]
    return {
        **{name: first[name] for name in ("from", "to", "dry_run", "subscribers")},
        "moved": sum(page["moved"] for page in pages),
        **{name: [one for page in pages for one in page[name]] for name in ("skipped", "denied")},
    }


def _skipped(found: Record) -> Iterator[Record]:
    for one in found["skipped"]:
        yield {"tenant_id": one["tenant_id"], "what": f"skipped, {one['reason']}: {one['detail']}"}


def _denied(found: Record) -> Iterator[Record]:
    for tenant in found["denied"]:
        for one in tenant["denied"]:
            what = f"loses {one['what']} {one['limit']}".rstrip()
            amounts = {name: _amount(one, name) for name in ("before", "after", "used")}
            yield {"tenant_id": tenant["tenant_id"], "what": what, "feature": one["feature"], **amounts}


def _amount(one: Record, name: str) -> Any:  # noqa: ANN401 - JSON
    unlimited = name != "used" and one["what"] in {"limit", "credits"} and one[name] is None
    return "unlimited" if unlimited else one[name]
