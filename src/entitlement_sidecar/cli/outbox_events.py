"""`entitlements outbox export` and `replay`: events out of an outbox, and back into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from entitlement_sidecar.cli.output import output_option, print_record, print_records
from entitlement_sidecar.cli.progress import progress
from entitlement_sidecar.cli.sidecar import DEFAULT_STATE

if TYPE_CHECKING:
    from entitlement_sidecar.domain.usage import UsageEvent
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import OutboxReader, Stored

_NOT_REPORTED = frozenset({"classification", "rule"})
"""What the plan store decides for itself."""
_PAGE = 500
"""Events that are written at a time."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def state_option(command: _Command) -> _Command:
    """Adds `--state-dir`."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_STATE,
        show_default=True,
        envvar="ENTITLEMENTS_STATE_DIR",
        show_envvar=True,
        help="The state folder of the sidecar.",
    )(command)


def _from_option(what: str) -> Callable[[_Command], _Command]:
    return click.option(
        "--from",
        "source",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help=f"{what} of this file, for example one that was set aside as damaged.",
    )


def outbox_file(state_dir: Path) -> Path:
    """The file in a state folder."""
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox import FILE_NAME  # noqa: PLC0415 - keeps --help quick

    return state_dir.expanduser() / FILE_NAME


@click.command("export")
@state_option
@_from_option("Export what can be read")
@click.option(
    "--what",
    type=click.Choice(["queued", "dead", "all"]),
    default="queued",
    show_default=True,
    help="What waits, what was refused for good, or both.",
)
def export(state_dir: Path, source: Path | None, what: str) -> None:
    """Write events to standard output, one in JSON per line, as `entitlements usage import` reads them.

    Nothing is taken out of the outbox: an event that is imported and shipped as well counts once.
    """
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_checks import intact  # noqa: PLC0415
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import DEAD, QUEUED, OutboxReader  # noqa: PLC0415 - keeps --help quick

    kinds = {"queued": [QUEUED], "dead": [DEAD], "all": [QUEUED, DEAD]}[what]
    damaged = 0
    with OutboxReader(source or outbox_file(state_dir)) as reader, progress("exporting", None) as advance:
        events = (intact(one) for kind in kinds for one in reader.readable(kind))
        while page := list(islice(events, _PAGE)):
            lines = [_line(event) for event in page if event is not None]
            damaged += len(page) - len(lines)
            click.echo(b"".join(lines), nl=False)
            advance(len(page))
    if damaged:
        click.echo(f"{damaged} events are damaged and were left out", err=True)


def _line(event: UsageEvent) -> bytes:
    from entitlement_sidecar.wire.usage_json import encode_line, event_to_json  # noqa: PLC0415 - keeps --help quick

    said = event_to_json(event)
    return encode_line({name: said[name] for name in said if name not in _NOT_REPORTED}) + b"\n"


class _Wanted(msgspec.Struct, frozen=True):
    """Which events are meant: those that fit everything that is said."""

    reason: str
    metric: str
    tenant: str
    ids: tuple[str, ...]

    def fits(self, stored: Stored, event: UsageEvent) -> bool:
        """Whether it is one of them."""
        return (
            (not self.reason or self.reason in stored.outcome_name or self.reason in stored.reason)
            and self.metric in {"", event.metric}
            and self.tenant in {"", event.tenant_id}
            and (not self.ids or event.id in self.ids)
        )


@click.command("replay")
@state_option
@_from_option("Put back what waited in, and can be read")
@click.option("--reason", default="", help="Only dead letters whose outcome or reason holds this text.")
@click.option("--metric", default="", help="Only events of this metric.")
@click.option("--tenant", default="", help="Only events of this tenant.")
@click.option("--id", "ids", multiple=True, help="Only this event; repeatable.")
@click.option("--discard", is_flag=True, help="Give dead letters up for good instead: they count as lost.")
@click.option("--dry-run", is_flag=True, help="Show which events it would be, and change nothing.")
@output_option
def replay(
    *,
    state_dir: Path,
    source: Path | None,
    discard: bool,
    dry_run: bool,
    output: str,
    **wanted: Any,  # noqa: ANN401 - typed by their options
) -> None:
    """Put dead letters back into the queue: all, or those that fit every option. Stop the sidecar first.

    With --from, what waited in another file goes into this outbox. Each event keeps its identity: one that
    the plan store has already is not counted again.
    """
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import DEAD, QUEUED, OutboxReader  # noqa: PLC0415 - keeps --help quick

    if source is not None and (discard or wanted["reason"]):
        raise click.UsageError("--from puts back what waited; --reason and --discard are for dead letters")
    path = outbox_file(state_dir)
    with OutboxReader(source or path) as reader:
        fitting = _fitting(reader, QUEUED if source else DEAD, _Wanted(**wanted))
        if dry_run:
            columns = ("tenant_id", "id", "metric", "value", "outcome", "reason")
            print_records([_told(*one) for one in fitting], columns, output)
            return
        if source:
            print_record(_put_back(path, (event for _, event in fitting)), output)
            return
        places = [stored.place for stored, _ in fitting]
    print_record(_on_dead_letters(path, places, discard=discard), output)


def _fitting(reader: OutboxReader, what: str, wanted: _Wanted) -> Iterator[tuple[Stored, UsageEvent]]:
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_checks import intact  # noqa: PLC0415 - keeps --help quick

    for stored in reader.readable(what):
        event = intact(stored)
        if event is not None and wanted.fits(stored, event):
            yield stored, event


def _told(stored: Stored, event: UsageEvent) -> dict[str, Any]:
    why = {"outcome": stored.outcome_name, "reason": stored.reason}
    return {name: getattr(event, name) for name in ("tenant_id", "id", "metric", "value")} | why


def _put_back(path: Path, events: Iterator[UsageEvent]) -> dict[str, int]:
    from entitlement_sidecar.domain.usage import UsageOutcome  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_replay import StoppedOutbox  # noqa: PLC0415

    told: Counter[UsageOutcome] = Counter()
    with StoppedOutbox.at(path) as stopped, progress("putting events back", None) as advance:
        for page in stopped.put_back(events):
            told += page
            advance(page.total())
    return {
        "queued": told[UsageOutcome.ACCEPTED],
        "already_queued": told[UsageOutcome.DUPLICATE],
        "queued_with_other_content": told[UsageOutcome.CONFLICT],
    }


def _on_dead_letters(path: Path, places: list[int], *, discard: bool) -> dict[str, int]:
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_replay import StoppedOutbox  # noqa: PLC0415 - keeps --help quick

    with StoppedOutbox.at(path) as stopped:
        if discard:
            return {"discarded": stopped.discard(places)}
        queued = stopped.revive(places)
    return {"queued": queued, "already_queued": len(places) - queued}
