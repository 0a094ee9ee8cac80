"""What held tenants take of a sidecar's memory, and what it says that they take.

Tenants are put into the Redis of a site, signed as its plan store signs: copies of one that it made. A
sidecar that reads Redis alone is asked for everything that each of them has, so that all of it is held and
resolved. Answers of such calls are not kept: what grows are the tenants.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc
import msgspec
import redis

from benchmarks.outages import Site
from benchmarks.report import Row, Target
from benchmarks.servers import Cores, Server, metric, sidecar
from benchmarks.workloads import FEATURES, tenant_name
from entitlement_sidecar.wire.envelopes import open_snapshot, seal_snapshot
from entitlement_sidecar.wire.redis_keys import snapshot_key
from entitlement_sidecar.wire.signing import KeyRing, SigningKey
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc

WARM_UP = 1_000
"""Tenants held before it is measured: they take what was left free by the start of the process."""

STEPS = (1_000, 10_000)
"""Tenants held then, one step after the other."""

BOUND, ASKED = 16 << 20, 4_000
"""Bytes that a second sidecar may hold, and tenants that it is asked about: four times as many as fit."""

_ACCOUNTED = 0.8
"""What is counted must not be below this share of what is taken: a bound in bytes would say little."""

_AT_ONCE = 500
_SETTLES_WITHIN = 10.0
_PATIENCE = 30.0


def rows(site: Site, front: str, folder: Path) -> Iterator[Row]:
    """Of each number of tenants: what is counted, and what the process has grown by."""
    fill(site, WARM_UP + sum(STEPS))
    cores, first = Cores.of_this_machine(), WARM_UP
    with sidecar(front, _alone(site), folder / "unbounded", cores) as server:
        _hold(server, range(WARM_UP))
        for more in STEPS:
            yield from _counted_and_taken(server, range(first, first + more))
            first += more
    bounded = [*_alone(site), "--max-snapshot-bytes", str(BOUND)]
    with sidecar(front, bounded, folder / "bounded", cores) as server:
        before = _resident(server)
        _hold(server, range(ASKED))
        what = f"memory that {ASKED:,} tenants take where {BOUND >> 20} MiB are allowed"
        taken, target = _resident(server) - before, Target(at_most=BOUND / 2**20 / _ACCOUNTED)
        yield Row(what, server.name, taken, "MiB", target=target)


def _counted_and_taken(server: Server, numbers: range) -> Iterator[Row]:
    """What so many tenants more are counted as, and what the process has grown by."""
    what = f"memory of {len(numbers):,} tenants of {FEATURES} features"
    before, counted_before = _resident(server), _counted(server)
    _hold(server, numbers)
    counted, taken = _counted(server) - counted_before, _resident(server) - before
    yield Row(f"{what}, taken", server.name, taken, "MiB")
    row = Row(f"{what}, counted", server.name, counted, "MiB", against="taken")
    yield msgspec.structs.replace(row, ratio=counted / taken, target=Target(at_least=_ACCOUNTED))


def _counted(server: Server) -> float:
    return metric(server, "entitlement_snapshot_bytes") / 2**20


def fill(site: Site, tenants: int) -> None:
    """Puts tenants into Redis that the plan store does not know."""
    key, ring = SigningKey.load(site.store.state / "signing.key"), KeyRing.load(_trusted(site))
    with redis.Redis(port=site.to_redis.target_port) as client:
        envelope = client.hget(snapshot_key(tenant_name(0)), "envelope")
        if not isinstance(envelope, bytes):
            raise SystemExit(f"Redis holds no snapshot of {tenant_name(0)}")
        made = open_snapshot(ring, envelope, tenant_name(0))
        for at in range(0, tenants, _AT_ONCE):
            with client.pipeline(transaction=False) as pipeline:
                for name in map(tenant_name, range(at, min(at + _AT_ONCE, tenants))):
                    sealed = seal_snapshot(key, msgspec.structs.replace(made, tenant_id=name))
                    pipeline.hset(snapshot_key(name), mapping={"version": made.version, "envelope": sealed})
                pipeline.execute()


def _alone(site: Site) -> list[str]:
    """Redis alone: nobody else has ever heard of most of the tenants."""
    return ["--redis", f"redis://127.0.0.1:{site.to_redis.port}/0", "--trusted-keys", str(_trusted(site))]


def _trusted(site: Site) -> Path:
    return Path(site.store.state, "trusted.keys")


def _hold(server: Server, numbers: Iterable[int]) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = decision_pb2_grpc.EntitlementServiceStub(channel)
        for name in map(tenant_name, numbers):
            _ask_until_held(stub, name)


def _ask_until_held(stub: decision_pb2_grpc.EntitlementServiceStub, tenant: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    asked = decision_pb2.ListEntitlementsRequest(tenant_id=tenant)
    while True:
        answer = stub.ListEntitlements(asked, timeout=10, wait_for_ready=True)
        if answer.snapshot_version:
            return
        # On a busy machine Redis may take longer than a check waits for it.
        if time.monotonic() > deadline:
            raise SystemExit(f"{tenant} is not held after {_PATIENCE:g} s: {answer}")
        time.sleep(0.05)


def _resident(server: Server) -> float:
    """MiB, once what was begun in the background is done: they stay the same for a second."""
    deadline, found = time.monotonic() + _SETTLES_WITHIN, server.resident_mib
    while time.monotonic() < deadline:
        time.sleep(1)
        before, found = found, server.resident_mib
        if abs(found - before) < 0.1:
            break
    return found
