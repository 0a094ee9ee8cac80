"""What is not what the plan store signed is refused and counted; the last good snapshot stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from entitlement_sidecar.domain.clock import SystemClock
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.planstore.snapshots.redis_feed import FeedEntry, FeedLostError, ShardState
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import Beat, Began, Changed, SnapshotSource
from entitlement_sidecar.sidecar.snapshots.store import SnapshotStore
from entitlement_sidecar.wire.envelopes import open_snapshot, seal_snapshot
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY, heartbeat_key, snapshot_key
from entitlement_sidecar.wire.signing import KeyRing, SigningKey
from entitlement_sidecar.wire.v1 import snapshot_pb2
from support.transports import ByWatching, Reader, Store, ThroughRedis, Transport, refused


def tampered(store: Store) -> bytes:
    """A payload that was changed after signing."""
    envelope = snapshot_pb2.SignedEnvelope.FromString(store.envelope())
    snapshot = snapshot_pb2.Snapshot.FromString(envelope.payload)
    snapshot.catalogue_version += 1
    envelope.payload = snapshot.SerializeToString()
    return envelope.SerializeToString()


def forged(store: Store) -> bytes:
    """Signed by a key that nobody trusts."""
    return seal_snapshot(SigningKey.generate(), open_snapshot(store.ring, store.envelope(), "acme"))


def forged_under_a_trusted_name(store: Store) -> bytes:
    """Signed by another key under the trusted one's id."""
    envelope = snapshot_pb2.SignedEnvelope.FromString(forged(store))
    envelope.key_id = store.key.key_id
    return envelope.SerializeToString()


def anothers(store: Store) -> bytes:
    """Truly signed, for another tenant."""
    store.change("another")
    return store.envelope("another")


def renumbered(store: Store) -> bytes:
    """Truly signed, under a newer version."""
    envelope = snapshot_pb2.SignedEnvelope.FromString(store.envelope())
    envelope.version += 1
    return envelope.SerializeToString()


FORGERIES = [
    (tampered, "signature"),
    (forged, "unknown_key"),
    (forged_under_a_trusted_name, "signature"),
    (anothers, "misplaced"),
    (renumbered, "signature"),
]


async def holding(source: SnapshotSource) -> tuple[SnapshotStore, Loader]:
    """A sidecar's memory that holds the tenant from a source."""
    memory = SnapshotStore()
    loader = Loader(memory, [source], SystemClock())
    assert await loader.load("acme") is not None
    return memory, loader


@pytest.mark.parametrize(("forge", "cause"), FORGERIES)
async def test_a_forgery_is_refused_and_counted(
    transport: Transport, forge: Callable[[Store], bytes], cause: str
) -> None:
    """The source is unavailable, the cause is counted, and what was held stays."""
    transport.store.change()
    transport.publish()
    source = transport.source()
    memory, loader = await holding(source)
    before = refused(cause)

    transport.replace(forge(transport.store))

    with pytest.raises(SourceUnavailableError):
        await source.snapshot("acme")
    assert refused(cause) == before + 1
    await loader.load("acme", 2)
    held = memory.get("acme")
    assert held is not None
    assert held.snapshot.version == 1


@pytest.mark.parametrize(
    ("envelope", "cause"),
    [(b"\xff" * 40, "garbage"), (b"text", "garbage"), (b"x" * (64 << 20), "too_large")],
    ids=["garbage", "text", "64 MiB"],
)
async def test_garbage_in_redis_is_refused_and_counted(
    through_redis: ThroughRedis, envelope: bytes, cause: str
) -> None:
    """Neither what is no envelope nor what is too large to be one is taken for a snapshot."""
    through_redis.store.change()
    through_redis.publish()
    source = through_redis.source()
    memory, loader = await holding(source)
    before = refused(cause)

    through_redis.replace(envelope)

    with pytest.raises(SourceUnavailableError):
        await source.snapshot("acme")
    assert refused(cause) == before + 1
    await loader.load("acme", 2)
    assert memory.get("acme") is not None


async def test_garbage_in_the_database_is_unavailable(by_watching: ByWatching) -> None:
    """A row that is damaged answers as a plan store that is away, not as an unknown tenant."""
    by_watching.store.change()
    by_watching.store.replace(b"\xff" * 40)

    with pytest.raises(SourceUnavailableError):
        await by_watching.source().snapshot("acme")


async def test_a_snapshot_of_another_type_is_unavailable(through_redis: ThroughRedis) -> None:
    """A key of another type is not a snapshot."""
    through_redis.redis.set(snapshot_key("acme"), "x")

    with pytest.raises(SourceUnavailableError):
        await through_redis.source().snapshot("acme")


async def test_an_empty_value_is_none(through_redis: ThroughRedis) -> None:
    """An empty envelope is as good as none: the next source is asked."""
    through_redis.replace(b"")

    assert await through_redis.source().snapshot("acme") is None


async def test_a_rolled_back_snapshot_lands_over_nothing(transport: Transport) -> None:
    """An older truth does not replace a newer one; where a cache tells it, it is counted."""
    transport.store.change()
    old = transport.store.envelope()
    transport.store.change()
    transport.publish()
    source = transport.source()
    memory, loader = await holding(source)

    before = refused("rolled_back")
    transport.replace(old)

    held = await loader.load("acme", 2)
    assert held is not None
    assert held.snapshot.version == 2
    assert memory.get("acme") is held
    # The plan store knows by itself that it has no such version.
    assert refused("rolled_back") == before + isinstance(transport, ThroughRedis)


async def test_a_catalogue_that_was_forged_begins_no_feed(through_redis: ThroughRedis) -> None:
    """A feed needs the catalogue, to know its shards: a forged one is unavailable, and counted."""
    through_redis.publish()
    before = refused("garbage")
    through_redis.redis.hset(CATALOGUE_KEY, "envelope", b"\xff")

    with pytest.raises(SourceUnavailableError):
        await Reader(through_redis.feed()).next()
    assert refused("garbage") == before + 1

    through_redis.publish()
    await Reader(through_redis.feed()).began()


async def test_forged_beats_confirm_nothing(through_redis: ThroughRedis) -> None:
    """A heartbeat that the plan store did not sign is counted and passed over."""
    through_redis.publish()
    reader = Reader(through_redis.feed())
    await reader.began()
    before = refused("misplaced")

    through_redis.store.change()
    through_redis.redis.xadd(heartbeat_key(0), {"envelope": through_redis.store.envelope()})
    instant = through_redis.store.now()
    through_redis.publish()
    beat = await reader.until(lambda e: isinstance(e, Beat))

    assert beat.true_at >= instant
    assert refused("misplaced") == before + 1


async def test_a_beat_of_another_shard_confirms_nothing(
    sqlite_database: Any, redis_db: str, stack: Any
) -> None:
    """Shards are confirmed each by their own beats."""
    transport = ThroughRedis(Store(sqlite_database, shards=2), redis_db, stack)
    transport.publish()
    reader = Reader(transport.feed())
    assert (await reader.began()).shards == 2
    entries: Any = transport.redis.xrevrange(heartbeat_key(1), count=1)
    transport.redis.xadd(heartbeat_key(0), entries[0][1])

    transport.publish()
    heard = [await reader.next(), await reader.next()]

    assert [event.position.shard for event in heard] == [0, 1]


async def test_an_entry_of_the_feed_that_was_forged_hides_no_change(by_watching: ByWatching) -> None:
    """A watcher that cannot trust an entry begins anew, so that what is held is revalidated."""
    store = by_watching.store
    store.change()
    reader = Reader(by_watching.feed())
    await reader.began()
    before = refused("signature")

    by_watching.cut()
    with pytest.raises(SourceUnavailableError):
        await reader.until(lambda _: False)
    store.change()
    newest = store.envelope()
    store.replace(tampered(store))
    await reader.again()
    with pytest.raises(SourceUnavailableError):
        await reader.until(lambda e: isinstance(e, Changed))
    store.replace(newest)
    await reader.again()

    assert refused("signature") == before + 1
    assert (await reader.began()).position.sequence == 3


async def test_the_publisher_corrects_a_newer_version_than_there_is(through_redis: ThroughRedis) -> None:
    """A forged newer version does not keep the true one out."""
    through_redis.store.change()
    through_redis.publish()
    through_redis.redis.hset(snapshot_key("acme"), mapping={"version": 10**9, "envelope": b"forged"})

    version = through_redis.store.change()
    through_redis.publish()

    fetched = await through_redis.source().snapshot("acme")
    assert fetched is not None
    assert fetched.snapshot.version == version


def test_an_older_version_never_lands_over_a_newer_one(through_redis: ThroughRedis) -> None:
    """A slow publisher's older envelope is refused by the script, which names what is held."""
    through_redis.store.change()
    old = through_redis.store.envelope()
    through_redis.store.change()
    through_redis.publish()
    key = snapshot_key("acme")

    assert through_redis.writer.put(key, 1, old) == "2"
    assert through_redis.redis.hget(key, "envelope") == through_redis.store.envelope()
    assert not through_redis.writer.put(key, 2, through_redis.store.envelope())


async def test_keys_come_from_the_plan_store_when_none_are_pinned(by_watching: ByWatching) -> None:
    """A ring that is not pinned trusts what the authenticated plan store signs with."""
    by_watching.store.change()
    ring = KeyRing()

    fetched = await by_watching.source(ring).snapshot("acme")

    assert fetched is not None
    assert fetched.true_at is not None
    assert len(ring) == 1
    await Reader(by_watching.feed(KeyRing())).until(lambda e: isinstance(e, Beat))


async def test_a_pinned_ring_trusts_no_other_key(by_watching: ByWatching) -> None:
    """Whatever the plan store says of its keys, a pinned ring stays as it is."""
    by_watching.store.change()
    other = SigningKey.generate()
    pinned = KeyRing({other.key_id: other.public_bytes}, pinned=True)
    before = refused("unknown_key")

    with pytest.raises(SourceUnavailableError):
        await by_watching.source(pinned).snapshot("acme")
    with pytest.raises(SourceUnavailableError):
        await by_watching.source(pinned).catalogue()
    with pytest.raises(SourceUnavailableError):
        await Reader(by_watching.feed(pinned)).until(lambda e: isinstance(e, Beat))

    assert len(pinned) == 1
    assert refused("unknown_key") == before + 3


async def test_a_new_key_is_learned_where_none_are_pinned(by_watching: ByWatching) -> None:
    """After the plan store changed its key, sources and feeds go on, and a change is not missed."""
    by_watching.store.change()
    ring = KeyRing()
    source, reader = by_watching.source(ring), Reader(by_watching.feed(ring))
    await reader.until(lambda e: isinstance(e, Beat))

    by_watching.store.sign_with(SigningKey.generate())
    by_watching.renew()
    by_watching.cut()
    version = by_watching.store.change()
    with pytest.raises(SourceUnavailableError):
        await reader.until(lambda _: False)
    heard = len(reader.heard)
    fetched = await source.snapshot("acme", version)
    await reader.again()
    await reader.until(lambda e: isinstance(e, Beat))

    assert fetched is not None
    assert fetched.snapshot.version == version
    assert any(isinstance(e, Changed) for e in reader.heard[heard:])


async def test_a_feed_learns_a_new_key_by_itself(by_watching: ByWatching) -> None:
    """A watcher whose entry was signed by a key that it does not know asks for keys, and begins anew."""
    reader = Reader(by_watching.feed(KeyRing()))
    await reader.until(lambda e: isinstance(e, Beat))

    by_watching.store.sign_with(SigningKey.generate())
    by_watching.renew()
    by_watching.cut()
    by_watching.store.change()
    heard = len(reader.heard)
    for _ in range(2):
        with pytest.raises(SourceUnavailableError):
            await reader.until(lambda _: False)
        await reader.again()
    await reader.until(lambda e: isinstance(e, Beat))

    assert isinstance(reader.heard[heard], Began)


def test_an_entry_for_another_feed_is_not_appended(through_redis: ThroughRedis) -> None:
    """The script refuses another epoch and a feed that is behind what the database has seen."""
    through_redis.publish()
    found = through_redis.writer.state(0)
    entry = FeedEntry("snapshot", "acme", 1)

    for recorded in (
        ShardState("another", 0),
        msgspec.structs.replace(found, sequence=found.sequence + 1),
    ):
        with pytest.raises(FeedLostError):
            through_redis.writer.append(0, recorded, entry)
    assert through_redis.writer.state(0) == found
