"""A cluster of Redis: shards on several nodes, nodes that go, and replicas that take over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.snapshots.after_restore import remove_strangers
from entitlement_sidecar.planstore.snapshots.verification import Verification
from entitlement_sidecar.sidecar.snapshots.ports import Beat, Began, Changed
from entitlement_sidecar.wire.redis_keys import feed_key, snapshot_key
from support.redis_server import RedisServer
from support.redis_servers import RedisClusterServers
from support.transports import Reader, Store, ThroughRedis
from support.waiting import until

SHARDS = 4
TENANTS = [f"tenant-{number}" for number in range(12)]


@pytest.fixture
def store(sqlite_database: Database) -> Store:
    """A plan store whose feed has several shards."""
    return Store(sqlite_database, SHARDS)


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[RedisClusterServers]:
    """A cluster with replicas, whose nodes a test may stop."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    servers = RedisClusterServers(folder, replicas=True)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


def published(transport: ThroughRedis) -> bool:
    """One round of the publisher; whether it went well."""
    with suppress(redis.RedisError):
        transport.publish()
        return True
    return False


async def hear_past(transport: ThroughRedis, reader: Reader, instant: Any) -> None:
    """Publishes and reads until every shard is confirmed after an instant."""
    confirmed: set[int] = set()
    while len(confirmed) < SHARDS:
        published(transport)
        try:
            event = await reader.next()
        except SourceUnavailableError:
            await reader.again()
            continue
        if isinstance(event, Began):
            confirmed = set()
        elif isinstance(event, Beat) and event.true_at > instant:
            confirmed.add(event.position.shard)


async def test_shards_on_several_nodes_are_one_feed(
    through_cluster: ThroughRedis, redis_cluster: RedisClusterServers
) -> None:
    """Tenants of every shard are told, each shard in its own order, and each of them beats."""
    assert len({redis_cluster.node_of(feed_key(shard)).port for shard in range(SHARDS)}) > 1
    through_cluster.publish()
    reader = Reader(through_cluster.feed())
    assert (await reader.began()).shards == SHARDS
    for tenant in TENANTS:
        through_cluster.store.change(tenant)
    committed = through_cluster.store.now()

    await hear_past(through_cluster, reader, committed)

    told = [event for event in reader.heard if isinstance(event, Changed)]
    assert {event.tenant_id for event in told} == set(TENANTS)
    for shard in range(SHARDS):
        numbers = [event.position.sequence for event in told if event.position.shard == shard]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for tenant in TENANTS:
        fetched = await through_cluster.source().snapshot(tenant)
        assert fetched is not None
        assert fetched.snapshot.version == 1


async def test_publishers_at_once_agree_in_a_cluster(
    through_cluster: ThroughRedis, store: Store, stack: AsyncExitStack
) -> None:
    """Two publishers: nothing is lost, and they do not take the feed from each other again and again."""
    other = ThroughRedis(store, through_cluster.target, stack)
    through_cluster.publish()
    before = [through_cluster.writer.state(shard).epoch for shard in range(SHARDS)]
    done = threading.Event()

    def publish() -> None:
        while not done.is_set():
            other.publish()

    second = threading.Thread(target=publish)
    second.start()
    try:
        for tenant in TENANTS:
            store.change(tenant)
            through_cluster.publish()
    finally:
        done.set()
        second.join(30)
    through_cluster.publish()

    assert [through_cluster.writer.state(shard).epoch for shard in range(SHARDS)] == before
    for tenant in TENANTS:
        assert through_cluster.redis.hget(snapshot_key(tenant), "version") == b"1"


async def test_what_does_not_fit_is_found_and_strangers_are_removed_in_a_cluster(
    through_cluster: ThroughRedis, store: Store
) -> None:
    """The commands that look at all of Redis look at every node."""
    for tenant in TENANTS:
        store.change(tenant)
    through_cluster.publish()
    for tenant in (*TENANTS[:2], "stranger-1", "stranger-2", "stranger-3"):
        through_cluster.redis.hset(snapshot_key(tenant), "envelope", b"scribble")

    found = Verification(store.database, store.ring, through_cluster.redis).tenants("", 100)

    assert {fault.tenant_id for fault in found.faults} == set(TENANTS[:2])
    assert remove_strangers(store.database, through_cluster.redis) == 3


async def test_a_replica_takes_over_and_nothing_is_lost(
    own_cluster: RedisClusterServers, store: Store, stack: AsyncExitStack
) -> None:
    """Given a node that dies with what it had told nobody, then everything is written and told again.

    The value lies on another node than the feed that told of it: the feed alone would show nothing.
    """
    transport = ThroughRedis(store, own_cluster.url, stack)
    for tenant in TENANTS:
        store.change(tenant)
    transport.publish()
    reader = Reader(transport.feed())
    await reader.began()
    lost = next(t for t in TENANTS if own_cluster.node_of(snapshot_key(t)) is own_cluster.primaries[2])
    older = store.envelope(lost)
    store.change(lost)
    await hear_past(transport, reader, store.now())

    own_cluster.primaries[2].stop()
    heir = own_cluster.nodes[5]
    until(lambda: is_primary(own_cluster, heir), "the replica to take over", 60)
    # As if it had not had the last write of the one that died.
    own_cluster.tell(heir, "HSET", snapshot_key(lost), "version", 1, "envelope", older)
    beginnings = sum(isinstance(event, Began) for event in reader.heard)
    version = store.change(TENANTS[0])
    await hear_past(transport, reader, store.now())

    assert sum(isinstance(event, Began) for event in reader.heard) > beginnings
    source = transport.source()
    for tenant, expected in ((lost, 2), (TENANTS[0], version)):
        fetched = await source.snapshot(tenant)
        assert fetched is not None
        assert fetched.snapshot.version >= expected


def is_primary(servers: RedisClusterServers, node: RedisServer) -> bool:
    """Whether the node serves slots, and the cluster is whole."""
    roles: bytes = servers.tell(node, "INFO", "replication")
    return b"role:master" in roles and b"cluster_state:ok" in servers.tell(node, "CLUSTER", "INFO")


async def test_a_node_that_comes_back_empty_is_refilled(
    own_cluster: RedisClusterServers, store: Store, stack: AsyncExitStack
) -> None:
    """Given a node that was started again before anybody took over, then its part is written again."""
    transport = ThroughRedis(store, own_cluster.url, stack)
    for tenant in TENANTS:
        store.change(tenant)
    transport.publish()
    reader = Reader(transport.feed())
    await reader.began()
    own_cluster.nodes[3].stop()

    own_cluster.primaries[0].stop()
    own_cluster.primaries[0].start()
    await hear_past(transport, reader, store.now())

    for tenant in TENANTS:
        assert transport.redis.hget(snapshot_key(tenant), "version") == b"1"
