"""Checks while usage is reported and shipped, against the same sidecar while it is not.

A plan store, a Redis, and a sidecar of both, as `outages` builds them. Rounds take turns, so that a noisy
minute falls on both sides of the ratio. Everything is part of it: the reports themselves, group commits with
fsync, and shipping to the plan store.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from benchmarks import load, report
from benchmarks.load import Result
from benchmarks.outages import CONNECTIONS, RATE, Site, hold_all
from benchmarks.report import Row, Target
from benchmarks.servers import Cores, Server, kept_events, metric, sidecar
from benchmarks.workloads import BATCH, peek, reports

EVENTS = 5000.0
"""Events reported a second."""

_TAIL = Target(at_most=2)

_console = Console()


def rows(site: Site, front: str, rounds: int, seconds: float) -> Iterator[Row]:
    """The tail of PEEKs with and without usage, and how much of that usage was shipped meanwhile."""
    with sidecar(front, site.options, site.state.with_name("usage"), Cores.of_this_machine()) as server:
        hold_all(server)
        alone, beside, usage = [], [], []
        for number in range(rounds):
            _console.print(f"checks beside usage, {number + 1} of {rounds}: {server.name}", style="dim")
            alone.append(_clean(load.fixed_rates([_checks(server)], seconds))[0])
            both = _clean(load.fixed_rates([_checks(server), _usage(server)], seconds))
            beside.append(both[0])
            usage.append(both[1])
        accepted = kept_events(server)
        if accepted < sum(one.calls for one in usage) * BATCH:
            raise SystemExit(f"{server.name}: reported events are missing, {accepted} were kept")
        shipped = metric(server, "entitlement_outbox_settled_events") / accepted
    (first, _), (second, spread) = report.median(alone), report.median(beside)
    what = f"PEEK boolean, at {RATE:,.0f} calls/s"
    yield Row(f"{what}, no usage", server.name, first.rate, "calls/s", p50=first.p50, p99=first.p99)
    yield Row(
        f"{what}, {EVENTS:,.0f} events/s reported, {shipped:.0%} of them shipped meanwhile",
        server.name,
        second.rate,
        "calls/s",
        spread,
        second.p50,
        second.p99,
        ratio=second.p99 / first.p99,
        against="p99 without usage",
        target=_TAIL,
    )


def _checks(server: Server) -> tuple[load.Target, float, int]:
    workload = peek()
    return load.Target(server.address, workload.path, workload.bodies), RATE, CONNECTIONS


def _usage(server: Server) -> tuple[load.Target, float, int]:
    workload = reports()
    return load.Target(server.address, workload.path, workload.bodies), EVENTS / BATCH, 1


def _clean(results: list[Result]) -> list[Result]:
    for result in results:
        if result.failed or not result.calls:
            raise SystemExit(f"{result.failed} of {result.calls + result.failed} calls failed beside usage")
    return results
