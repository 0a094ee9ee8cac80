"""A feed whose signer changes its key goes on, and goes past nothing that it could not verify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc.aio
import pytest
from redis.asyncio import Redis

from entitlement_sidecar.sidecar.adapters.grpc_snapshots import PlanStoreFeed
from entitlement_sidecar.sidecar.adapters.redis_feed import RedisFeed
from entitlement_sidecar.sidecar.snapshots.follower import Follower
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import Beat, Began, FeedEvent, Position
from entitlement_sidecar.sidecar.snapshots.store import SnapshotStore
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import document, snapshot
from entitlement_sidecar.wire.envelopes import HeartbeatValue, seal_catalogue, seal_heartbeat, seal_snapshot
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY, feed_state_key, heartbeat_key
from entitlement_sidecar.wire.redis_target import redis_target
from entitlement_sidecar.wire.signing import BadSignatureError, KeyRing, SigningKey
from entitlement_sidecar.wire.v1 import snapshot_pb2

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
OLD, NEW = SigningKey.generate(), SigningKey.generate()


def beat(key: SigningKey) -> bytes:
    """A heartbeat at the place where the tests' feed stands."""
    return seal_heartbeat(key, HeartbeatValue("epoch", 0, 0, NOW))


async def test_an_entry_that_does_not_verify_is_not_passed() -> None:
    """The cursor is given up: the next message begins the feed anew, and all held is revalidated."""
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        feed = PlanStoreFeed(channel, KeyRing({OLD.key_id: OLD.public_bytes}, pinned=True), "token")
        message = snapshot_pb2.WatchSnapshotsResponse(epoch="epoch", sequence=1)
        feed._apply(message)
        changed = snapshot_pb2.WatchSnapshotsResponse(epoch="epoch", sequence=2)
        changed.snapshot.ParseFromString(seal_snapshot(NEW, snapshot("acme", version=2)))
        with pytest.raises(BadSignatureError):
            feed._apply(changed)
        after = snapshot_pb2.WatchSnapshotsResponse(epoch="epoch", sequence=2)
        assert isinstance(feed._apply(after)[0], Began)


async def test_a_feed_through_redis_asks_for_a_key_that_it_does_not_know(redis_db: str) -> None:
    """Beats of a new key are heard as soon as the plan store has named it, without any change."""
    ring = KeyRing({OLD.key_id: OLD.public_bytes})
    asked = 0

    async def learn() -> None:
        nonlocal asked
        asked += 1
        ring.learn({NEW.key_id: NEW.public_bytes})

    redis = Redis.from_url(redis_db)
    feed = RedisFeed(redis_target(redis_db), ring, learn)
    put: Any = redis.execute_command
    try:
        await put("HSET", CATALOGUE_KEY, "envelope", seal_catalogue(OLD, document(), NOW))
        await put("HSET", feed_state_key(0), "epoch", "epoch", "sequence", "0")
        events = feed.events()
        async with asyncio.timeout(10):
            assert isinstance(await anext(events), Began)
            await redis.xadd(heartbeat_key(0), {"envelope": beat(NEW)})
            heard = asyncio.ensure_future(anext(events))
            while not asked:
                await asyncio.sleep(0.01)
            await redis.xadd(heartbeat_key(0), {"envelope": beat(NEW)})
            assert isinstance(await heard, Beat)
        assert asked == 1
    finally:
        await feed.aclose()
        await redis.aclose()


class Flapping:
    """A feed that begins and is lost at once."""

    async def events(self) -> AsyncIterator[FeedEvent]:
        """One beginning."""
        yield Began(Position(0, "epoch", 0), 1)


async def test_a_feed_that_begins_in_vain_is_taken_up_ever_more_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a beat shows that it works: until then each pause may be longer than the one before."""
    store, clock = SnapshotStore(), FakeClock()
    follower = Follower(Flapping(), store, Loader(store, [], clock), Freshness(clock))
    attempts: list[int] = []

    def pause(state: object) -> float:
        attempts.append(state.attempt_number)  # type: ignore[attr-defined]  # tenacity's state
        return 0.0

    monkeypatch.setattr("entitlement_sidecar.sidecar.snapshots.follower._pause", pause)
    running = asyncio.create_task(follower.run())
    async with asyncio.timeout(10):
        while len(attempts) < 4:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert attempts[:4] == [1, 2, 3, 4]
