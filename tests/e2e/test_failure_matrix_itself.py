"""What happens to a sidecar itself: killed, started with nothing behind it, its disk full, its clock set.

The checks of DESIGN 10.
"""

from __future__ import annotations

import random
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import grpc
import pytest

from entitlement_sidecar.domain.decision import Degradation, Reason, Source
from support.faulty_site import (
    AGED,
    CLOSED,
    CURRENT,
    OPEN,
    PATIENCE,
    FaultySite,
    await_told,
    first_told,
    is_answering,
    told,
)
from support.jumping_clock import JumpingClock
from support.processes import Sidecar
from support.waiting import until

KILLS = 3
SEED = 20262

FROM_DISK = AGED._replace(source=Source.DISK)
"""What was known last, by a process that has never heard anybody."""

ALONE = """
catalogue: alone
features:
  calls: {kind: metered, metric: calls}
metrics:
  calls: {domain: api, unit: call}
plans:
  pro:
    price: {amount: "10.00", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 10, window: hour}]}
tenants:
  acme: {plan: pro}
"""


def kept(beside: Sidecar, tenant: str) -> int:
    """The version of a tenant that is on a sidecar's disk; 0 where there is none."""
    path = beside.state / "snapshots.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        found = file.execute("SELECT version FROM snapshots WHERE tenant_id = ?", [tenant]).fetchone()
        return found[0] if found else 0


def failing_code(beside: Sidecar, tenant: str) -> grpc.StatusCode:
    """How a call fails."""
    with pytest.raises(grpc.RpcError) as raised:
        beside.check(tenant, "sso")
    code: grpc.StatusCode = raised.value.code()
    return code


def test_killed_at_any_instant(faulty_site: FaultySite) -> None:
    """Under load: the application sees UNAVAILABLE and nothing else, and the next process answers."""
    held, beside = faulty_site.held(), faulty_site.beside
    dice = random.Random(SEED)  # noqa: S311 - a test's dice
    for _ in range(KILLS):
        codes: set[grpc.StatusCode] = set()
        channel = beside.channel
        with under_load(beside, held, codes):
            time.sleep(dice.random() * 0.2)
            process = beside.process
            assert process is not None
            process.kill()
            assert failing_code(beside, held) is grpc.StatusCode.UNAVAILABLE
        assert codes <= {grpc.StatusCode.UNAVAILABLE}
        channel.close()
        beside.start()
        await_told(beside, held, CURRENT)


@contextmanager
def under_load(beside: Sidecar, tenant: str, codes: set[grpc.StatusCode]) -> Iterator[None]:
    """Checks again and again; with what code those failed that did."""
    stopping = threading.Event()

    def load() -> None:
        while not stopping.is_set():
            try:
                beside.check(tenant, "sso")
            except grpc.RpcError as error:
                codes.add(error.code())

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@pytest.mark.parametrize("end", [Sidecar.kill, Sidecar.stop], ids=["killed", "stopped"])
def test_starts_with_everything_away(faulty_site: FaultySite, end: object) -> None:
    """Answers come from what was known last, and say so; what was never known is decided by policy."""
    held, cold, beside = faulty_site.held(), faulty_site.subscribed(), faulty_site.beside
    until(lambda: kept(beside, held), "the tenant to be on disk", PATIENCE)

    assert callable(end)
    end(beside)
    faulty_site.to_redis.refuse()
    faulty_site.to_store.refuse()
    beside.start()
    until(lambda: is_answering(beside, held), "it to answer", PATIENCE)

    assert told(beside, held) == FROM_DISK
    assert told(beside, cold) == OPEN
    assert told(beside, cold, "calls") == CLOSED
    assert beside.metric('entitlement_snapshot_lookups_total{outcome="disk"}') >= 1
    faulty_site.to_redis.heal()
    faulty_site.to_store.heal()
    await_told(beside, held, CURRENT)
    await_told(beside, cold, CURRENT)


def test_disk_full(faulty_site: FaultySite) -> None:
    """Checks are full: changes arrive, tenants are read; what cannot be kept is counted, and kept later."""
    held, cold, beside = faulty_site.held(), faulty_site.subscribed(), faulty_site.beside
    process = beside.process
    assert process is not None
    failures = beside.metric("entitlement_last_known_failures_total")

    _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, most))

    read = first_told(beside, cold)
    assert read.allowed
    await_told(beside, cold, CURRENT)
    faulty_site.store.subscribe(held, "small")
    until(lambda: not beside.check(held, "sso").allowed, "the change", PATIENCE)
    until(lambda: beside.metric("entitlement_last_known_failures_total") > failures, "the metric", PATIENCE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
    faulty_site.store.subscribe(held, "large")
    until(lambda: told(beside, held) == CURRENT, "the next change", PATIENCE)
    until(lambda: kept(beside, held) == 3, "the disk to be written to again", PATIENCE)


def test_the_clock_jumps(faulty_site: FaultySite, tmp_path: Path) -> None:
    """An hour ahead all looks old, says so, and is served; an hour behind, nothing looks young that is not.

    An hour behind, a subscription that has just begun has not: that too is the wall clock's.
    """
    clock = JumpingClock(tmp_path)
    beside = faulty_site.sidecar("of another clock", env=clock.environment)
    held = faulty_site.held()
    await_told(beside, held, CURRENT)

    clock.set(3600)
    await_told(beside, held, AGED)
    assert beside.metric("entitlement_freshness_seconds") > 3000
    clock.set(-3600)
    early = CURRENT._replace(allowed=False, reason=Reason.SUBSCRIPTION_MISSING)
    await_told(beside, held, early)
    faulty_site.to_redis.refuse()
    await_told(beside, held, early._replace(degradation=Degradation.STALE))
    faulty_site.to_redis.heal()
    clock.set(0)
    until(lambda: told(beside, held) == CURRENT, "all to be as before", PATIENCE)
    beside.kill()


def test_windows_are_of_the_wall_clock(tmp_path: Path) -> None:
    """An hour ahead another window runs, with nothing used in it; its bounds are the wall clock's."""
    clock, tenants = JumpingClock(tmp_path), tmp_path / "tenants.yaml"
    tenants.write_text(ALONE)
    with ExitStack() as ending:
        beside = Sidecar(tmp_path / "alone", "--snapshot-file", str(tenants), env=clock.environment)
        ending.callback(beside.kill)
        beside.start()
        first = beside.consume("acme", "calls", quantity=4)
        assert (first.allowed, first.used) == (True, 4)

        clock.set(3600)
        later = beside.consume("acme", "calls", quantity=1)

        assert (later.allowed, later.used) == (True, 1)
        moved = later.window_start.ToDatetime() - first.window_start.ToDatetime()
        assert moved.total_seconds() in {3600, 7200}
        assert later.reset_at.ToDatetime() > first.reset_at.ToDatetime()
