"""`entitlements usage import`: usage from a file or from standard input, each row once."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from entitlement_sidecar.cli.output import output_option, print_record, printable
from entitlement_sidecar.cli.targets import connect, planstore_options

if TYPE_CHECKING:
    from entitlement_sidecar.cli.rest import PlanstoreRest
    from entitlement_sidecar.cli.usage_rows import Row

BATCH = 500
"""Events of one call."""

GIVE_UP_AFTER = 300.0
"""Seconds in which a plan store that is away is asked again; the same import goes on later."""

SHOWN = 20
"""Wrong rows that are shown where no file is named for them."""

EXIT_REJECTED = 1

_FORMS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
_KEPT = ("ACCEPTED", "LATE_ACCEPTED", "DUPLICATE", "QUARANTINED")
_STDIN = "-"


@click.command(
    "import",
    epilog="Exit codes: 0 every row is in; 1 some rows were rejected; 2 the file or an option is wrong; "
    "3 the plan store is away: run the same import again, nothing counts twice.",
)
@click.argument("file", metavar="FILE|-")
@click.option("--format", "form", type=click.Choice(["json", "csv"]), help="[default: by the file's name]")
@click.option("--tenant", default="", help="Tenant of rows that name none.")
@click.option(
    "--rejects",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="File for rows that are refused: JSON lines with line, reason and row. It is written anew.",
)
@click.option(
    "--resume", is_flag=True, help="Leave out what an import of this file that was cut off has done."
)
@planstore_options
@output_option
@click.pass_context
def import_usage(
    context: click.Context,
    /,
    *,
    file: str,
    form: str | None,
    tenant: str,
    rejects: Path | None,
    resume: bool,
    planstore: str,
    token_file: Path | None,
    output: str,
) -> None:
    """Import usage: JSON lines, or CSV with a header, of the fields of an event.

    A row without an id gets one from its content and its line, so the same file again counts nothing twice.
    """
    from entitlement_sidecar.cli.usage_rows import rows_of  # noqa: PLC0415 - keeps --help quick

    form = form or _form_of(file)
    rest = connect(planstore, token_file)
    with ExitStack() as stack:
        opened = sys.stdin if file == _STDIN else stack.enter_context(_opened(Path(file)))
        progress = Progress(None if file == _STDIN else Path(f"{file}.progress"), resume=resume)
        importing = Importing(rest, Rejects(rejects, stack), progress)
        importing.run(rows_of(opened, form, tenant))
    print_record(importing.summary(), output)
    context.exit(EXIT_REJECTED if importing.counts["rejected"] else 0)


def _form_of(file: str) -> str:
    form = _FORMS.get(Path(file).suffix.lower())
    if form is None:
        what = "standard input" if file == _STDIN else f"{file!r}"
        raise click.UsageError(f"{what}: say what it is with --format json or --format csv")
    return form


def _opened(path: Path) -> IO[str]:
    try:
        return path.open(encoding="utf-8-sig", newline="", errors="backslashreplace")
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="FILE") from error


class Progress:
    """How many rows of a file are in, kept beside it; it is gone once all of them are."""

    def __init__(self, path: Path | None, *, resume: bool) -> None:
        self._path = path
        self.done = 0
        if path is not None and resume and path.exists():
            try:
                self.done = int(json.loads(path.read_text())["rows"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise click.BadParameter(
                    f"{path}: cannot be read; import without --resume", param_hint="--resume"
                ) from error

    def keep(self, rows: int) -> None:
        """So many more rows are in."""
        self.done += rows
        if self._path is not None:
            fresh = self._path.with_name(f"{self._path.name}.new")
            fresh.write_text(json.dumps({"rows": self.done}))
            fresh.replace(self._path)

    def end(self) -> None:
        """All rows are in."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class Rejects:
    """Where rows go that are refused: a file, or the first of them to standard error."""

    def __init__(self, path: Path | None, stack: ExitStack) -> None:
        self._file = stack.enter_context(path.open("w", encoding="utf-8")) if path else None
        self._shown = 0

    def add(self, row: Row, reason: str) -> None:
        """One row, and why."""
        if self._file is not None:
            said = {"line": row.line, "reason": reason, "row": row.text}
            self._file.write(json.dumps(said, ensure_ascii=False) + "\n")
        elif self._shown <= SHOWN:
            self._shown += 1
            told = (
                f"line {row.line}: {reason}" if self._shown <= SHOWN else "more: --rejects FILE has them all"
            )
            click.echo(printable(told), err=True)

    def flush(self) -> None:
        """Everything so far is in the file."""
        if self._file is not None:
            self._file.flush()


class Importing:
    """One import on its way."""

    def __init__(self, rest: PlanstoreRest, rejects: Rejects, progress: Progress) -> None:
        self._rest = rest
        self._rejects = rejects
        self._progress = progress
        self.counts: Counter[str] = Counter()

    def run(self, rows: Iterator[Row]) -> None:
        """Sends all rows but those that are in already.

        Raises:
            EntitlementsError: The plan store refuses the caller, or is away for too long.
        """
        from entitlement_sidecar.cli.progress import progress  # noqa: PLC0415 - keeps --help quick

        self.counts["skipped"] = sum(1 for _ in islice(rows, self._progress.done))
        with progress("importing usage", None) as advance:
            while batch := list(islice(rows, BATCH)):
                self._take(batch)
                self._rejects.flush()
                self._progress.keep(len(batch))
                advance(len(batch))
        self._progress.end()

    def summary(self) -> dict[str, int]:
        """How many rows became what."""
        names = ("rows", "skipped", *(outcome.lower() for outcome in _KEPT), "rejected")
        return {name: self.counts[name] for name in names}

    def _take(self, rows: Sequence[Row]) -> None:
        self.counts["rows"] += len(rows)
        for row in rows:
            if row.event is None:
                self._reject(row, row.problem)
        sent = [row for row in rows if row.event is not None]
        if sent:
            self._send(sent)

    def _send(self, rows: Sequence[Row]) -> None:
        from entitlement_sidecar.domain.errors import InvalidInputError  # noqa: PLC0415

        try:
            results = _settled(self._rest, [row.event for row in rows])
        except InvalidInputError as error:
            # The call as a whole: one of them is at fault, and the others shall not suffer.
            self._halve(rows, str(error))
            return
        for row, result in zip(rows, results, strict=True):
            if result["outcome"] in _KEPT:
                self.counts[result["outcome"].lower()] += 1
            else:
                self._reject(row, f"{result['outcome']}: {result['reason']}")

    def _halve(self, rows: Sequence[Row], reason: str) -> None:
        if len(rows) == 1:
            self._reject(rows[0], reason)
            return
        middle = len(rows) // 2
        self._send(rows[:middle])
        self._send(rows[middle:])

    def _reject(self, row: Row, reason: str) -> None:
        self.counts["rejected"] += 1
        self._rejects.add(row, reason)


def _settled(rest: PlanstoreRest, events: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """One outcome per event; a plan store that is away is asked again for a while."""
    from tenacity import (  # noqa: PLC0415 - keeps --help quick
        Retrying,
        retry_if_exception_type,
        stop_after_delay,
        wait_random_exponential,
    )

    from entitlement_sidecar.domain.errors import RetryableError  # noqa: PLC0415

    patiently = Retrying(
        retry=retry_if_exception_type(RetryableError),
        wait=wait_random_exponential(multiplier=0.2, max=20),
        stop=stop_after_delay(GIVE_UP_AFTER),
        reraise=True,
    )
    answer = patiently(rest.post, "/api/billing/usage/events", {"events": events})
    results: list[dict[str, Any]] = answer["results"]
    return results
