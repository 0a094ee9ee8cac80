"""Redis as the publisher writes it: values, feeds and heartbeats. Every call touches one hash tag."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import redis

from entitlement_sidecar.planstore.snapshots.redis_client import Cluster
from entitlement_sidecar.planstore.snapshots.redis_script import Script
from entitlement_sidecar.wire.redis_keys import REFILL_KEY, feed_key, feed_state_key, heartbeat_key

ENTRIES_KEPT = 100_000
"""About how many entries a shard's feed keeps for sidecars that come back."""

BEATS_KEPT = 16
"""About how many heartbeats a shard keeps: readers want only the newest."""

CLAIMED_FOR = 15
"""Seconds after which a publisher that refills, and is not heard of, has lost its turn."""

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
    """Writes to Redis. All methods raise redis.RedisError when it is away.

    In a cluster a snapshot may lie on another server than the feed that told of it, and a failover there may
    lose it without a trace in the feed. An epoch therefore belongs to the servers that it was begun on: once
    one of them is another, it does not continue, whatever its sequence says.
    """

    def __init__(self, client: redis.Redis | Cluster) -> None:
        self._client = client
        self._put, self._append, self._begin = (
            Script(client, Path(__file__).with_name(name))
            for name in ("put_envelope.lua", "append_entry.lua", "begin_epoch.lua")
        )

    def put(self, key: str, version: int, envelope: bytes, instead_of: str = "") -> str:
        """Stores an envelope unless a newer version is held; returns that version then, else ''."""
        held = self._put(keys=[key], args=[version, envelope, instead_of])
        return cast("bytes", held).decode()

    def put_many(self, values: Sequence[tuple[str, int, bytes]]) -> list[str]:
        """As `put` of each key, version and envelope; in few round trips where one server holds all keys."""
        if isinstance(self._client, Cluster) or not values:
            return [self.put(*value) for value in values]
        # Afterwards the server knows the script.
        first = self.put(*values[0])
        with self._client.pipeline(transaction=False) as pipeline:
            for key, version, envelope in values[1:]:
                self._put.queue(pipeline, [key], [version, envelope, ""])
            return [first, *(cast("bytes", held).decode() for held in pipeline.execute())]

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
        """Where a shard's feed is; NEVER when it is missing or not a feed at all.

        The sequence is -1 where it cannot go on: damaged, or begun on other servers of the cluster.
        """
        try:
            epoch, sequence, servers = cast(
                "list[bytes | None]",
                self._client.hmget(feed_state_key(shard), ["epoch", "sequence", "servers"]),
            )
        except redis.ResponseError:
            return ShardState()
        # The epoch is kept as it is, also when it is no text: beginning anew names what was found.
        found = (epoch or b"").decode(errors="surrogateescape")
        goes_on = sequence and _SEQUENCE.fullmatch(sequence) and (servers or b"") == self._servers().encode()
        return ShardState(found, int(sequence or b"") if goes_on else -1)

    def server(self) -> str:
        """The run of the server: another one may have lost its last writes. '' where that is not told.

        Of a cluster it is the runs of all primaries together.
        """
        if isinstance(self._client, Cluster):
            return self._servers()
        try:
            told = cast("dict[str, str]", self._client.info("server"))
        except redis.ResponseError:
            return ""
        return str(told.get("run_id", ""))

    def _servers(self) -> str:
        """The servers that an epoch is bound to: all of a cluster's. '' where one server holds everything."""
        return self._client.runs() if isinstance(self._client, Cluster) else ""

    def holds(self, key: str) -> bool:
        """Whether anything is there."""
        return bool(self._client.exists(key))

    def claim_refill(self, token: str) -> bool:
        """Takes the turn to write everything again. False: another publisher has it."""
        if self._client.set(REFILL_KEY, token, nx=True, ex=CLAIMED_FOR):
            return True
        if cast("int", self._client.ttl(REFILL_KEY)) < 0:
            # No publisher's: theirs end by themselves.
            self._client.delete(REFILL_KEY)
        return False

    def keep_claim(self, token: str) -> bool:
        """Has the turn last longer. False: it is gone, and what was written since may be gone with it."""
        try:
            held = cast("bytes | None", self._client.get(REFILL_KEY))
        except redis.ResponseError:
            return False
        return held == token.encode() and bool(self._client.expire(REFILL_KEY, CLAIMED_FOR))

    def release_claim(self, token: str) -> None:
        """Everything is written."""
        if self.keep_claim(token):
            self._client.delete(REFILL_KEY)

    def begin(self, shard: int, found: ShardState, epoch: str) -> bool:
        """Begins a new epoch, unless another publisher did since `found`."""
        keys = [feed_key(shard), heartbeat_key(shard), feed_state_key(shard)]
        expected = found.epoch.encode(errors="surrogateescape")
        return bool(self._begin(keys=keys, args=[expected, epoch, self._servers()]))

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
