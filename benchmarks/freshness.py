"""How long a change of the plan store takes to be visible in a sidecar: `python -m benchmarks.freshness`.

    REST ─▶ plan store ─▶ publisher ─▶ Redis ─▶ sidecar ─▶ WatchEntitlements        through Redis
                 └──────▶ WatchSnapshots ─────▶ sidecar ─▶ WatchEntitlements        through WatchSnapshots

Every process is a real one. A change counts from the answer of its REST call, when it is committed, until an
open WatchEntitlements of its tenant tells the version that the answer named. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Self

import grpc
import grpc.aio
import msgspec

from benchmarks import report
from benchmarks.load import quantile
from benchmarks.upstream import EVERY, Caller, Planstore, Sidecar, plan_store, postgres, redis_server
from benchmarks.workloads import PLAN, tenant_name, write_catalogue
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc

TENANTS = 200
"""Tenants that are watched, each on a stream of its own; changes go round them."""

STEADY = 20.0
"""Changes a second, in the second half."""

TARGET = 250.0
"""Milliseconds that the 99th percentile may take (DESIGN 12)."""

WARM_UP = 20
"""Changes that are not counted."""

PATIENCE = 30.0
"""Seconds after which a change that is not visible ends the run."""


class Measured(msgspec.Struct, frozen=True):
    """Milliseconds from a change's answer until it is visible; none where it was visible before."""

    what: str
    changes: int
    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, what: str, seconds: Sequence[float]) -> Measured:
        """The percentiles of some changes."""
        taken = sorted(max(0.0, one) * 1000 for one in seconds)
        return cls(what, len(taken), median(taken), quantile(taken, 0.99), taken[-1])

    def row(self) -> str:
        """A line of the table."""
        kept = "yes" if self.p99 < TARGET else "**no**"
        return (
            f"| {self.what} | {self.changes:,} | {self.p50:.1f} | {self.p99:.1f} | {self.most:.1f} | {kept} |"
        )


class Watch:
    """Watches tenants of a sidecar on an event loop in another thread, and notes when a version came."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, tenants: Sequence[str]) -> None:
        self._loop = loop
        self._port = port
        self._tenants = tenants
        self._seen: dict[str, list[tuple[int, float]]] = {tenant: [] for tenant in tenants}
        self._news = threading.Condition()

    def __enter__(self) -> Self:
        """Opens the streams, and waits until each has told its first state."""
        self._task = asyncio.run_coroutine_threadsafe(self._watch_all(), self._loop)
        for tenant in self._tenants:
            self.wait_for(tenant, 1)
        return self

    def __exit__(self, *_: object) -> None:
        """Closes them."""
        self._task.cancel()
        wait([self._task])

    def wait_for(self, tenant: str, version: int) -> float:
        """When a version, or a newer one, was visible; in seconds of `perf_counter`.

        Raises:
            SystemExit: It did not come.
        """
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while True:
                came = [at for told, at in self._seen[tenant] if told >= version]
                if came:
                    return min(came)
                if self._task.done() or not self._news.wait(deadline - time.monotonic()):
                    raise SystemExit(f"version {version} of {tenant} did not come within {PATIENCE:g} s")

    async def _watch_all(self) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            stub = decision_pb2_grpc.EntitlementServiceStub(channel)
            async with asyncio.TaskGroup() as streams:
                for tenant in self._tenants:
                    streams.create_task(self._watch(stub, tenant))

    async def _watch(self, stub: decision_pb2_grpc.EntitlementServiceStub, tenant: str) -> None:
        async for state in stub.WatchEntitlements(decision_pb2.WatchEntitlementsRequest(tenant_id=tenant)):
            now = time.perf_counter()
            with self._news:
                self._seen[tenant].append((state.snapshot_version, now))
                self._news.notify_all()


@contextmanager
def loop_beside() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own. One for the whole run: gRPC keeps to the first that it sees."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="watch")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Changes:
    """Single changes by REST: each grants a tenant an override, or ends the one that it has."""

    def __init__(self, caller: Caller, tenants: Sequence[str]) -> None:
        self._caller = caller
        self._tenants = tenants
        self._open: dict[str, str] = {}
        self._made = 0

    def make(self) -> tuple[str, int]:
        """Changes the next tenant; its name, and the version that carries the change."""
        tenant = self._tenants[self._made % len(self._tenants)]
        self._made += 1
        path = f"{EVERY}/{tenant}/overrides"
        override = self._open.pop(tenant, None)
        if override is not None:
            answer = self._caller.post(f"{path}/{override}/revoke", {})
        else:
            wanted = {"feature": "flag-0", "effect": "deny", "reason": "measured"}
            answer = self._caller.post(path, wanted)
            self._open[tenant] = answer["id"]
        return tenant, answer["snapshot_version"]


def one_by_one(changes: Changes, watch: Watch, count: int) -> list[float]:
    """Seconds of changes each of which is made when the one before is visible."""
    taken = []
    for _ in range(count):
        tenant, version = changes.make()
        answered = time.perf_counter()
        taken.append(watch.wait_for(tenant, version) - answered)
    return taken


def steadily(changes: Changes, watch: Watch, count: int) -> list[float]:
    """Seconds of changes that are made at set times, whether or not earlier ones are visible."""
    made, began = [], time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, began + number / STEADY - time.perf_counter()))
        made.append((*changes.make(), time.perf_counter()))
    return [watch.wait_for(tenant, version) - answered for tenant, version, answered in made]


HOW: dict[str, Callable[[Changes, Watch, int], list[float]]] = {
    "one after the other": one_by_one,
    f"at {STEADY:g} a second": steadily,
}


class Site(msgspec.Struct, frozen=True):
    """A plan store on a database of its own, a sidecar, and what lies between them."""

    database: str
    through_redis: bool

    def __str__(self) -> str:
        return f"{self.database}, through {'Redis' if self.through_redis else 'WatchSnapshots'}"


def measure(site: Site, loop: asyncio.AbstractEventLoop, count: int, folder: Path) -> Iterator[Measured]:
    """Every way of changing, on one site."""
    with ExitStack() as stack:
        url = stack.enter_context(postgres()) if site.database == "PostgreSQL" else ""
        redis_url = stack.enter_context(redis_server(folder)).url if site.through_redis else ""
        catalogue = folder / "catalogue.yaml"
        write_catalogue(catalogue)
        store = stack.enter_context(
            plan_store(folder / "store", catalogue, database=url, redis_url=redis_url)
        )
        tenants = [tenant_name(number) for number in range(TENANTS)]
        with closing(Caller(store)) as caller:
            caller.subscribe(tenants, PLAN)
        sidecar = stack.enter_context(_sidecar(folder / "sidecar", store, redis_url))
        watch = stack.enter_context(Watch(loop, sidecar.port, tenants))
        changes = Changes(stack.enter_context(closing(Caller(store))), tenants)
        one_by_one(changes, watch, WARM_UP)
        for how, run in HOW.items():
            what = f"{site}, {how}"
            print(what, file=sys.stderr)
            yield Measured.of(what, run(changes, watch, count))


@contextmanager
def _sidecar(state: Path, store: Planstore, redis_url: str) -> Iterator[Sidecar]:
    options = ["--planstore", f"127.0.0.1:{store.grpc_port}", "--token-file", str(store.state / "token")]
    sidecar = Sidecar(state, *options, *(["--redis", redis_url] if redis_url else []))
    try:
        yield sidecar.start()
    finally:
        sidecar.kill()


def main() -> None:
    """Runs it."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.freshness", description=__doc__)
    options.add_argument("--changes", type=int, default=1_000, help="of each kind")
    options.add_argument("--database", choices=["PostgreSQL", "SQLite"], action="append", help="only this")
    asked = options.parse_args()
    # gRPC has threads here while processes are started, and would say each time that it does not follow them.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    found: list[Measured] = []
    with loop_beside() as loop:
        for database in asked.database or ["PostgreSQL", "SQLite"]:
            for through_redis in (True, False):
                with tempfile.TemporaryDirectory(prefix="fresh-") as folder:
                    found += measure(Site(database, through_redis), loop, asked.changes, Path(folder))
    print(f"{report.machine()}\n")
    headings = ("change → visible", "changes", "p50 ms", "p99 ms", "most ms", f"p99 < {TARGET:g}")
    print(f"| {' | '.join(headings)} |\n|---|---:|---:|---:|---:|---|")
    for one in found:
        print(one.row())


if __name__ == "__main__":
    main()
