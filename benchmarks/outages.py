"""Checks while Redis says nothing, against the same sidecar while it does; a start with everything away.

A plan store, a Redis, and a sidecar of both, each a process. Between them and the sidecar stand proxies that
can swallow every byte. Rounds take turns, so that a noisy minute falls on both sides of a ratio:

    healthy ──▶ swallow ──▶ wait until answers are STALE ──▶ measure ──▶ heal ──▶ wait until they are not
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import msgspec
import psutil
from rich.console import Console

from benchmarks import load, report
from benchmarks.load import Result
from benchmarks.report import Row, Target
from benchmarks.servers import Cores, Server, sidecar
from benchmarks.upstream import Caller, Planstore, plan_store, redis_server
from benchmarks.workloads import PLAN, TENANTS, Workload, asks, peek, tenant_name, write_catalogue
from entitlement_sidecar.testing.fault_proxy import FaultProxy
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc

RATE = 2000.0
"""Calls a second at which the tail is measured."""

CONNECTIONS, DEPTH = 4, 16

PATIENCE = 60.0
"""Seconds that answers may take to become stale, or current again."""

_TAIL, _COLD = Target(at_most=1.25), Target(at_most=1.5)
_STALE, _HEALTHY = decision_pb2.DEGRADATION_STALE, decision_pb2.DEGRADATION_NONE
_HOW = {"at": f"at {RATE:,.0f} calls/s", "full": f"{CONNECTIONS * DEPTH} in flight"}
_CONDITIONS: dict[int, str] = {_HEALTHY: "Redis healthy", _STALE: "Redis black-holed"}

_console = Console()


class Site(msgspec.Struct, frozen=True):
    """What stands behind a sidecar, and the proxies through which it is reached."""

    store: Planstore
    to_redis: FaultProxy
    to_store: FaultProxy
    state: Path
    """Folder of its sidecar."""

    @property
    def options(self) -> list[str]:
        """What a sidecar of this site is started with."""
        return [
            *("--redis", f"redis://127.0.0.1:{self.to_redis.port}/0"),
            *("--planstore", f"127.0.0.1:{self.to_store.port}"),
            *("--token-file", str(self.store.state / "token")),
        ]


def build(folder: Path, cores: Cores, stack: ExitStack, tenants: int = TENANTS) -> Site:
    """A plan store on SQLite whose tenants are in Redis."""
    folder.mkdir()
    catalogue = folder / "catalogue.yaml"
    write_catalogue(catalogue)
    before = psutil.Process().children()
    # Children inherit the core: the one that asks must be left alone.
    os.sched_setaffinity(0, {cores.server})
    try:
        redis = stack.enter_context(redis_server(folder))
        store = stack.enter_context(plan_store(folder / "store", catalogue, redis_url=redis.url))
    finally:
        os.sched_setaffinity(0, {cores.client})
    with closing(Caller(store)) as caller:
        caller.subscribe(map(tenant_name, range(tenants)), PLAN)
    for process in psutil.Process().children():
        if process not in before:
            _give_way(process)
    to_redis, to_store = (
        stack.enter_context(FaultProxy(port).start()) for port in (redis.port, store.grpc_port)
    )
    return Site(store, to_redis, to_store, folder / "sidecar")


def _give_way(process: psutil.Process) -> None:
    """Whoever is measured goes first: on a site, this runs on another machine. Its heartbeats still come."""
    for thread in process.threads():
        os.setpriority(os.PRIO_PROCESS, thread.id, 5)


def rows(site: Site, front: str, rounds: int, seconds: float) -> Iterator[Row]:
    """Rates and tails of PEEKs of both conditions."""
    cores = Cores.of_this_machine()
    with sidecar(front, site.options, site.state, cores) as server:
        hold_all(server)
        found = _rounds(site, server, rounds, seconds)
    for how, what in _HOW.items():
        yield from _compared(server, f"PEEK boolean, {what}", found[how, _HEALTHY], found[how, _STALE])


def _compared(server: Server, what: str, healthy: list[Result], away: list[Result]) -> Iterator[Row]:
    """A row of each condition; the second one is held against the first."""
    (first, spread), (second, spread_away) = report.median(healthy), report.median(away)
    row = Row(f"{what}, Redis healthy", server.name, first.rate, "calls/s", spread, first.p50, first.p99)
    yield row
    tail = what.endswith(_HOW["at"])
    yield Row(
        f"{what}, Redis black-holed",
        server.name,
        second.rate,
        "calls/s",
        spread_away,
        second.p50,
        second.p99,
        ratio=second.p99 / first.p99 if tail else second.rate / first.rate,
        against="p99 when healthy" if tail else "rate when healthy",
        target=_TAIL if tail else None,
    )


def _rounds(site: Site, server: Server, rounds: int, seconds: float) -> dict[tuple[str, int], list[Result]]:
    found: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for number in range(rounds):
        for condition, what in _CONDITIONS.items():
            _console.print(f"outage {number + 1} of {rounds}: {server.name}, {what}", style="dim")
            if condition == _STALE:
                site.to_redis.black_hole()
            _wait_until(server, condition)
            workload = peek(condition)
            found["at", condition].append(_asked(server, workload, seconds, full=False))
            found["full", condition].append(_asked(server, workload, seconds, full=True))
        site.to_redis.heal()
    _wait_until(server, _HEALTHY)
    return found


def _asked(server: Server, workload: Workload, seconds: float, *, full: bool) -> Result:
    target = load.Target(server.address, workload.path, workload.bodies)
    address = f"127.0.0.1:{server.port}"
    workload.verify_on(address)
    if full:
        result = load.closed_loop(target, connections=CONNECTIONS, depth=DEPTH, seconds=seconds)
    else:
        result = load.fixed_rate(target, rate=RATE, connections=CONNECTIONS, seconds=seconds)
    workload.verify_on(address)
    if result.failed or not result.calls:
        raise SystemExit(f"{workload.name}: {result.failed} of {result.calls + result.failed} calls failed")
    return result


def hold_all(server: Server) -> None:
    """Has every tenant held, so that no check needs to ask anybody."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = decision_pb2_grpc.EntitlementServiceStub(channel)
        for number in range(TENANTS):
            stub.CheckEntitlement(asks(tenant_name(number)), timeout=10, wait_for_ready=True)


def _wait_until(server: Server, condition: int) -> None:
    """Until the answers to every tenth tenant are as they should be."""
    deadline = time.monotonic() + PATIENCE
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = decision_pb2_grpc.EntitlementServiceStub(channel)
        for number in range(0, TENANTS, 10):
            asked = asks(tenant_name(number))
            while stub.CheckEntitlement(asked, timeout=10).decision.degradation != condition:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{server.name}: answers are not {_CONDITIONS[condition]!r} in time")
                time.sleep(0.05)


def cold_starts(site: Site, front: str, rounds: int) -> Iterator[Row]:
    """Time to ready of a sidecar that was there before, with everything behind it swallowed."""
    cores, took = Cores.of_this_machine(), []
    with sidecar(front, site.options, site.state, cores) as server:
        hold_all(server)
    for proxy in (site.to_redis, site.to_store):
        proxy.black_hole()
    for _ in range(rounds):
        with sidecar(front, site.options, site.state, cores) as server:
            took.append(server.seconds_to_ready)
            _require_from_disk(server, [tenant_name(0), tenant_name(TENANTS - 1)])
    for proxy in (site.to_redis, site.to_store):
        proxy.heal()
    middle = sorted(took)[len(took) // 2]
    yield Row("exec to ready, everything away", f"sidecar {front}", middle, "s", target=_COLD)


def _require_from_disk(server: Server, tenants: Sequence[str]) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = decision_pb2_grpc.EntitlementServiceStub(channel)
        for tenant in tenants:
            decision = stub.CheckEntitlement(asks(tenant), timeout=10).decision
            if not decision.allowed or decision.source != decision_pb2.SOURCE_DISK:
                raise SystemExit(
                    f"{server.name}: expected an answer from disk about {tenant}, got: {decision}"
                )
