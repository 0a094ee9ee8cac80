"""`entitlements audit`: who changed what, and whether anybody changed the log of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from entitlement_sidecar.cli.output import output_option, print_records, tell_more
from entitlement_sidecar.cli.progress import progress
from entitlement_sidecar.cli.targets import Whole, connect, planstore_options

if TYPE_CHECKING:
    from entitlement_sidecar.cli.rest import PlanstoreRest

PAGE = 1000
"""Entries per call."""

SEGMENT = 20_000
"""Entries that one call verifies: well within the time that a call may take."""

COLUMNS = ("sequence", "at", "actor", "role", "action", "resource", "tenant_id", "reason")
FINDINGS = ("kind", "sequence", "at", "actor", "action", "resource", "problem")

_LOG = "/api/billing/audit"
_NO_FILES = frozenset({"-", "table", "json", "csv"})
"""What `-o` means elsewhere: an export goes on from what its file holds, so it needs one."""

_NOT_WHOLE = 1
"""Exit code of `verify` where something does not fit."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group("audit")
def audit() -> None:
    """See who changed what, verify that nobody changed the log, export it."""


def _filters(command: _Command) -> _Command:
    for name, metavar, text in reversed(
        (
            ("--tenant", "TENANT", "Only what belongs to this tenant."),
            ("--actor", "NAME", "Only what this one did."),
            ("--action", "NAME", "Only this, for example subscription.suspended."),
            ("--resource", "NAME", "Only of this, for example subscription/sub_1."),
            ("--since", "INSTANT", "Not before this instant, for example 2026-05-01T00:00:00Z."),
            ("--until", "INSTANT", "Before this instant."),
        )
    ):
        callback = _instant if metavar == "INSTANT" else None
        command = click.option(name, metavar=metavar, callback=callback, help=text)(command)
    return command


def _instant(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: expected an instant like 2026-05-01T00:00:00Z") from error
    if parsed.tzinfo is None:
        raise click.BadParameter(f"{value!r}: says no zone; end it with Z for UTC, or with an offset")
    return parsed.isoformat()


@audit.command("list")
@_filters
@click.option("--limit", type=Whole(1), default=100, show_default=True, help="Most entries.")
@planstore_options
@output_option
def list_entries(limit: int, planstore: str, token_file: Path | None, output: str, **wanted: Any) -> None:  # noqa: ANN401 - typed by their options
    """List who changed what, when and why, the newest first."""
    rest = connect(planstore, token_file)
    found: list[dict[str, Any]] = []
    with progress("reading entries", limit) as advance:
        for page in _pages(rest, wanted, "newest", None, limit):
            found += page
            advance(len(page))
    print_records(found, COLUMNS, output)


@audit.command("verify")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="An export to verify instead, without a plan store.",
)
@click.option(
    "--filtered",
    is_flag=True,
    help="With --file: it was exported with filters, so that entries are left out.",
)
@planstore_options
@output_option
@click.pass_context
def verify(
    context: click.Context,
    *,
    file: Path | None,
    filtered: bool,
    planstore: str,
    token_file: Path | None,
    output: str,
) -> None:
    """Verify that no entry was changed, removed or replaced since it was written.

    Checks every hash and link, the chain's end and the signed daily anchors. Names each entry that does not
    fit; the exit code is 1 then.
    """
    if filtered and file is None:
        raise click.UsageError("--filtered is for --file: a plan store verifies its whole log")
    if file is None:
        count, found, told = _verified(connect(planstore, token_file))
    else:
        count, found, told = _verified_file(file, filtered)
    if found or output != "table":
        print_records(found, FINDINGS, output)
    more = f", {len(found)} of them shown" if len(found) < count else ""
    click.echo(f"{told}: {_many(count, 'finding', 'findings')}{more}", err=True)
    if count:
        context.exit(_NOT_WHOLE)


@audit.command("export")
@click.option(
    "--out",
    "-o",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Where to write.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json-lines", "csv"]),
    default="json-lines",
    show_default=True,
    help="One JSON object per line, or CSV with a header.",
)
@click.option("--resume", is_flag=True, help="Go on after the last entry that FILE holds.")
@_filters
@planstore_options
def export(
    *,
    file: Path,
    form: str,
    resume: bool,
    planstore: str,
    token_file: Path | None,
    **wanted: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Export entries into FILE, the oldest first, in a form that `verify --file` checks.

    An export that was cut short goes on with --resume, and so does one of yesterday.
    """
    from entitlement_sidecar.cli.audit_file import ExportFile  # noqa: PLC0415 - keeps --help quick

    if str(file) in _NO_FILES:
        raise click.BadParameter(
            f"{str(file)!r}: expected the file to write; --format says its form", param_hint="--out"
        )
    rest = connect(planstore, token_file)
    with ExportFile(file, form, resume=resume) as written:
        begun, count = written.last, 0
        newest = rest.get(_LOG, limit=1)["entries"]
        total = max((newest[0]["sequence"] if newest else 0) - begun, 0)
        with progress("exporting entries", total) as advance:
            for page in _pages(rest, wanted, "oldest", str(begun) if begun else None):
                reached = written.last
                written.write(page)
                count += len(page)
                advance(written.last - reached)
    after = f" after entry {begun}" if begun else ""
    click.echo(f"{_many(count, 'entry', 'entries')}{after} exported to {file}", err=True)


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _pages(
    rest: PlanstoreRest, wanted: dict[str, Any], order: str, cursor: str | None, limit: int | None = None
) -> Iterator[list[dict[str, Any]]]:
    asked = {("tenant_id" if name == "tenant" else name): value for name, value in wanted.items()}
    left = limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        page = rest.get(_LOG, **asked, order=order, limit=size, cursor=cursor)
        yield page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            return
        if left == len(page["entries"]):
            tell_more(limit or 0, cursor)
        left = None if left is None else left - len(page["entries"])


def _verified(rest: PlanstoreRest) -> tuple[int, list[dict[str, Any]], str]:
    """How many findings there are, those that are told, and what was checked."""
    count, entries, anchors, cursor = 0, 0, 0, None
    found: list[dict[str, Any]] = []
    with progress("verifying entries", None) as advance:
        while True:
            page = rest.get(f"{_LOG}/verify", limit=SEGMENT, cursor=cursor)
            count += page["findings_count"]
            found += page["findings"]
            entries += page["entries"]
            anchors += page["anchors"]
            advance(page["entries"])
            cursor = page["next_cursor"]
            if cursor is None:
                told = f"{_many(entries, 'entry', 'entries')}, {_many(anchors, 'anchor', 'anchors')} verified"
                return count, found, told


def _verified_file(file: Path, filtered: bool) -> tuple[int, list[dict[str, Any]], str]:
    from entitlement_sidecar.cli.audit_file import verify_export  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.cli.output import record_of  # noqa: PLC0415

    report = verify_export(file, gaps=filtered)
    return report.count, [record_of(finding) for finding in report.findings], report.told
