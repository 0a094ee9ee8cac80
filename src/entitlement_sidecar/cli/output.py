"""What commands answer, as a table for people, or as JSON or CSV for programs (`--output`)."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar

import click
import msgspec

Record = Mapping[str, Any]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def output_option(command: _Command) -> _Command:
    """Adds `--output` to a command."""
    return click.option(
        "--output",
        "-o",
        type=click.Choice(["table", "json", "csv"]),
        default="table",
        show_default=True,
        help="How the answer is printed.",
    )(command)


def plain(value: Any) -> Any:  # noqa: ANN401 - any value of the domain
    """A value as JSON has it: enums by name, instants in RFC 3339, decimals as text."""
    match value:
        case msgspec.Struct():
            return plain(record_of(value))
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            return _scalar(value)


def _scalar(value: Any) -> Any:  # noqa: ANN401 - any scalar of the domain
    match value:
        case Enum():
            return value.name
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case Decimal():
            return str(value)
        case _:
            return value


def record_of(value: msgspec.Struct) -> dict[str, Any]:
    """A value's fields by name."""
    return {name: getattr(value, name) for name in value.__struct_fields__}


def print_record(record: Record, output: str) -> None:
    """Prints one thing: a line per field that is set, a JSON object, or a CSV of one row."""
    if output == "json":
        click.echo(json.dumps(plain(record), indent=2, ensure_ascii=False))
    elif output == "csv":
        _print_csv([record], list(record))
    else:
        cells = ((name, in_a_cell(plain(value))) for name, value in record.items())
        rows = [(name, cell) for name, cell in cells if cell]
        _print_table(("field", "value"), rows, header=False)


def print_records(records: Sequence[Record], columns: Sequence[str], output: str) -> None:
    """Prints many things: a table of `columns`, a JSON list of everything, or a CSV of `columns`."""
    if output == "json":
        click.echo(json.dumps(plain(records), indent=2, ensure_ascii=False))
    elif output == "csv":
        _print_csv(records, columns)
    else:
        rows = [tuple(in_a_cell(plain(record.get(name))) for name in columns) for record in records]
        _print_table(columns, rows, header=True)


def tell_more(shown: int, cursor: str | None) -> None:
    """Says that a list goes on, where a page has given a cursor: nobody takes its beginning for all of it."""
    if cursor is not None:
        click.echo(f"{shown} are shown, and there are more: --limit N shows N", err=True)


def _print_csv(records: Sequence[Record], columns: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(plain(record.get(name))) for name in columns] for record in records)


def _print_table(columns: Sequence[str], rows: Sequence[tuple[str, ...]], *, header: bool) -> None:
    from rich import box  # noqa: PLC0415 - programs that read JSON do not pay for tables
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD if header else None, show_header=header, pad_edge=False)
    for name in columns:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        # Text, not str: what tenants name must not be read as markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else _width(columns, rows), highlight=False)
    with console.capture() as captured:
        console.print(table)
    lines = (line.rstrip() for line in captured.get().splitlines())
    click.echo("\n".join(line for line in lines if line))


def _width(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> int:
    """Wide enough that nothing is folded where no terminal sets the width."""
    widths = (max((len(row[n]) for row in (columns, *rows)), default=0) for n in range(len(columns)))
    return sum(widths) + 4 * len(columns)


def in_a_cell(value: Any) -> str:  # noqa: ANN401 - a plain value
    """A plain value for people: what is empty as nothing, names side by side, limits in words."""
    match value:
        case [] | ():
            return ""
        case Mapping() if not value:
            return ""
        case {"amount": _, "window": _, "soft": _}:
            return _limit(value)
        case list() if all(_reads_alone(one) for one in value):
            return ", ".join(in_a_cell(one) for one in value)
        case _:
            return _cell(value)


def _limit(limit: Mapping[str, Any]) -> str:
    amount = "unlimited" if limit["amount"] is None else limit["amount"]
    more = (
        "soft" if limit["soft"] else "",
        f"{limit['carry_over_cap']} at most carried over" if limit.get("carry_over_cap") else "",
        limit.get("mode") or "",
        f"lost holders {limit['on_holder_loss']}" if limit.get("on_holder_loss") else "",
        f"then {limit['overage_price']} each" if limit.get("overage_price") else "",
    )
    said = "; ".join(one for one in more if one)
    return f"{amount} per {limit['window']}{f' ({said})' if said else ''}"


def _reads_alone(value: Any) -> bool:  # noqa: ANN401 - a plain value
    """Whether it is clear in a list where this ends and the next begins."""
    if isinstance(value, Mapping):
        return value.keys() >= {"amount", "window", "soft"}
    return isinstance(value, str) and bool(value) and "," not in value


def _cell(value: Any) -> str:  # noqa: ANN401 - a plain value
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case _:
            return json.dumps(value, ensure_ascii=False)


def printable(text: str) -> str:
    """Without control characters: a name must not move the cursor."""
    return "".join(character if character.isprintable() else "�" for character in text)
