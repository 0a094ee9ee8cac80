"""Redis goes back by its last writes, at the worst instants: nothing is confirmed that it does not have."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.snapshots import refill
from entitlement_sidecar.planstore.snapshots.publisher import RedisPublisher
from entitlement_sidecar.planstore.snapshots.redis_feed import NEVER
from entitlement_sidecar.wire.redis_keys import snapshot_key
from support.transports import Store, ThroughRedis


class Disk:
    """What a Redis has on its disk, and comes back with after a crash."""

    def __init__(self, transport: ThroughRedis, monkeypatch: pytest.MonkeyPatch) -> None:
        self._redis = transport.redis
        self._patch = monkeypatch
        self._kept: dict[bytes, Any] = {}
        self.save()

    def save(self) -> None:
        """What is written until here, it keeps."""
        found: Any = self._redis.keys("*")
        self._kept = {key: self._redis.dump(key) for key in found}

    def crash(self, *transports: ThroughRedis) -> None:
        """Everything after the last save is gone, and it is another run of the server."""
        self._redis.flushall()
        for key, value in self._kept.items():
            self._redis.restore(key, 0, value)
        for transport in transports:
            self._patch.setattr(transport.writer, "server", lambda: "another run")


def missing(transport: ThroughRedis, *tenants: str) -> list[str]:
    """Tenants whose newest snapshot Redis does not hold."""
    store = transport.store
    return [
        tenant
        for tenant in tenants
        if transport.redis.hget(snapshot_key(tenant), "version") != str(store.version(tenant)).encode()
    ]


def once(method: Callable[..., Any], before: Callable[[], None] | None, number: int) -> Callable[..., Any]:
    """The method, with something that happens before its call of that number."""
    calls = 0

    def called(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and before is not None:
            before()
        return method(*given)

    return called


@pytest.fixture
def transport(database: Database, redis_db: str, stack: AsyncExitStack) -> ThroughRedis:
    """A publisher that has published a tenant."""
    transport = ThroughRedis(Store(database), redis_db, stack)
    transport.store.change("settled")
    transport.publish()
    return transport


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("method", ["put", "append"])
async def test_a_crash_of_redis_within_a_batch_loses_no_change(
    transport: ThroughRedis, monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    """Whatever of a batch it had, all of the batch is in Redis before it counts as published."""
    tenants = ("one", "two", "three")
    for tenant in tenants:
        transport.store.change(tenant)
    disk = Disk(transport, monkeypatch)
    working = getattr(transport.writer, method)
    with monkeypatch.context() as patch:
        patch.setattr(transport.writer, method, once(working, lambda: disk.crash(transport), number))
        transport.publish()

    transport.publish()
    transport.publish()

    assert missing(transport, "settled", *tenants) == []


async def test_a_crash_of_redis_while_another_replica_publishes_loses_no_change(
    transport: ThroughRedis, monkeypatch: pytest.MonkeyPatch, stack: AsyncExitStack
) -> None:
    """Entries that take the numbers of lost ones do not hide that those are lost."""
    store = transport.store
    other = ThroughRedis(store, transport.target, stack)
    disk = Disk(transport, monkeypatch)
    publish_some = RedisPublisher._publish_some

    def meanwhile() -> None:
        store.change("lost-one")
        store.change("lost-two")
        other.publish()
        disk.crash()
        for tenant in ("one", "two", "three"):
            store.change(tenant)

    with monkeypatch.context() as patch:
        patch.setattr(
            transport.publisher,
            "_publish_some",
            once(lambda *given: publish_some(transport.publisher, *given), meanwhile, 1),
        )
        transport.publish()
    transport.publish()
    other.publish()

    assert missing(transport, "settled", "lost-one", "lost-two", "one", "two", "three") == []


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_crash_of_redis_while_it_is_refilled_begins_the_refill_again(
    transport: ThroughRedis, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No epoch begins before everything is there."""
    for tenant in ("one", "two"):
        transport.store.change(tenant)
    transport.publish()
    transport.redis.flushall()
    disk = Disk(transport, monkeypatch)
    refill_with(transport, monkeypatch, lambda: disk.crash(transport), number)

    assert missing(transport, "settled", "one", "two") == []


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_flush_while_redis_is_refilled_begins_the_refill_again(
    transport: ThroughRedis, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The same run of the server, emptied halfway."""
    for tenant in ("one", "two"):
        transport.store.change(tenant)
    transport.publish()
    transport.redis.flushall()
    refill_with(transport, monkeypatch, transport.redis.flushall, number)

    assert missing(transport, "settled", "one", "two") == []


def refill_with(
    transport: ThroughRedis, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None], number: int
) -> None:
    """Publishes until a feed has begun; something happens before a batch, of one tenant each."""
    working = transport.writer.put_many
    with monkeypatch.context() as patch:
        patch.setattr(refill, "BATCH", 1)
        patch.setattr(transport.writer, "put_many", once(working, meanwhile, number))
        for _ in range(20):
            transport.publish()
            if transport.writer.state(0).sequence >= 0 and transport.writer.state(0).epoch != NEVER:
                return
    raise AssertionError("the feed has not begun")


async def test_each_run_of_redis_is_told_apart(transport: ThroughRedis) -> None:
    """By the server itself, while it runs the same one."""
    run = transport.writer.server()

    assert run
    assert transport.writer.server() == run
