"""How the streams of all shards are read: by one call where one server has them all, else by one for each.

In a cluster every shard lies on a node of its own choosing, and no call may name keys of two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol, cast

from redis.asyncio import RedisCluster

from entitlement_sidecar.sidecar.adapters.redis_client import RedisClient
from entitlement_sidecar.wire.redis_keys import feed_key, heartbeat_key

BLOCK_MS = 1500
"""Milliseconds that a read waits for entries; heartbeats come each second."""

COUNT = 500
"""Entries of one stream read at once."""

Entries = list[tuple[bytes, dict[bytes, bytes]]]
Found = tuple[Entries, Entries]
"""What was read of one shard: changes and heartbeats."""

Cursors = Mapping[int, tuple[bytes, bytes]]
"""By shard, the last entries that were read of both."""


class Reads(Protocol):
    """Reads what comes after cursors."""

    async def next(self, cursors: Cursors) -> dict[int, Found]:
        """What came of those shards that were read; the others are being read still.

        Waits for entries for `BLOCK_MS`. What it tells of a shard has to be taken before it is called again.
        """
        ...

    async def forget(self) -> None:
        """Ends what is being read: the cursors are others now."""
        ...


def reads_of(redis: RedisClient) -> Reads:
    """How to read there."""
    return _OneByOne(redis) if isinstance(redis, RedisCluster) else _Together(redis)


class _Together:
    """All shards in one call."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def next(self, cursors: Cursors) -> dict[int, Found]:
        return await _read(self._redis, cursors)

    async def forget(self) -> None:
        pass


class _OneByOne:
    """Each shard in a call of its own, all of them at once."""

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis
        self._reading: dict[int, asyncio.Task[dict[int, Found]]] = {}

    async def next(self, cursors: Cursors) -> dict[int, Found]:
        for shard in cursors.keys() - self._reading.keys():
            one = {shard: cursors[shard]}
            self._reading[shard] = asyncio.create_task(self._read(one))
        done, _ = await asyncio.wait(self._reading.values(), return_when=asyncio.FIRST_COMPLETED)
        found: dict[int, Found] = {}
        for shard in [shard for shard, task in self._reading.items() if task in done]:
            found |= self._reading.pop(shard).result()
        return found

    async def _read(self, cursors: Cursors) -> dict[int, Found]:
        await self._redis.initialize()
        [shard] = cursors
        # Named, because the client would ask another node, perhaps one that is away, which keys it has.
        node = self._redis.get_node_from_key(feed_key(shard))
        return await _read(self._redis, cursors, target_nodes=node)

    async def forget(self) -> None:
        reading = list(self._reading.values())
        self._reading.clear()
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def _read(redis: RedisClient, cursors: Cursors, **where: Any) -> dict[int, Found]:  # noqa: ANN401 - the node
    keys = [key for shard in cursors for key in (feed_key(shard), heartbeat_key(shard))]
    places = [place for both in cursors.values() for place in both]
    streams: list[str | bytes] = ["STREAMS", *keys, *places]
    answer: Any = await redis.execute_command("XREAD", "COUNT", COUNT, "BLOCK", BLOCK_MS, *streams, **where)
    pairs = answer.items() if isinstance(answer, dict) else answer or ()
    held = {key: _flat(entries) for key, entries in pairs}
    return {
        shard: (held.get(feed_key(shard).encode(), []), held.get(heartbeat_key(shard).encode(), []))
        for shard in cursors
    }


def _flat(entries: list[Any]) -> Entries:
    """Entries as (id, fields), whichever protocol version the client speaks."""
    nested = bool(entries) and isinstance(entries[0], list)
    return cast("Entries", entries[0] if nested else entries)
