"""What a run found: medians over its rounds, ratios against the echo of the same run, targets beside them."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.load import Result


class Target(msgspec.Struct, frozen=True):
    """What is to be held: at least so many times the reference, or at most."""

    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        return f"≥ {self.at_least:,g}" if self.at_least is not None else f"≤ {self.at_most:,g}"

    def holds(self, value: float) -> bool:
        """Whether a value keeps it."""
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0)


class Row(msgspec.Struct, frozen=True):
    """One line of the table.

    `ratio` is against the reference that `against` names; `client_busy` is the client's share of its core.
    """

    what: str
    server: str
    value: float
    unit: str
    spread: float = 0.0
    p50: float | None = None
    p99: float | None = None
    ratio: float | None = None
    against: str = ""
    target: Target | None = None
    client_busy: float | None = None

    @property
    def kept(self) -> bool | None:
        """Whether the target holds: of the ratio where there is one, else of the value."""
        if self.target is None:
            return None
        return self.target.holds(self.value if self.ratio is None else self.ratio)


class Report(msgspec.Struct, frozen=True):
    """A run."""

    machine: str
    python: str
    rounds: int
    seconds: float
    rows: list[Row]


def machine() -> str:
    """What it ran on."""
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.machine(),
    )
    return f"{model}, {platform.system()}"


def _cpuinfo() -> Iterable[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else ()


def median(results: list[Result], per_call: int = 1) -> tuple[Result, float]:
    """The medians of several rounds, and the spread of the rate (largest minus smallest, over the median)."""
    rates = [result.rate * per_call for result in results]
    middle = statistics.median(rates)
    combined = Result(
        rate=middle,
        p50=statistics.median(result.p50 for result in results),
        p99=statistics.median(result.p99 for result in results),
        calls=sum(result.calls for result in results),
        failed=sum(result.failed for result in results),
        client_busy=statistics.median(result.client_busy for result in results),
    )
    return combined, (max(rates) - min(rates)) / middle if middle else 0.0


def show(report: Report, console: Console) -> None:
    """Prints the table."""
    # Wide enough also where no terminal says how wide it is.
    console.width = max(console.width, 150)
    table = Table(
        title=f"{report.machine}, Python {report.python}, {report.rounds} rounds of {report.seconds:g} s"
    )
    for heading in ("what", "server", "value", "spread", "p50 µs", "p99 µs", "ratio", "target", ""):
        table.add_column(heading, justify="left" if heading in {"what", "server"} else "right")
    for row in report.rows:
        table.add_row(*_cells(row))
    console.print(table)


def as_markdown(report: Report) -> str:
    """The table as it stands in README.md."""
    lines = [
        f"{report.machine}, Python {report.python}, {report.rounds} rounds of {report.seconds:g} s.",
        "",
        "| what | server | value | spread | p50 µs | p99 µs | ratio | target | |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(row))} |" for row in report.rows)])


def _cells(row: Row) -> list[str]:
    number = f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:.2f}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} of {row.against}"
    kept = {None: "", True: "yes", False: "**no**"}[row.kept]
    latencies = ["" if value is None else f"{value:,.0f}" for value in (row.p50, row.p99)]
    return [
        row.what, row.server, f"{number} {row.unit}", f"{row.spread:.0%}" if row.spread else "",
        *latencies, ratio, str(row.target or ""), kept,
    ]  # fmt: skip
