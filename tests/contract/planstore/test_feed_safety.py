"""No change is lost between the database and Redis, whatever is trimmed and whoever publishes."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import redis
from sqlalchemy import func, select

from entitlement_sidecar.planstore.db import Database, RedisFeedStateRow, SnapshotOutboxRow
from entitlement_sidecar.planstore.snapshots import feed
from entitlement_sidecar.planstore.snapshots.feed import Sequencer
from entitlement_sidecar.wire.envelopes import open_snapshot
from entitlement_sidecar.wire.redis_keys import snapshot_key
from support.transports import Store, ThroughRedis


def kept(database: Database) -> list[int]:
    """Sequences that are kept, in order."""
    with database.reading() as session:
        found = session.scalars(
            select(SnapshotOutboxRow.feed_sequence).order_by(SnapshotOutboxRow.feed_sequence)
        )
        return [number for number in found.all() if number is not None]


def held(url: str, store: Store, tenant: str = "acme") -> int:
    """The version that Redis holds of a tenant."""
    with redis.Redis.from_url(url) as client:
        envelope = client.hget(snapshot_key(tenant), "envelope")
    assert isinstance(envelope, bytes)
    return open_snapshot(store.ring, envelope, tenant).version


async def test_what_redis_does_not_have_is_not_trimmed(database: Database, redis_db: str) -> None:
    """While Redis is away any number of later changes leaves the first one where it will be published."""
    store = Store(database)
    async with AsyncExitStack() as stack:
        through = ThroughRedis(store, redis_db, stack)
        through.publish()
        for number in range(6):
            store.change(f"tenant-{number}")
        sequencer = Sequencer(database)
        last = sequencer.drain().sequence

        assert sequencer.trim(retained=1, for_redis=True) == 1
        through.publish()

        assert kept(database) == list(range(2, last + 1))
        assert [held(redis_db, store, f"tenant-{number}") for number in range(6)] == [1] * 6
        assert sequencer.trim(retained=1, for_redis=True) == last - 2


async def test_trimming_without_redis_makes_a_later_publisher_refill(
    database: Database, redis_db: str
) -> None:
    """A plan store that ran without Redis for long leaves nothing old in the Redis that it returns to."""
    store = Store(database)
    async with AsyncExitStack() as stack:
        through = ThroughRedis(store, redis_db, stack)
        store.change()
        through.publish()
        store.change()
        for number in range(6):
            store.change(f"tenant-{number}")
        sequencer = Sequencer(database)
        sequencer.drain()

        sequencer.trim(retained=1)
        through.publish()

        assert held(redis_db, store) == 2


def test_trimming_what_redis_has_keeps_its_feed(database: Database) -> None:
    """Where all was published, trimming begins no feed anew."""
    store = Store(database)
    with database.writing() as session:
        session.add(RedisFeedStateRow(shard=0, epoch="e", sequence=1))
        session.query(SnapshotOutboxRow).update({"published_at": store.clock.now()})
    sequencer = Sequencer(database)
    sequencer.drain()

    assert sequencer.trim(retained=0) == 1

    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(RedisFeedStateRow)) == 1


def test_trims_go_in_steps(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of old changes goes, a bounded number in each transaction."""
    monkeypatch.setattr(feed, "_TRIMMED_AT_ONCE", 1)
    store = Store(database)
    for _ in range(6):
        store.change()
    sequencer = Sequencer(database)
    sequencer.drain()

    assert sequencer.trim(retained=2) == 5
    assert kept(database) == [6, 7]
