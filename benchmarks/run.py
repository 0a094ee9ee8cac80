"""The plan of a run: start everything once, measure in interleaved rounds.

A noisy minute of the machine then falls on all alike.

    echo, our fronts around an echo, sidecar aio, sidecar fast     each: calls in flight, one call, fixed rate
    memory idle and loaded, time to ready, and whether every accepted event was kept
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console

from benchmarks import beside_usage, evaluating, h2load, leases, load, memory, outages, report
from benchmarks.echo_server import PATH as ECHO_PATH
from benchmarks.load import Result
from benchmarks.report import Row, Target
from benchmarks.servers import Cores, Server, echo_server, kept_events, require_kept, sidecar
from benchmarks.workloads import Workload, echo, workloads, write_snapshot_file

CONNECTIONS = 4
DEPTH = 16
"""Calls in flight on each connection: 64 in all."""

FIXED_RATE = 2000.0
"""Calls a second at which the tail is measured."""

_OUTAGES = 5
"""Rounds of outages at least: a tail of a few seconds varies more than a rate."""

_HEADROOM = 1.25
"""A server is asked at the fixed rate only when it can do this much more: below, the tail is the queue."""

# Against the bare echo of the same run; DESIGN §12.
_TARGETS = {
    "PEEK boolean": Target(at_least=10),
    "PEEK metered": Target(at_least=8),
}
_EVENTS = Target(at_least=30_000)
_BATCH_AGAINST_SINGLE = Target(at_least=3)
_ONE_CALL, _TAIL = Target(at_most=0.5), Target(at_most=0.4)
_IDLE_MIB, _LOADED_MIB, _COLD = Target(at_most=80), Target(at_most=128), Target(at_most=1.5)

_Key = tuple[str, str, str]
"""Server, workload, how it was asked."""

_console = Console()


class Options(msgspec.Struct, frozen=True):
    """How long and what."""

    rounds: int
    seconds: float
    fronts: tuple[str, ...]
    transport_only: bool
    output: Path | None


def main() -> None:
    """Entry of `python -m benchmarks`."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        found = _measure(options, Path(folder), stack)
    report.show(found, _console)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / "latest.json"
        path.write_text(json.dumps(msgspec.to_builtins(found), indent=2) + "\n")
        (options.output / "latest.md").write_text(report.as_markdown(found) + "\n")
        _console.print(f"written to {path} and latest.md beside it")


def _options() -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the sidecar against a bare grpc.aio echo."
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are shown (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each measurement (2)")
    parser.add_argument(
        "--front", choices=["fast", "aio"], action="append", help="only this front; may be repeated"
    )
    parser.add_argument(
        "--transport-only", action="store_true", help="only the echo and the fronts around it"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write latest.json and latest.md there")
    given = parser.parse_args()
    fronts = tuple(given.front or ("aio", "fast"))
    return Options(max(1, given.rounds), given.seconds, fronts, given.transport_only, given.output)


def _measure(options: Options, folder: Path, stack: ExitStack) -> report.Report:
    cores = Cores.of_this_machine()
    if cores.server == cores.client:
        _console.print("only one core: server and client share it, the ratios say little")
    rows = [] if options.transport_only else [*evaluating.rows(options.rounds)]
    rows += [] if options.transport_only else _cold_starts(options, folder, cores)
    rows += [] if options.transport_only else _outages(options, folder, cores)
    echoes = [stack.enter_context(echo_server(kind, cores)) for kind in ("bare", *options.fronts)]
    sidecars = [] if options.transport_only else _start_sidecars(options, folder, cores, stack)
    rows += [
        _memory("memory loaded, 1,000 tenants of 20 features", server, _LOADED_MIB) for server in sidecars
    ]
    found = _rounds(options, echoes, sidecars)
    rows += _rates(found) + _latencies(found)
    rows += _second_opinion(options, echoes, sidecars, cores)
    rows += [_memory("memory after the load", server, None) for server in sidecars]
    return report.Report(report.machine(), platform.python_version(), options.rounds, options.seconds, rows)


def _cold_starts(options: Options, folder: Path, cores: Cores) -> Iterator[Row]:
    """Time to ready and idle memory, of a sidecar with a single tenant."""
    file = folder / "one.yaml"
    write_snapshot_file(file, tenants=1)
    for front in options.fronts:
        took = []
        for number in range(options.rounds):
            with sidecar(front, _alone(file), folder / f"cold-{front}-{number}", cores) as server:
                took.append(server)
                if number == options.rounds - 1:
                    yield _memory("memory idle", server, _IDLE_MIB)
        seconds = sorted(server.seconds_to_ready for server in took)[len(took) // 2]
        yield Row("exec to ready", f"sidecar {front}", seconds, "s", target=_COLD)


def _outages(options: Options, folder: Path, cores: Cores) -> Iterator[Row]:
    """What takes a plan store and a Redis; before anything else runs beside it, and of the last front."""
    with ExitStack() as stack:
        site = outages.build(folder / "site", cores, stack)
        front = options.fronts[-1]
        yield from outages.cold_starts(site, front, options.rounds)
        yield from outages.rows(site, front, max(options.rounds, _OUTAGES), options.seconds * 2)
        yield from beside_usage.rows(site, front, max(options.rounds, _OUTAGES), options.seconds * 2)
        yield from leases.rows(folder / "leases", front, options.rounds, options.seconds)
        yield from memory.rows(site, front, folder)


def _alone(file: Path) -> list[str]:
    return ["--snapshot-file", str(file)]


def _memory(what: str, server: Server, target: Target | None) -> Row:
    return Row(what, server.name, server.resident_mib, "MiB", target=target)


def _start_sidecars(options: Options, folder: Path, cores: Cores, stack: ExitStack) -> list[Server]:
    file = folder / "tenants.yaml"
    write_snapshot_file(file)
    return [
        stack.enter_context(sidecar(front, _alone(file), folder / front, cores)) for front in options.fronts
    ]


def _rounds(
    options: Options, echoes: list[Server], sidecars: list[Server]
) -> dict[_Key, list[tuple[Workload, Result]]]:
    found: dict[_Key, list[tuple[Workload, Result]]] = defaultdict(list)
    plan = [(server, echo(ECHO_PATH)) for server in echoes]
    plan += [(server, workload) for workload in workloads() for server in sidecars]
    for number in range(options.rounds):
        for server, workload in plan:
            _console.print(
                f"round {number + 1} of {options.rounds}: {server.name}, {workload.name}", style="dim"
            )
            for how, result in _ask(server, workload, options.seconds):
                found[server.name, workload.name, how].append((workload, result))
    return found


def _ask(server: Server, workload: Workload, seconds: float) -> Iterator[tuple[str, Result]]:
    target = load.Target(server.address, workload.path, workload.bodies)
    address = f"127.0.0.1:{server.port}"
    before = kept_events(server) if workload.keeps else 0
    workload.verify_on(address)
    results = {"full": load.closed_loop(target, connections=CONNECTIONS, depth=DEPTH, seconds=seconds)}
    if workload.per_call == 1:
        results["one"] = load.closed_loop(target, connections=1, depth=1, seconds=seconds / 2)
    if workload.per_call == 1 and results["full"].rate > FIXED_RATE * _HEADROOM:
        results["rate"] = load.fixed_rate(target, rate=FIXED_RATE, connections=CONNECTIONS, seconds=seconds)
    workload.verify_on(address)
    for how, result in results.items():
        yield how, _clean(result, workload)
    if workload.keeps:
        answered = sum(result.calls for result in results.values())
        require_kept(server, before + answered * workload.keeps)


def _clean(result: Result, workload: Workload) -> Result:
    if result.failed or not result.calls:
        raise SystemExit(f"{workload.name}: {result.failed} of {result.calls + result.failed} calls failed")
    return result


def _second_opinion(
    options: Options, echoes: list[Server], sidecars: list[Server], cores: Cores
) -> list[Row]:
    """PEEKs as h2load sees them: one body again and again, so a kept answer is given each time."""
    if not h2load.available():
        _console.print(h2load.MISSING, style="bold")
        return []
    peeks = [workload for workload in workloads() if workload.name.startswith("PEEK")]
    plan = [(server, echo(ECHO_PATH)) for server in echoes]
    plan += [(server, workload) for workload in peeks for server in sidecars]
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(options.rounds):
        for server, workload in plan:
            _console.print(
                f"h2load {number + 1} of {options.rounds}: {server.name}, {workload.name}", style="dim"
            )
            rates[server.name, workload.name].append(h2load.rate(server, workload, cores, options.seconds))
    middle = {key: median(values) for key, values in rates.items()}
    base = middle["echo bare", "echo"]
    return [
        Row(
            what=f"{name}, {CONNECTIONS * DEPTH} in flight, h2load, one body",
            server=server,
            value=rate,
            unit="calls/s",
            spread=(max(rates[server, name]) - min(rates[server, name])) / rate,
            ratio=rate / base,
            against="echo",
            target=Target(at_least=8) if server == "sidecar fast" else None,
        )
        for (server, name), rate in middle.items()
    ]


def _rates(found: dict[_Key, list[tuple[Workload, Result]]]) -> list[Row]:
    base = _median(found, ("echo bare", "echo", "full"))
    rows = []
    for (server, name, how), results in found.items():
        if how != "full":
            continue
        workload = results[0][0]
        middle, spread = report.median([result for _, result in results], workload.per_call)
        target, ratio, against = _target(found, server, workload, middle.rate, base.rate)
        rows.append(
            Row(
                what=f"{name}, {CONNECTIONS * DEPTH} in flight",
                server=server,
                value=middle.rate,
                unit=workload.unit,
                spread=spread,
                p50=middle.p50,
                p99=middle.p99,
                ratio=ratio,
                against=against,
                target=target if server == "sidecar fast" else None,
                client_busy=middle.client_busy,
            )
        )
    return rows


def _target(
    found: dict[_Key, list[tuple[Workload, Result]]],
    server: str,
    workload: Workload,
    rate: float,
    base: float,
) -> tuple[Target | None, float | None, str]:
    """What a rate is held against, and how it compares."""
    if workload.unit == "events/s":
        return _EVENTS, None, ""
    if workload.unit == "checks/s":
        single = _median(found, (server, "PEEK boolean", "full"))
        return _BATCH_AGAINST_SINGLE, rate / single.rate, "single"
    return _TARGETS.get(workload.name), rate / base, "echo"


def _latencies(found: dict[_Key, list[tuple[Workload, Result]]]) -> list[Row]:
    rows = []
    for how, what in (("one", "one in flight"), ("rate", f"at {FIXED_RATE:,.0f} calls/s")):
        reference = ("echo bare", "echo", how)
        if reference not in found:
            continue
        base = _median(found, reference)
        for (server, name, asked), results in found.items():
            if asked != how:
                continue
            middle, spread = report.median([result for _, result in results])
            ratio, target = (
                (middle.p50 / base.p50, _ONE_CALL) if how == "one" else (middle.p99 / base.p99, _TAIL)
            )
            rows.append(
                Row(
                    what=f"{name}, {what}",
                    server=server,
                    value=middle.rate,
                    unit="calls/s",
                    spread=spread,
                    p50=middle.p50,
                    p99=middle.p99,
                    ratio=ratio,
                    against="echo's p50" if how == "one" else "echo's p99",
                    target=target if (server, name) == ("sidecar fast", "PEEK boolean") else None,
                )
            )
    return rows


def _median(found: dict[_Key, list[tuple[Workload, Result]]], key: _Key) -> Result:
    return report.median([result for _, result in found[key]])[0]
