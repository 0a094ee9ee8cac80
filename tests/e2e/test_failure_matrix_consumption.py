"""What is behind a sidecar, or the sidecar itself, is away, broken or wrong: the consumption of DESIGN 10.

Whatever happens, no more than the limit is admitted, and where no block is lost, all of it can be used in the
end. SIGKILL at any instant has a test of its own too (`test_lease_hammer.py`), and so have full disks
(`test_disk_full_usage.py`) and Sentinel (`test_lease_redis.py`).
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
import redis

from entitlement_sidecar.domain.decision import Reason
from entitlement_sidecar.testing.fault_proxy import FaultProxy
from entitlement_sidecar.wire.redis_keys import BlockPlace
from entitlement_sidecar.wire.v1 import decision_pb2
from support.faulty_site import PATIENCE, FaultySite
from support.jumping_clock import JumpingClock
from support.outbox_books import queued
from support.processes import Sidecar
from support.waiting import until

LIMIT = 1000
FEATURE = "jobs"

Fault = Callable[[FaultProxy], None]

AWAY: dict[str, Fault] = {
    "refused": lambda proxy: proxy.refuse(),
    "black hole": lambda proxy: proxy.black_hole(),
}


class Uses:
    """A tenant's use of its limit at one sidecar, by what it was allowed."""

    def __init__(self, site: FaultySite, beside: Sidecar | None = None) -> None:
        self.tenant = site.held()
        self.allowed = 0
        self.refused: decision_pb2.Decision | None = None
        self._site = site
        self._beside = beside or site.beside

    def use(self, quantity: int) -> decision_pb2.Decision:
        """One CONSUME."""
        decision = self._beside.consume(self.tenant, FEATURE, quantity=quantity)
        if decision.allowed:
            self.allowed += quantity
        return decision

    def lease(self) -> int:
        """Uses tokens until there is a lease from a block; says how much is left of it."""
        until(lambda: self.use(1).held and self.block(), "a lease", PATIENCE)
        return until(lambda: self.use(1).held, "something in it", PATIENCE)

    def until_refused(self) -> decision_pb2.Decision:
        """Uses what there is, in smaller and smaller parts; the answer that refuses a single token."""
        quantity = 64
        while (decision := self.use(quantity)).allowed or quantity > 1:
            quantity = quantity if decision.allowed else quantity // 2
        return decision

    def all_of_it(self) -> None:
        """Waits until all of the limit is used; the ledger has just what was allowed."""

        def used_up() -> bool:
            self.until_refused()
            return self.allowed >= LIMIT

        until(used_up, f"{self.tenant} to use all", PATIENCE)
        self.no_more()
        assert self.allowed == LIMIT

    def no_more(self) -> None:
        """Not more than the limit was admitted, and the ledger has what was."""
        assert self.allowed <= LIMIT
        until(lambda: queued(self._beside.state) == 0, "the outbox to be empty", 2 * PATIENCE)
        usage = self._site.store.usage(self.tenant)["usage"]
        assert sum(row["value"] for row in usage if row["metric"] == FEATURE) == self.allowed

    def block(self) -> str:
        """The id of the tenant's block in Redis; '' where there is none."""
        with redis.Redis(port=self._site.redis.port, decode_responses=True) as client:
            return str(client.hget(BlockPlace(self.tenant, FEATURE, None).key, "id") or "")


@pytest.fixture
def uses(faulty_site: FaultySite) -> Uses:
    """Of a tenant of its own."""
    return Uses(faulty_site)


def is_closed(decision: decision_pb2.Decision) -> bool:
    """Whether nobody could be asked, and the feature is closed then."""
    return bool(decision.degradation == decision_pb2.DEGRADATION_FAIL_CLOSED)


def test_plan_store_away(faulty_site: FaultySite, uses: Uses) -> None:
    """Inside the lease, then from the block, which others go on filling; then the outage policy."""
    held = uses.lease()
    before = uses.allowed

    faulty_site.to_store.refuse()

    assert is_closed(uses.until_refused())
    assert uses.allowed > before + held
    faulty_site.to_store.heal()
    uses.all_of_it()


def test_plan_store_killed(faulty_site: FaultySite, uses: Uses) -> None:
    """The same, of the block as it is."""
    held = uses.lease()
    before = uses.allowed

    faulty_site.store.kill()

    assert is_closed(uses.until_refused())
    assert before + held < uses.allowed < LIMIT
    faulty_site.store.start(migrated=True)
    uses.all_of_it()


def test_redis_away(faulty_site: FaultySite, uses: Uses) -> None:
    """Inside the lease, then from the root, which has the block give up what is free."""
    uses.lease()

    faulty_site.to_redis.refuse()

    uses.all_of_it()


def test_redis_killed(faulty_site: FaultySite, uses: Uses) -> None:
    """Inside the lease, then from what the root has not delegated; later another block is laid."""
    held, block = uses.lease(), uses.block()
    before = uses.allowed

    faulty_site.redis.stop()

    until(lambda: uses.until_refused().reason == Reason.QUOTA_EXCEEDED, "the rest to be used", PATIENCE)
    assert before + held < uses.allowed < LIMIT
    faulty_site.redis.start()
    uses.until_refused()
    uses.no_more()
    assert uses.block() != block


@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
def test_both_away(faulty_site: FaultySite, uses: Uses, fault: Fault) -> None:
    """Inside the lease, then the outage policy."""
    held = uses.lease()

    fault(faulty_site.to_redis)
    fault(faulty_site.to_store)

    assert uses.use(held).allowed
    assert is_closed(uses.use(LIMIT // 2))
    faulty_site.to_redis.heal()
    faulty_site.to_store.heal()
    uses.all_of_it()


@pytest.mark.parametrize("end", [Sidecar.kill, Sidecar.stop], ids=["killed", "stopped"])
def test_both_away_and_the_sidecar_restarts(
    faulty_site: FaultySite, uses: Uses, end: Callable[[Sidecar], None]
) -> None:
    """Nothing is used of what the one before had; its journal settles for it, so all can be used later."""
    uses.lease()
    faulty_site.to_redis.refuse()
    faulty_site.to_store.refuse()

    end(faulty_site.beside)
    faulty_site.beside.start()

    assert is_closed(uses.use(1))
    faulty_site.to_redis.heal()
    faulty_site.to_store.heal()
    uses.all_of_it()


def test_sidecar_killed(faulty_site: FaultySite, uses: Uses) -> None:
    """What it had and did not use comes back when it does."""
    uses.lease()

    faulty_site.beside.kill()
    faulty_site.beside.start()

    uses.all_of_it()


def test_disk_full(faulty_site: FaultySite, uses: Uses) -> None:
    """Refused, as the metric says; of the lease nothing is spent by what could not be kept."""
    uses.lease()
    process = faulty_site.beside.process
    assert process is not None
    _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)

    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, most))

    for _ in range(5):
        with pytest.raises(grpc.RpcError) as refused:
            uses.use(1)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
    until(lambda: has_room(uses), "room again", PATIENCE)
    uses.all_of_it()


def has_room(uses: Uses) -> bool:
    """Whether usage is kept again."""
    with suppress(grpc.RpcError):
        return uses.use(1).allowed
    return False


def test_redis_flushed(faulty_site: FaultySite, uses: Uses) -> None:
    """The block is lost and another one laid; what the lost one had is not granted again."""
    uses.lease()
    block = uses.block()

    with redis.Redis(port=faulty_site.redis.port) as client:
        client.flushall()

    until(lambda: uses.use(1).allowed and uses.block() not in {"", block}, "another block", PATIENCE)
    uses.until_refused()
    uses.no_more()


def test_redis_rolled_back(faulty_site: FaultySite, uses: Uses) -> None:
    """A dump from before the last grants is restored: its block grants nothing more."""
    uses.lease()
    block, server = uses.block(), faulty_site.redis
    with redis.Redis(port=server.port) as client:
        client.save()
    try:
        for _ in range(4):
            uses.use(30)

        server.stop()
        server.start()

        until(lambda: uses.use(1).allowed and uses.block() not in {"", block}, "another block", PATIENCE)
        uses.until_refused()
        uses.no_more()
    finally:
        (server.folder / "dump.rdb").unlink()


@pytest.mark.parametrize("hours", [1, -1])
def test_the_clock_jumps(faulty_site: FaultySite, tmp_path: Path, hours: int) -> None:
    """An hour ahead or behind, of no window more is admitted than its limit."""
    clock = JumpingClock(tmp_path)
    beside = faulty_site.sidecar(f"jumping {tmp_path.name}", env=clock.environment)
    admitted: Counter[float] = Counter()
    tenant = faulty_site.held()

    def use() -> bool:
        decision = beside.consume(tenant, "calls", quantity=3)
        if decision.allowed:
            admitted[decision.window_start.ToSeconds()] += 3
        return bool(decision.allowed)

    until(lambda: use() and use(), "it to admit", PATIENCE)

    clock.set(3600 * hours)
    while use():
        pass
    clock.set(0)
    until(lambda: not use(), "all to be used", PATIENCE)

    assert max(admitted.values()) <= 100
    beside.kill()
