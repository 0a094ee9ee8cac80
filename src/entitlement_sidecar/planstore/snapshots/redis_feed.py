"""Redis as the publisher writes it: values, feeds and heartbeats. Every call touches one hash tag."""

from __future__ import annotations

import re
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

_SEQUENCE = re.compile(rb"[0-9]{1,15}")
"""More than a feed ever gets to, and as many digits as a script can count exactly."""


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
        return cast("bytes", held).decode()

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
        except redis.ResponseError:
            return ShardState()
        # The epoch is kept as it is, also when it is no text: beginning anew names what was found.
        found = (epoch or b"").decode(errors="surrogateescape")
        return ShardState(found, int(sequence) if sequence and _SEQUENCE.fullmatch(sequence) else -1)

    def server(self) -> str:
        """The run of the server: another one may have lost its last writes. '' where that is not told."""
        try:
            told = cast("dict[str, str]", self._client.info("server"))
        except redis.ResponseError:
            return ""
        return str(told.get("run_id", ""))

    def holds(self, key: str) -> bool:
        """Whether anything is there."""
        return bool(self._client.exists(key))

    def begin(self, shard: int, found: ShardState, epoch: str) -> bool:
        """Begins a new epoch, unless another publisher did since `found`."""
        keys = [feed_key(shard), heartbeat_key(shard), feed_state_key(shard)]
        expected = found.epoch.encode(errors="surrogateescape")
        return bool(self._begin(keys=keys, args=[expected, epoch]))

    def beat(self, shard: int, envelope: bytes) -> None:
        """Adds a heartbeat."""
        try:
            self._add_beat(heartbeat_key(shard), envelope)
        except redis.ResponseError:
            # Not a stream, or one whose ids are used up: what lies there is of no use to anyone.
            self._client.delete(heartbeat_key(shard))
            self._add_beat(heartbeat_key(shard), envelope)

    def _add_beat(self, key: str, envelope: bytes) -> None:
        self._client.xadd(key, {"envelope": envelope}, maxlen=BEATS_KEPT, approximate=True)
