"""`entitlements snapshots`: what sidecars get of tenants: to see, to verify, to compile anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entitlement_sidecar.cli.output import Record, in_a_cell, output_option, print_record, print_records
from entitlement_sidecar.cli.progress import progress
from entitlement_sidecar.cli.targets import connect, planstore_options

if TYPE_CHECKING:
    from entitlement_sidecar.cli.rest import PlanstoreRest

PAGE = 500
"""Tenants that one call verifies or republishes."""

_ALL = "/api/billing/snapshots"

_FAULTY = 1
"""Exit code of `verify` where something does not fit."""


@click.group("snapshots")
def snapshots() -> None:
    """See, verify and republish what sidecars get of tenants."""


@snapshots.command("show")
@click.argument("tenant")
@planstore_options
@output_option
def show(tenant: str, planstore: str, token_file: Path | None, output: str) -> None:
    """Show TENANT's newest snapshot: its subscriptions with their phases, and its grants."""
    found = connect(planstore, token_file).get(_path(tenant))
    if output == "json":
        print_record(found, output)
        return
    if output == "table":
        head = ("tenant_id", "version", "compiled_at", "catalogue_version", "key_id")
        print_record({name: found[name] for name in head}, output)
        print_records(list(_phases(found)), ("subscription", "plan", "state", "since", "until"), output)
    print_records(
        list(_grants(found)),
        ("feature", "source", "effect", "grants", "since", "until", "subscription"),
        output,
    )


@snapshots.command("verify")
@click.argument("tenant", required=False)
@planstore_options
@output_option
@click.pass_context
def verify(
    context: click.Context, tenant: str | None, planstore: str, token_file: Path | None, output: str
) -> None:
    """Verify the signatures of all snapshots, or TENANT's, and that Redis holds the same.

    Names each tenant that does not fit; the exit code is 1 then.
    """
    rest = connect(planstore, token_file)
    pages = list(_verified(rest, tenant))
    faults = [fault for page in pages for fault in page["faults"]]
    if faults or output != "table":
        print_records(faults, ("tenant_id", "where", "cause", "detail"), output)
    checked, waiting = (sum(page[name] for page in pages) for name in ("checked", "waiting"))
    where = "database and Redis" if any(page["redis"] for page in pages) else "database"
    on_way = f", {waiting} of them with a change on its way to Redis" if waiting else ""
    told = f"{len(faults)} faults" if len(faults) != 1 else "1 fault"
    click.echo(f"{_tenants(checked)} verified in {where}{on_way}: {told}", err=True)
    if faults:
        context.exit(_FAULTY)


@snapshots.command("republish")
@click.argument("tenant", required=False)
@click.option("--all", "everyone", is_flag=True, help="Every tenant, those in use first.")
@click.option(
    "--cursor", default="", metavar="TEXT", help="With --all: go on where a call that failed had come to."
)
@planstore_options
@output_option
def republish(
    *,
    tenant: str | None,
    everyone: bool,
    cursor: str,
    planstore: str,
    token_file: Path | None,
    output: str,
) -> None:
    """Compile TENANT, or --all, anew, sign it and send it out, though nothing of it has changed."""
    if bool(tenant) == everyone or (cursor and not everyone):
        raise click.UsageError("expected either a TENANT or --all; --cursor goes with --all")
    rest = connect(planstore, token_file)
    if tenant:
        print_record(rest.post(_path(tenant, "/republish"), {}), output)
        return
    done = [one for page in _republished(rest, cursor) for one in page]
    if output == "table":
        click.echo(f"{_tenants(len(done))} republished")
    else:
        print_records(done, ("tenant_id", "snapshot_version"), output)


def _tenants(count: int) -> str:
    return "1 tenant" if count == 1 else f"{count} tenants"


def _path(tenant: str, rest: str = "") -> str:
    from entitlement_sidecar.cli.rest import organization  # noqa: PLC0415 - keeps --help quick

    return organization(tenant, f"snapshot{rest}")


def _verified(rest: PlanstoreRest, tenant: str | None) -> Iterator[Record]:
    """Pages of what was verified."""
    if tenant:
        yield rest.get(f"{_ALL}/verify", tenant_id=tenant)
        return
    cursor: str | None = None
    with progress("verifying", None) as advance:
        while True:
            page = rest.get(f"{_ALL}/verify", cursor=cursor, limit=PAGE)
            advance(page["checked"])
            yield page
            cursor = page["next_cursor"]
            if cursor is None:
                return


def _republished(rest: PlanstoreRest, cursor: str) -> Iterator[list[Record]]:
    """Pages of new versions. Where a call fails or is interrupted, it is told how to go on."""
    from entitlement_sidecar.domain.errors import RetryableError  # noqa: PLC0415 - keeps --help quick

    at: str | None = cursor
    with progress("republishing", None) as advance:
        while at is not None:
            try:
                page: dict[str, Any] = rest.post(f"{_ALL}/republish", {"cursor": at, "limit": PAGE})
            except (Exception, KeyboardInterrupt) as error:
                if at and (at != cursor or isinstance(error, RetryableError | KeyboardInterrupt)):
                    click.echo(f"not all are done; go on with: --all --cursor {at}", err=True)
                raise
            advance(len(page["republished"]))
            yield page["republished"]
            at = page["next_cursor"]


def _phases(found: Record) -> Iterator[Record]:
    for subscription in found["subscriptions"]:
        plan = f"{subscription['plan']}@{subscription['plan_version']}"
        for phase in subscription["phases"]:
            yield {"subscription": subscription["id"], "plan": plan, **phase}


def _grants(found: Record) -> Iterator[Record]:
    for grant in found["grants"]:
        shown = {name: grant[name] for name in ("feature", "effect", "since", "until")}
        source = f"{grant['provenance']} {grant['source']}".strip()
        yield {**shown, "source": source, "grants": _granted(grant), "subscription": grant["subscription_id"]}


def _granted(grant: Record) -> str:
    """What a grant is worth, in a few words."""
    if grant["effect"] == "deny" or not grant["enabled"]:
        return "nothing"
    if grant["limits"]:
        return in_a_cell(grant["limits"])
    return "yes" if grant["value"] is None else in_a_cell(grant["value"])
