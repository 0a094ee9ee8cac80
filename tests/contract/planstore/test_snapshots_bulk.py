"""A change of everyone goes out at the pace of the publisher: single changes and heartbeats get through.

Two thousand tenants; `BULK_TENANTS=10000 pytest tests/contract/planstore/test_snapshots_bulk.py` for more.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from sqlalchemy import func, select

from entitlement_sidecar.domain.clock import SystemClock
from entitlement_sidecar.planstore.db import SnapshotOutboxRow
from entitlement_sidecar.planstore.snapshots import SignedSnapshots
from entitlement_sidecar.planstore.snapshots.bulk import BATCH, MAX_WAITING, PER_SECOND, Republisher
from entitlement_sidecar.planstore.snapshots.feed import FeedSignal
from entitlement_sidecar.planstore.snapshots.publisher import Publisher, RedisPublisher
from entitlement_sidecar.planstore.snapshots.redis_feed import RedisFeedWriter
from entitlement_sidecar.wire.envelopes import open_heartbeat
from entitlement_sidecar.wire.redis_keys import snapshot_key
from support.population import Population, name_of
from support.shop import Shop
from support.waiting import until

TENANTS = int(os.environ.get("BULK_TENANTS", "2000"))
SINGLES = 10


class _Recording(RedisFeedWriter):
    """Writes to Redis, and remembers where the feed was at each heartbeat."""

    def __init__(self, client: redis.Redis, shop: Shop) -> None:
        super().__init__(client)
        self._ring = shop.ring
        self.beats: list[int] = []

    def beat(self, shard: int, envelope: bytes) -> None:
        self.beats.append(open_heartbeat(self._ring, envelope).sequence)
        super().beat(shard, envelope)


def ahead(shop: Shop) -> int:
    """How many changes wait to be published: what one that is committed now comes after."""
    with shop.database.reading() as session:
        waiting = select(func.count()).where(SnapshotOutboxRow.published_at.is_(None))
        return session.scalar(waiting) or 0


@pytest.mark.timeout(120 + TENANTS // 20)
def test_a_single_change_gets_through_while_everyone_is_republished(shop: Shop, redis_db: str) -> None:
    """It comes after a bounded number of others, and heartbeats never are far apart."""
    population = Population(shop)
    population.grow(TENANTS)
    clock = SystemClock()
    with redis.Redis.from_url(redis_db) as client:
        writer = _Recording(client, shop)
        to_redis = RedisPublisher(shop.database, writer, shop.key, 1, clock)
        publisher = Publisher(shop.database, FeedSignal(), clock, to_redis)
        publisher.start()
        try:
            until(lambda: writer.beats and not ahead(shop), "everyone to be published", timeout=60)
            writer.beats.clear()
            _republish_with_singles(shop, client, publisher)
            until(lambda: not ahead(shop), "all to be published", timeout=60)
        finally:
            publisher.stop()

        assert [client.hget(snapshot_key(name_of(n)), "version") for n in (0, TENANTS - 1)] == [b"2", b"2"]
    told = [later - earlier for earlier, later in zip(writer.beats, writer.beats[1:], strict=False)]
    assert len(told) > 1
    # As many as come in the time after which sidecars call themselves stale.
    assert max(told) <= 3 * PER_SECOND


def _republish_with_singles(shop: Shop, client: Any, publisher: Publisher) -> None:
    clock = SystemClock()
    republisher = Republisher(shop.database, SignedSnapshots(shop.key, clock), clock, to_redis=True)
    over = threading.Event()

    def everyone() -> int:
        done, cursor = 0, None
        try:
            while True:
                page = republisher.some(cursor, 500)
                done += len(page.versions)
                cursor = page.cursor
                if cursor is None:
                    return done
        finally:
            over.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(everyone)
        for number in range(SINGLES):
            if over.is_set():
                break
            before = ahead(shop)
            shop.subscribe(f"single-{number}")
            publisher.notify()
            assert before <= MAX_WAITING + 2 * BATCH
            key = snapshot_key(f"single-{number}")
            until(lambda key=key: client.exists(key), "the single change")
        # Those that were made while it ran may have been met by it too.
        assert running.result() in range(TENANTS, TENANTS + SINGLES + 1)
