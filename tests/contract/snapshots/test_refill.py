"""A lost Redis is refilled at a bounded rate, by one replica, tenants in use first; then an epoch begins."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from entitlement_sidecar.planstore.db import Database, QuotaCounterRow
from entitlement_sidecar.planstore.snapshots import refill
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.redis_keys import REFILL_KEY, snapshot_key
from support.transports import Store, ThroughRedis

TENANTS = [f"tenant-{number}" for number in range(7)]
BATCH = 2


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two snapshots a batch, and a batch a second."""
    monkeypatch.setattr(refill, "BATCH", BATCH)
    monkeypatch.setattr(refill, "PER_SECOND", BATCH)


@pytest.fixture
def lost(database: Database, redis_db: str, stack: AsyncExitStack) -> ThroughRedis:
    """A publisher whose Redis was emptied after all was published."""
    transport = ThroughRedis(Store(database), redis_db, stack)
    for tenant in TENANTS:
        transport.store.change(tenant)
    until_begun(transport)
    transport.publish()
    transport.redis.flushall()
    return transport


def written(transport: ThroughRedis) -> list[str]:
    """Tenants that Redis holds."""
    return [tenant for tenant in TENANTS if transport.redis.exists(snapshot_key(tenant))]


def begun(transport: ThroughRedis) -> bool:
    """Whether the feed in Redis goes on."""
    return bool(transport.writer.state(0).epoch)


def until_begun(transport: ThroughRedis) -> int:
    """Publishes until the feed has begun; how many steps that took."""
    for number in range(1, 20):
        transport.publish()
        if begun(transport):
            return number
    raise AssertionError("the feed has not begun")


def left() -> float:
    """Snapshots that are yet to be written, as the metric tells."""
    return metrics.REGISTRY.get_sample_value("entitlement_refill_left") or 0.0


async def test_a_batch_is_written_in_its_time(lost: ThroughRedis) -> None:
    """However often the publisher is woken; and no epoch begins before all is there."""
    lost.publish()
    assert (len(written(lost)), left()) == (BATCH, len(TENANTS) - BATCH)
    lost.publisher.step()
    assert len(written(lost)) == BATCH
    while len(written(lost)) < len(TENANTS):
        assert not begun(lost)
        lost.publish()
    assert until_begun(lost) <= 2
    assert left() == 0


async def test_tenants_in_use_come_first(lost: ThroughRedis) -> None:
    """Whoever uses something now is asked for first."""
    with lost.store.database.writing() as session:
        for tenant in TENANTS[-2:]:
            began, ends = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
            session.add(
                QuotaCounterRow(
                    tenant_id=tenant, feature="calls", limit_key="day", window_start=began, window_end=ends
                )
            )

    lost.publish()
    assert written(lost) == TENANTS[-2:]
    until_begun(lost)
    assert written(lost) == TENANTS


async def test_one_replica_refills(lost: ThroughRedis, redis_db: str, stack: AsyncExitStack) -> None:
    """The other waits; it takes over when the first is not heard of any more."""
    other = ThroughRedis(lost.store, redis_db, stack)
    lost.publish()
    other.publish()
    assert len(written(lost)) == BATCH
    assert lost.redis.persist(REFILL_KEY), "a claim ends by itself"

    lost.redis.delete(REFILL_KEY)
    until_begun(other)
    assert written(other) == TENANTS
    lost.publish()
    assert lost.writer.state(0) == other.writer.state(0)


async def test_what_changes_meanwhile_is_published_after_it(lost: ThroughRedis) -> None:
    """Also of a tenant that was written already, and of one that is new."""
    lost.publish()
    version = lost.store.change(TENANTS[0])
    lost.store.change("a-new-one")
    until_begun(lost)
    lost.publish()
    assert lost.redis.hget(snapshot_key(TENANTS[0]), "version") == str(version).encode()
    assert lost.redis.exists(snapshot_key("a-new-one"))


@pytest.mark.parametrize("scribble", ["text", "list"])
async def test_a_claim_of_nobody_keeps_nobody_from_refilling(lost: ThroughRedis, scribble: str) -> None:
    """Publishers' own claims end by themselves; another one does not."""
    if scribble == "text":
        lost.redis.set(REFILL_KEY, "x")
    else:
        lost.redis.lpush(REFILL_KEY, "x")
    until_begun(lost)
    assert written(lost) == TENANTS


async def test_a_claim_that_was_overwritten_begins_the_refill_again(lost: ThroughRedis) -> None:
    """What was written since may be gone with it."""
    lost.publish()
    lost.redis.delete(REFILL_KEY)
    lost.redis.lpush(REFILL_KEY, "x")
    until_begun(lost)
    assert written(lost) == TENANTS
