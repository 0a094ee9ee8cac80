"""The feed in Redis: one stream of changes and one of heartbeats per shard (DESIGN 6).

Entries carry (epoch, contiguous sequence). A gap, a regression or another epoch means that something may have
been missed: the feed begins again, and everything held is revalidated. A heartbeat is passed on only when its
shard has been read up to its sequence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import cast

import msgspec

from entitlement_sidecar.domain.errors import EntitlementsError, SourceUnavailableError
from entitlement_sidecar.sidecar.adapters.redis_client import AWAY, connect, told
from entitlement_sidecar.sidecar.adapters.redis_reads import BLOCK_MS, Found, reads_of
from entitlement_sidecar.sidecar.adapters.redis_snapshots import RedisSnapshots
from entitlement_sidecar.sidecar.adapters.verification import counted_refusals
from entitlement_sidecar.sidecar.snapshots.ports import (
    Beat,
    Began,
    CatalogueChanged,
    Changed,
    FeedEvent,
    Position,
)
from entitlement_sidecar.wire.envelopes import HeartbeatValue, open_heartbeat
from entitlement_sidecar.wire.redis_keys import feed_key, feed_state_key, heartbeat_key
from entitlement_sidecar.wire.redis_target import RedisTarget
from entitlement_sidecar.wire.signing import BadSignatureError, KeyRing

SOCKET_TIMEOUT = 2 * BLOCK_MS / 1000
"""Seconds after which a connection without an answer is dead; longer than a read may wait."""

SILENCE = 3.0
"""Seconds without a heartbeat after which a shard is looked at: beats come each second."""

REMEMBERED = 1000
"""Entries of a shard that are known again when they come again; one from before them is a lost place."""

KEYS_EVERY = 1.0
"""Seconds at least between two questions for keys: what is signed by nobody must not become many calls."""

_Fields = dict[bytes, bytes]


class _Shard(msgspec.Struct):
    """Where one shard has been read to."""

    number: int
    position: Position
    feed_id: bytes
    beat_id: bytes
    heard_at: float
    began_at: int
    read: dict[int, _Entry] = msgspec.field(default_factory=dict)
    waiting: HeartbeatValue | None = None


class _Entry(msgspec.Struct, frozen=True):
    """One entry of a stream. KeyError and ValueError tell that something else lies there."""

    epoch: str
    sequence: int
    kind: str
    tenant_id: str
    version: int

    @classmethod
    def parse(cls, fields: _Fields) -> _Entry:
        return cls(
            fields[b"epoch"].decode(),
            int(fields[b"sequence"]),
            fields[b"kind"].decode(),
            fields[b"tenant"].decode(),
            int(fields[b"version"]),
        )


class _LostPlaceError(Exception):
    """The shard does not continue where it was read to."""


class RedisFeed:
    """All shards as one feed. Resumes from its own cursor."""

    def __init__(
        self, target: RedisTarget, keyring: KeyRing, learn_keys: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`learn_keys` asks the plan store for its keys: Redis' own word on them would be worth nothing."""
        self._redis = connect(target, SOCKET_TIMEOUT)
        self._reads = reads_of(self._redis)
        self._keyring = keyring
        self._learn_keys = learn_keys
        self._keys_wanted = False
        self._keys_asked_at = -KEYS_EVERY
        self._catalogue = RedisSnapshots(self._redis, keyring, patience=SOCKET_TIMEOUT)
        self._shards: dict[int, _Shard] = {}

    async def aclose(self) -> None:
        """Closes the connection."""
        await self._redis.aclose()

    async def events(self) -> AsyncIterator[FeedEvent]:
        """Changes and beats; see `Feed`."""
        try:
            await self._learn()
            if not self._shards:
                yield await self._begin()
            while True:
                try:
                    for event in self._read(await self._reads.next(self._cursors())):
                        yield event
                    await self._learn()
                    await self._look_after_the_silent()
                except _LostPlaceError:
                    yield await self._begin()
        except AWAY as error:
            await self._reads.forget()
            # The others are as likely dead, and a cluster or its sentinels may name other servers by now.
            with suppress(*AWAY):
                await self._redis.aclose()
            raise SourceUnavailableError(told(error)) from error
        finally:
            await self._reads.forget()

    async def _begin(self) -> Began:
        """Takes the place of every shard before anything held is revalidated."""
        await self._reads.forget()
        self._shards = {}
        try:
            document = await self._catalogue.catalogue()
        except BadSignatureError as error:
            self._refused(error)
            raise
        if document is None:
            raise SourceUnavailableError("Redis holds no catalogue: has the plan store published to it?")
        shards = {n: await self._place(n) for n in range(document.feed_shards)}
        self._shards = shards
        return Began(shards[0].position, len(shards))

    def _refused(self, error: BadSignatureError) -> None:
        # The signer may have another key by now.
        self._keys_wanted = self._keys_wanted or error.cause == "unknown_key"

    async def _learn(self) -> None:
        if not self._keys_wanted or self._learn_keys is None:
            return
        if self._now() - self._keys_asked_at >= KEYS_EVERY:
            self._keys_wanted, self._keys_asked_at = False, self._now()
            with suppress(EntitlementsError):
                await self._learn_keys()

    async def _place(self, number: int) -> _Shard:
        feed_id = await self._last_id(feed_key(number))
        # The state is read after the stream's end: what lies between is read again, which does no harm.
        state = cast(
            "list[bytes | None]",
            await self._redis.hmget(feed_state_key(number), ["epoch", "sequence"]),
        )
        if state[0] is None or state[1] is None:
            raise SourceUnavailableError(f"shard {number} of the feed in Redis has not begun")
        try:
            position = Position(number, state[0].decode(), int(state[1]))
        except ValueError as error:
            raise SourceUnavailableError(f"shard {number} of the feed in Redis is damaged") from error
        beat_id = await self._last_id(heartbeat_key(number))
        return _Shard(number, position, feed_id, beat_id, self._now(), position.sequence)

    async def _look_after_the_silent(self) -> None:
        """A stream made anew may have smaller ids than what was read of the old one: nothing would come."""
        for shard in self._shards.values():
            if self._now() - shard.heard_at < SILENCE:
                continue
            shard.heard_at = self._now()
            there = await self._place(shard.number)
            if (
                there.position.epoch != shard.position.epoch
                or there.position.sequence < shard.position.sequence
                or _order(there.feed_id) < _order(shard.feed_id)
                or _order(there.beat_id) < _order(shard.beat_id)
            ):
                raise _LostPlaceError

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _last_id(self, key: str) -> bytes:
        entries = cast("list[tuple[bytes, _Fields]]", await self._redis.xrevrange(key, count=1))
        return entries[0][0] if entries else b"0-0"

    def _cursors(self) -> dict[int, tuple[bytes, bytes]]:
        return {shard.number: (shard.feed_id, shard.beat_id) for shard in self._shards.values()}

    def _read(self, found: dict[int, Found]) -> Iterator[FeedEvent]:
        for number, (entries, beats) in found.items():
            shard = self._shards[number]
            if shard.waiting is not None and not entries:
                # What an earlier beat speaks of was appended before it, and is not there.
                raise _LostPlaceError
            for entry_id, fields in entries:
                shard.feed_id = entry_id
                yield from self._change(shard, fields)
            for entry_id, fields in beats:
                shard.beat_id, shard.heard_at = entry_id, self._now()
                self._hear(shard, fields)
            yield from self._beat(shard)

    def _change(self, shard: _Shard, fields: _Fields) -> Iterator[FeedEvent]:
        try:
            entry = _Entry.parse(fields)
        except (KeyError, ValueError) as error:
            raise _LostPlaceError from error
        position = Position(shard.number, entry.epoch, entry.sequence)
        if position.epoch == shard.position.epoch and position.sequence <= shard.position.sequence:
            if position.sequence > shard.began_at and shard.read.get(position.sequence) != entry:
                # Another entry in the place of one that was read: one of them is not the publisher's.
                raise _LostPlaceError
            return
        if position != Position(shard.number, shard.position.epoch, shard.position.sequence + 1):
            raise _LostPlaceError
        shard.position = position
        shard.read[position.sequence] = entry
        shard.read.pop(position.sequence - REMEMBERED, None)
        if entry.kind == "catalogue":
            yield CatalogueChanged(position, entry.version)
        else:
            yield Changed(position, entry.tenant_id, entry.version)

    def _hear(self, shard: _Shard, fields: _Fields) -> None:
        try:
            with counted_refusals("redis"):
                beat = open_heartbeat(self._keyring, fields.get(b"envelope", b""))
        except BadSignatureError as error:
            self._refused(error)
            return
        if beat.shard == shard.number:
            shard.waiting = beat

    def _beat(self, shard: _Shard) -> Iterator[FeedEvent]:
        beat = shard.waiting
        if beat is None:
            return
        if beat.epoch != shard.position.epoch:
            raise _LostPlaceError
        if beat.sequence <= shard.position.sequence:
            shard.waiting = None
            yield Beat(Position(shard.number, beat.epoch, beat.sequence), beat.true_at)


def _order(entry_id: bytes) -> tuple[int, int]:
    """An entry's id, to compare."""
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)
