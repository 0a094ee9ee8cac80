"""Redis as the publisher writes it: values, feeds and heartbeats. Every call touches one hash tag."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
import redis

from entitlement_sidecar.wire.redis_keys import feed_key, feed_state_key, heartbeat_key

ENTRIES_KEPT = 100_000
"""About how many entries a shard's feed keeps for sidecars that come back."""

BEATS_KEPT = 16
"""About how many heartbeats a shard keeps: readers want only the newest."""

NEVER = ""
"""The epoch of a feed that was never begun."""


class ShardState(msgspec.Struct, frozen=True):
    """Where one shard's feed is."""

    epoch: str = NEVER
    sequence: int = 0

    def continues(self, recorded: ShardState) -> bool:
        """Whether this is the feed that was recorded, no further back than then."""
        return self.epoch != NEVER and self.epoch == recorded.epoch and self.sequence >= recorded.sequence


class FeedEntry(msgspec.Struct, frozen=True):
    """One change to append."""

    kind: str
    tenant_id: str
    version: int


class FeedLostError(Exception):
    """The feed in Redis is not the one that the database knows."""


class RedisFeedWriter:
    """Writes to Redis. All methods raise redis.RedisError when it is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._put, self._append, self._begin = (
            client.register_script(Path(__file__).with_name(name).read_text())
            for name in ("put_envelope.lua", "append_entry.lua", "begin_epoch.lua")
        )

    def put(self, key: str, version: int, envelope: bytes, instead_of: str = "") -> str:
        """Stores an envelope unless a newer version is held; returns that version then, else ''."""
        held = self._put(keys=[key], args=[version, envelope, instead_of])
        return cast("bytes", held).decode(errors="replace")

    def append(self, shard: int, recorded: ShardState, entry: FeedEntry) -> int:
        """Appends a change to the feed and returns its sequence.

        Raises:
            FeedLostError: The feed is not the recorded one.
        """
        sequence = self._append(
            keys=[feed_key(shard), feed_state_key(shard)],
            args=[
                recorded.epoch, recorded.sequence, ENTRIES_KEPT, entry.kind, entry.tenant_id, entry.version,
            ],
        )  # fmt: skip
        if cast("int", sequence) < 0:
            raise FeedLostError
        return cast("int", sequence)

    def state(self, shard: int) -> ShardState:
        """Where a shard's feed is; NEVER when it is missing or not a feed at all."""
        try:
            epoch, sequence = cast(
                "list[bytes | None]", self._client.hmget(feed_state_key(shard), ["epoch", "sequence"])
            )
            return ShardState((epoch or b"").decode(), int(sequence or b"-1"))
        except (redis.ResponseError, ValueError):
            return ShardState()

    def begin(self, shard: int, found: ShardState, epoch: str) -> bool:
        """Begins a new epoch, unless another publisher did since `found`."""
        keys = [feed_key(shard), heartbeat_key(shard), feed_state_key(shard)]
        return bool(self._begin(keys=keys, args=[found.epoch, epoch]))

    def beat(self, shard: int, envelope: bytes) -> None:
        """Adds a heartbeat."""
        self._client.xadd(heartbeat_key(shard), {"envelope": envelope}, maxlen=BEATS_KEPT, approximate=True)
