"""Consuming from leases, against a bare grpc.aio echo: `python -m benchmarks.leases`, and part of every run.

A plan store, a Redis, and a sidecar of both, as `outages` builds them, share what `--snapshot-file` keeps to
itself. Rounds take turns between echo and sidecar, so that a noisy minute falls on both sides of a ratio.
Plan store and Redis share the core of the sidecar and give way to it.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import msgspec
from rich.console import Console

from benchmarks import load, report
from benchmarks.echo_server import PATH as ECHO_PATH
from benchmarks.load import Result
from benchmarks.outages import CONNECTIONS, DEPTH, Site, build
from benchmarks.report import Row, Target
from benchmarks.servers import Cores, Server, echo_server, kept_events, metric_sum, require_kept, sidecar
from benchmarks.workloads import Workload, consumes, echo
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc

TENANTS = 10
"""Whose features are consumed: five each, of either kind of metric. Each has a lease of its own."""

STEADY = 5.0
"""Seconds under load before a measurement: leases grow to what is used within so long."""

PATIENCE = 120.0
"""Seconds in which every feature has to have a lease."""

TARGETS = {"CONSUME buffered": Target(at_least=7), "CONSUME durable": Target(at_least=6)}
_CALLS = Target(at_most=5)
_REQUESTS = "entitlement_lease_requests_total"

_console = Console()


class _Round(msgspec.Struct, frozen=True):
    """One measurement; how many consumptions there were with its warm-up, and calls for quota meanwhile."""

    result: Result
    consumed: float
    asked: float


def rows(folder: Path, front: str, rounds: int, seconds: float) -> Iterator[Row]:
    """Rates of consuming, and how often the sidecar had to ask for it."""
    cores = Cores.of_this_machine()
    with ExitStack() as stack:
        site = build(folder, cores, stack, TENANTS)
        yield from _measure(site, front, rounds, seconds)


def _measure(site: Site, front: str, rounds: int, seconds: float) -> Iterator[Row]:
    cores = Cores.of_this_machine()
    with (
        echo_server("bare", cores) as bare,
        sidecar(front, _without_proxies(site), site.state, cores) as server,
    ):
        for workload in consumes(TENANTS):
            _take_leases(server, workload)
            found = []
            bases = []
            for number in range(rounds):
                _console.print(f"leases, {number + 1} of {rounds}: {workload.name}", style="dim")
                bases.append(_asked(bare, echo(ECHO_PATH), seconds))
                _asked(server, workload, STEADY)
                found.append(_measured(server, workload, seconds))
            yield from _rows(server, workload, found, report.median(bases)[0])


def _without_proxies(site: Site) -> list[str]:
    """Options of a sidecar that reaches all of a site straight."""
    return [
        *("--redis", f"redis://127.0.0.1:{site.to_redis.target_port}/0"),
        *("--planstore", f"127.0.0.1:{site.store.grpc_port}"),
        *("--token-file", str(site.store.state / "token")),
    ]


def _rows(server: Server, workload: Workload, found: Sequence[_Round], base: Result) -> Iterator[Row]:
    middle, spread = report.median([one.result for one in found])
    what = f"{workload.name} from a lease"
    yield Row(
        what=f"{what}, {CONNECTIONS * DEPTH} in flight",
        server=server.name,
        value=middle.rate,
        unit="calls/s",
        spread=spread,
        p50=middle.p50,
        p99=middle.p99,
        ratio=middle.rate / base.rate,
        against="echo",
        target=TARGETS[workload.name],
        client_busy=middle.client_busy,
    )
    asked = sum(one.asked for one in found) / sum(one.consumed for one in found)
    yield Row(f"{what}, calls for quota per 1,000", server.name, asked * 1000, "calls", target=_CALLS)


def _take_leases(server: Server, workload: Workload) -> None:
    """Consumes of every feature, one after the other, until all of them lease from blocks in Redis."""
    deadline = time.monotonic() + PATIENCE
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = decision_pb2_grpc.EntitlementServiceStub(channel)
        while not _all_leased(server, stub, workload):
            if time.monotonic() > deadline:
                raise SystemExit(f"{server.name}: not every feature has a block within {PATIENCE:g} s")


def _all_leased(server: Server, stub: decision_pb2_grpc.EntitlementServiceStub, workload: Workload) -> bool:
    """Whether nobody found a block missing when each feature was consumed by more than its lease had left."""
    before = metric_sum(server, _REQUESTS, 'outcome="nothing",source="block"')
    granted = metric_sum(server, _REQUESTS, 'outcome="granted",source="block"')
    for body in workload.bodies:
        asked = decision_pb2.CheckEntitlementRequest.FromString(body)
        held = stub.CheckEntitlement(asked, timeout=10, wait_for_ready=True).decision.held
        asked.quantity = held + 1
        stub.CheckEntitlement(asked, timeout=10)
    return metric_sum(server, _REQUESTS, 'outcome="nothing",source="block"') == before and metric_sum(
        server, _REQUESTS, 'outcome="granted",source="block"'
    ) >= granted + len(workload.bodies)


def _measured(server: Server, workload: Workload, seconds: float) -> _Round:
    kept, consumed, asked = kept_events(server), _consumed(server), _asked_for(server)
    result = _asked(server, workload, seconds)
    found = _Round(result, _consumed(server) - consumed, _asked_for(server) - asked)
    require_kept(server, kept + result.calls * workload.keeps)
    return found


def _consumed(server: Server) -> float:
    """Consumptions of leased limits since the sidecar began."""
    return metric_sum(server, "entitlement_lease_consumes_total")


def _asked_for(server: Server) -> float:
    """Calls for quota that have left the sidecar since it began."""
    return metric_sum(server, _REQUESTS) + metric_sum(server, "entitlement_authority_calls_total")


def _asked(server: Server, workload: Workload, seconds: float) -> Result:
    target = load.Target(server.address, workload.path, workload.bodies)
    workload.verify_on(f"127.0.0.1:{server.port}")
    result = load.closed_loop(target, connections=CONNECTIONS, depth=DEPTH, seconds=seconds)
    if result.failed or not result.calls:
        raise SystemExit(f"{workload.name}: {result.failed} of {result.calls + result.failed} calls failed")
    return result


def main() -> None:
    """Entry of `python -m benchmarks.leases`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leases", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3, help="medians are shown (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each measurement (2)")
    parser.add_argument("--front", choices=["fast", "aio"], default="fast", help="which front (fast)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        found = list(rows(Path(folder) / "site", given.front, max(1, given.rounds), given.seconds))
    report.show(
        report.Report(report.machine(), platform.python_version(), given.rounds, given.seconds, found),
        _console,
    )


if __name__ == "__main__":
    main()
