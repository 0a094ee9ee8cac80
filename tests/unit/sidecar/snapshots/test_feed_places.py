"""Entries of the feed in Redis that come again: harmless when they are the same, a lost place otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from entitlement_sidecar.sidecar.adapters.redis_feed import RedisFeed
from entitlement_sidecar.sidecar.snapshots.ports import Began, Changed
from entitlement_sidecar.testing.builders import document
from entitlement_sidecar.wire.envelopes import seal_catalogue
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY, feed_key, feed_state_key
from entitlement_sidecar.wire.redis_target import redis_target
from entitlement_sidecar.wire.signing import KeyRing, SigningKey

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
KEY = SigningKey.generate()


class Stream:
    """A feed in Redis, and who reads it."""

    def __init__(self, redis: Any, feed: RedisFeed) -> None:
        self._redis = redis
        self._events = feed.events()

    async def append(self, sequence: int, tenant: str, version: int) -> None:
        """One entry, and the state after it."""
        entry = {"epoch": "epoch", "sequence": sequence, "kind": "snapshot", "tenant": tenant}
        await self._redis.xadd(feed_key(0), {**entry, "version": version})
        await self._redis.hset(feed_state_key(0), "sequence", sequence)

    async def next(self) -> Any:
        """The next event."""
        async with asyncio.timeout(10):
            return await anext(self._events)


@pytest.fixture
async def stream(redis_db: str) -> AsyncIterator[Stream]:
    """A feed that has begun and told of one change."""
    redis: Any = Redis.from_url(redis_db)
    feed = RedisFeed(redis_target(redis_db), KeyRing({KEY.key_id: KEY.public_bytes}))
    await redis.hset(CATALOGUE_KEY, "envelope", seal_catalogue(KEY, document(), NOW))
    await redis.hset(feed_state_key(0), mapping={"epoch": "epoch", "sequence": 0})
    stream = Stream(redis, feed)
    try:
        assert isinstance(await stream.next(), Began)
        await stream.append(1, "acme", 2)
        assert isinstance(await stream.next(), Changed)
        yield stream
    finally:
        await feed.aclose()
        await redis.aclose()


async def test_an_entry_that_comes_again_is_passed_over(stream: Stream) -> None:
    """A publisher may have appended it twice."""
    await stream.append(1, "acme", 2)
    await stream.append(2, "other", 1)
    event = await stream.next()
    assert (event.tenant_id, event.version) == ("other", 1)


@pytest.mark.parametrize(("tenant", "version"), [("acme", 3), ("other", 2)])
async def test_another_entry_in_the_same_place_begins_the_feed_anew(
    stream: Stream, tenant: str, version: int
) -> None:
    """One of the two hid a change."""
    await stream.append(1, tenant, version)
    assert isinstance(await stream.next(), Began)
