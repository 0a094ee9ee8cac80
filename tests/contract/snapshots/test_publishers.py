"""The publisher: several at once, stopped halfway, and heartbeats that never say too much."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis
from sqlalchemy import func, select

from entitlement_sidecar.planstore.db import Database, RedisFeedStateRow, SnapshotOutboxRow
from entitlement_sidecar.planstore.snapshots.feed import FeedSignal, Sequencer
from entitlement_sidecar.planstore.snapshots.publisher import PASSED_BY, POLL, Publisher
from entitlement_sidecar.sidecar.snapshots.ports import Beat, Changed
from entitlement_sidecar.wire.envelopes import HeartbeatValue, open_heartbeat
from entitlement_sidecar.wire.redis_keys import feed_key, heartbeat_key, snapshot_key
from support.transports import Reader, Store, ThroughRedis
from support.waiting import until

TENANTS = [f"tenant-{number}" for number in range(6)]


def beats(transport: ThroughRedis) -> list[HeartbeatValue]:
    """Heartbeats in Redis, verified, oldest first."""
    entries: Any = transport.redis.xrange(heartbeat_key(0))
    return [open_heartbeat(transport.store.ring, fields[b"envelope"]) for _, fields in entries]


def entries(transport: ThroughRedis, shard: int = 0) -> list[dict[bytes, bytes]]:
    """Entries of a shard's feed, oldest first."""
    found: Any = transport.redis.xrange(feed_key(shard))
    return [fields for _, fields in found]


def waiting(database: Database) -> int:
    """How many changes are not published."""
    with database.reading() as session:
        unmarked = select(func.count()).where(SnapshotOutboxRow.published_at.is_(None))
        return session.scalar(unmarked) or 0


def at_once(*work: Callable[[], object]) -> None:
    """Runs all of it in threads that begin together."""
    together = threading.Barrier(len(work))

    def run(each: Callable[[], object]) -> object:
        together.wait(10)
        return each()

    with ThreadPoolExecutor(len(work)) as pool:
        for done in [pool.submit(run, each) for each in work]:
            done.result(60)


async def test_publishers_at_once_give_contiguous_sequences(
    database: Database, redis_db: str, stack: AsyncExitStack
) -> None:
    """Two publishers and two who commit: no gap, nothing twice, and the newest of each tenant in the end."""
    store = Store(database)
    replicas = [ThroughRedis(store, redis_db, stack) for _ in range(2)]
    replicas[0].publish()
    done = threading.Event()

    def commit() -> None:
        for round_ in range(5):
            for tenant in TENANTS[round_ % 2 :: 2]:
                store.change(tenant)

    def publish(replica: ThroughRedis) -> None:
        while not done.is_set() or waiting(database):
            replica.publish()

    def commit_then_finish() -> None:
        try:
            commit()
        finally:
            done.set()

    at_once(commit_then_finish, *(lambda replica=replica: publish(replica) for replica in replicas))

    feed = entries(replicas[0])
    assert len({fields[b"epoch"] for fields in feed}) == 1
    assert [int(fields[b"sequence"]) for fields in feed] == list(range(1, len(feed) + 1))
    state = replicas[0].writer.state(0)
    with database.reading() as session:
        recorded = session.get_one(RedisFeedStateRow, 0)
    assert (recorded.epoch, recorded.sequence) == (state.epoch, state.sequence)
    for tenant in TENANTS:
        told = [int(fields[b"version"]) for fields in feed if fields[b"tenant"] == tenant.encode()]
        assert max(told) == store.version(tenant)
        assert replicas[0].redis.hget(snapshot_key(tenant), "version") == str(max(told)).encode()


def test_sequencers_at_once_give_contiguous_sequences(database: Database) -> None:
    """Every change gets one number, without gaps, whoever numbers it."""
    store = Store(database)

    def number() -> None:
        for _ in range(10):
            Sequencer(database).drain()

    at_once(lambda: [store.change(tenant) for tenant in TENANTS * 2], number, number)
    place = Sequencer(database).drain()

    with database.reading() as session:
        given = session.scalars(select(SnapshotOutboxRow.feed_sequence)).all()
    assert sorted(number or 0 for number in given) == list(range(1, place.sequence + 1))
    assert place.sequence == 1 + 2 * len(TENANTS)


async def test_two_that_find_redis_empty_agree_on_one_epoch(
    database: Database, redis_db: str, stack: AsyncExitStack
) -> None:
    """Both refill; the feed ends in one epoch that the database knows, and beats."""
    store = Store(database)
    store.change()
    replicas = [ThroughRedis(store, redis_db, stack) for _ in range(2)]

    for _ in range(3):
        at_once(*(replica.publish for replica in replicas))

    state = replicas[0].writer.state(0)
    with database.reading() as session:
        recorded = session.get_one(RedisFeedStateRow, 0)
    assert recorded.epoch == state.epoch
    replicas[0].publish()
    assert beats(replicas[0])[-1].epoch == state.epoch


async def test_nothing_is_confirmed_while_a_change_waits(
    database: Database, redis_db: str, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between commit and publication no heartbeat says a later instant than the commit."""
    store = Store(database)
    transport = ThroughRedis(store, redis_db, stack)
    idle = ThroughRedis(store, redis_db, stack)
    transport.publish()
    arrived, go_on = threading.Event(), threading.Event()
    append = transport.writer.append

    def paused(*given: Any) -> int:
        arrived.set()
        assert go_on.wait(20)
        return append(*given)

    monkeypatch.setattr(transport.writer, "append", paused)
    before = store.now()
    version = store.change()
    publishing = threading.Thread(target=transport.publish)
    publishing.start()
    try:
        assert arrived.wait(20)
        # Another replica, which finds nothing that it could take, beats nothing either.
        if not database.is_sqlite:
            idle.publish()
        assert all(beat.true_at <= before for beat in beats(transport))
    finally:
        go_on.set()
        publishing.join()

    transport.publish()
    told = max(
        int(fields[b"sequence"]) for fields in entries(transport) if int(fields[b"version"]) == version
    )
    later = [beat for beat in beats(transport) if beat.true_at > before]
    assert later
    assert all(beat.sequence >= told for beat in later)


@pytest.mark.parametrize("step", ["put", "append", "beat"])
async def test_a_publisher_that_dies_halfway_is_taken_over(
    through_redis: ThroughRedis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever it had done, the next round publishes the change and then confirms it."""
    through_redis.publish()
    reader = Reader(through_redis.feed())
    await reader.began()
    version = through_redis.store.change()
    committed = through_redis.store.now()
    working = getattr(through_redis.writer, step)

    def dies(*given: Any) -> None:
        working(*given)
        raise redis.ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(through_redis.writer, step, dies)
        with pytest.raises(redis.ConnectionError):
            through_redis.publish()
    through_redis.publish()
    await reader.until(lambda e: isinstance(e, Beat) and e.true_at > committed)

    told = [e.version for e in reader.heard if isinstance(e, Changed)]
    assert set(told) == {version}


async def test_a_sidecar_hears_every_shard(
    sqlite_database: Database, redis_db: str, stack: AsyncExitStack
) -> None:
    """Tenants of every shard are told, each shard in its own contiguous order, and all of them beat."""
    transport = ThroughRedis(Store(sqlite_database, shards=3), redis_db, stack)
    transport.publish()
    reader = Reader(transport.feed())
    assert (await reader.began()).shards == 3
    for tenant in TENANTS:
        transport.store.change(tenant)
    committed = transport.store.now()
    transport.publish()

    confirmed: set[int] = set()
    while confirmed != {0, 1, 2}:
        beat = await reader.until(lambda e: isinstance(e, Beat) and e.true_at > committed)
        confirmed.add(beat.position.shard)

    told = [e for e in reader.heard if isinstance(e, Changed)]
    assert {e.tenant_id for e in told} == set(TENANTS)
    for shard in range(3):
        sequences = [e.position.sequence for e in told if e.position.shard == shard]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


async def test_the_publishers_threads_publish_when_told(through_redis: ThroughRedis) -> None:
    """Workers number, publish and announce what was committed, and end when they are stopped."""
    signal = FeedSignal()
    store = through_redis.store
    publisher = Publisher(store.database, signal, store.clock, through_redis.publisher)
    publisher.start()
    try:
        store.change()
        publisher.notify()
        until(lambda: not waiting(store.database), "the change to be published")
        signal.wait_past(1, 20.0, lambda: True)
    finally:
        publisher.stop()

    assert Sequencer(store.database).drain().sequence == 2
    assert through_redis.redis.hget(snapshot_key("acme"), "version") == b"1"


async def test_a_publisher_outlives_a_redis_that_is_away(
    store: Store, redis_server: Any, stack: AsyncExitStack
) -> None:
    """Its worker goes on trying, and publishes when Redis is back."""
    transport = ThroughRedis(store, redis_server.url, stack)
    redis_server.stop()
    publisher = Publisher(store.database, FeedSignal(), store.clock, transport.publisher)
    publisher.start()
    try:
        store.change()
        redis_server.start()
        until(lambda: not waiting(store.database), "the change to be published")
    finally:
        publisher.stop()

    assert transport.redis.hget(snapshot_key("acme"), "version") == b"1"


async def test_changes_that_somebody_else_has_locked_are_looked_at_again_at_once(
    postgres_database: Database, redis_db: str, stack: AsyncExitStack
) -> None:
    """The sequencer locks a new change for a moment: it is passed by, and wanted soon, not by polling."""
    store = Store(postgres_database)
    transport = ThroughRedis(store, redis_db, stack)
    transport.publish()
    store.change()

    with postgres_database.writing() as session:
        session.scalars(select(SnapshotOutboxRow).with_for_update()).all()
        after = transport.publisher.step()
    nothing_left = transport.publisher.step()

    assert after == PASSED_BY < POLL
    assert nothing_left is None
    assert waiting(postgres_database) == 0
