"""`entitlements outbox`: usage that a sidecar holds, seen from beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from entitlement_sidecar.cli.outbox_events import export, outbox_file, replay, state_option
from entitlement_sidecar.cli.output import output_option, print_record, print_records, record_of
from entitlement_sidecar.cli.progress import progress

if TYPE_CHECKING:
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_overview import Overview

EXIT_FINDINGS = 1

_LISTS = {
    "epochs": ("epoch", "accepted", "settled", "queued", "dead", "lost"),
    "waiting": ("tenant_id", "metric", "records", "events", "value", "oldest"),
    "dead_letters": ("tenant_id", "metric", "outcome", "reason", "records"),
    "leases": ("tenant_id", "feature", "used", "proved", "ends_at", "lease_id", "holder"),
    "damaged_files": ("file", "bytes"),
}
_SHOWN = 20
"""Rows of a list that a table shows."""

_T = TypeVar("_T")


@click.group("outbox")
def outbox() -> None:
    """See what a sidecar still holds, check it, take it out, or put it back."""


@outbox.command("inspect")
@state_option
@click.option(
    "--max-outbox-bytes",
    type=click.IntRange(1 << 20),
    default=1 << 30,
    show_default=True,
    envvar="ENTITLEMENTS_MAX_OUTBOX_BYTES",
    show_envvar=True,
    help="What the sidecar was given, to say how full it is.",
)
@output_option
def inspect(state_dir: Path, max_outbox_bytes: int, output: str) -> None:
    """Sum up what waits, what was refused for good, open leases, and damaged files; also while it runs."""
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_overview import overview  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import OutboxReader  # noqa: PLC0415

    with OutboxReader(outbox_file(state_dir)) as reader, progress("reading the outbox", None) as advance:
        reader.one_instant()
        found = _readable(reader.path, lambda: overview(reader, max_outbox_bytes, advance))
    if output == "table":
        _print_tables(found)
    else:
        print_record(record_of(found), output)


def _print_tables(found: Overview) -> None:
    record = record_of(found)
    lists = {name: record.pop(name) for name in _LISTS}
    print_record(record, "table")
    for name, columns in _LISTS.items():
        if lists[name]:
            click.echo(f"\n{name.replace('_', ' ')}")
            print_records([record_of(one) for one in lists[name][:_SHOWN]], columns, "table")
            if len(lists[name]) > _SHOWN:
                click.echo(f"and {len(lists[name]) - _SHOWN} more: --output json has all of them")


@outbox.command(
    "verify",
    epilog="Exit codes: 0 everything holds; 1 something does not, or a damaged file waits for somebody; "
    "2 there is no outbox.",
)
@state_option
@output_option
@click.pass_context
def verify(context: click.Context, state_dir: Path, output: str) -> None:
    """Check the file: what it holds against its totals, digests, batches and what it says of leases."""
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_checks import check  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import OutboxReader, damaged_files  # noqa: PLC0415

    path = outbox_file(state_dir)
    with OutboxReader(path) as reader, progress("checking events", None) as advance:
        reader.one_instant()
        found = [record_of(one) for one in check(reader, advance)]
    found += [_set_aside(one) for one in damaged_files(path)]
    if found or output != "table":
        print_records(found, ("check", "where", "problem"), output)
    else:
        click.echo(f"{path}: everything holds")
    context.exit(EXIT_FINDINGS if found else 0)


def _set_aside(path: Path) -> dict[str, str]:
    from entitlement_sidecar.domain.errors import ConfigurationError  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_checks import intact  # noqa: PLC0415
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import DEAD, QUEUED, OutboxReader  # noqa: PLC0415

    try:
        with OutboxReader(path) as reader:
            queued = sum(intact(one) is not None for one in reader.readable(QUEUED))
            dead = sum(intact(one) is not None for one in reader.readable(DEAD))
        told = f"{queued} queued events and {dead} dead letters can be read"
    except ConfigurationError as error:
        told = f"nothing can be read: {error}"
    return {"check": "damage", "where": str(path), "problem": f"was set aside: {told}"}


def _readable(path: Path, look: Callable[[], _T]) -> _T:
    from entitlement_sidecar.domain.errors import ConfigurationError  # noqa: PLC0415

    try:
        return look()
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"{path}: cannot be read to its end: {error}; `entitlements outbox verify` says what is wrong"
        ) from error


outbox.add_command(export)
outbox.add_command(replay)
