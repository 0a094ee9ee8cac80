"""Redis stopped, emptied, restored or scribbled on: it is refilled, and sidecars hear of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import redis

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.sidecar.adapters import redis_feed
from entitlement_sidecar.sidecar.snapshots.ports import Beat, Began, Changed
from entitlement_sidecar.wire.redis_keys import (
    CATALOGUE_KEY,
    feed_key,
    feed_state_key,
    heartbeat_key,
    snapshot_key,
)
from support.transports import Reader, Store, ThroughRedis, refused


def steps(transport: ThroughRedis, count: int = 3) -> None:
    """A few rounds of the publisher: one finds what is wrong, the next puts it right."""
    for _ in range(count):
        with suppress(redis.RedisError):
            transport.publish()


async def fresh_after_change(transport: ThroughRedis, reader: Reader) -> None:
    """A change is told and then confirmed, so the feed works."""
    version = transport.store.change()
    committed = transport.store.now()
    steps(transport)
    await reader.until(lambda e: isinstance(e, Changed | Began))
    while not await confirmed(reader, committed):
        transport.publish()
    fetched = await transport.source().snapshot("acme")
    assert fetched is not None
    assert fetched.snapshot.version == version


async def confirmed(reader: Reader, instant: Any) -> bool:
    """Whether the next event confirms what was committed before an instant."""
    event = await reader.next()
    return isinstance(event, Beat) and event.true_at > instant


async def test_a_redis_that_comes_back_empty_is_refilled(
    store: Store, redis_server: Any, stack: AsyncExitStack
) -> None:
    """Every snapshot and the catalogue are there again; the feed begins anew and beats."""
    transport = ThroughRedis(store, redis_server.url, stack)
    store.change("one")
    store.change("two")
    transport.publish()
    reader = Reader(transport.feed())
    first = await reader.began()

    redis_server.stop()
    with pytest.raises(redis.ConnectionError):
        transport.publish()
    with pytest.raises(SourceUnavailableError):
        await reader.until(lambda _: False)
    redis_server.start()
    steps(transport)
    await reader.again()
    second = await reader.began()

    assert second.position.epoch != first.position.epoch
    source = transport.source()
    assert await source.catalogue() is not None
    for tenant in ("one", "two"):
        fetched = await source.snapshot(tenant)
        assert fetched is not None
        assert fetched.snapshot.version == 1
    await fresh_after_change(transport, reader)


async def test_while_redis_is_empty_nothing_is_confirmed(
    store: Store, redis_server: Any, stack: AsyncExitStack
) -> None:
    """A feed on an empty Redis begins nowhere, and says so."""
    transport = ThroughRedis(store, redis_server.url, stack)

    with pytest.raises(SourceUnavailableError):
        await Reader(transport.feed()).next()
    assert await transport.source().snapshot("acme") is None


async def test_a_feed_that_went_back_begins_anew(through_redis: ThroughRedis) -> None:
    """An older state, as after restoring Redis, is noticed by the publisher and told to sidecars."""
    store = through_redis.store
    store.change()
    through_redis.publish()
    reader = Reader(through_redis.feed())
    first = await reader.began()

    through_redis.redis.hset(feed_state_key(0), "sequence", 0)
    steps(through_redis)

    assert (await reader.began()).position.epoch != first.position.epoch
    await fresh_after_change(through_redis, reader)


SCRIBBLES = {
    "state without a sequence": lambda r: r.hdel(feed_state_key(0), "sequence"),
    "sequence is no number": lambda r: r.hset(feed_state_key(0), "sequence", "many"),
    "sequence with a blank": lambda r: r.hset(feed_state_key(0), "sequence", " 7"),
    "sequence at the end of numbers": lambda r: r.hset(feed_state_key(0), "sequence", 2**63 - 1),
    "sequence of many digits": lambda r: r.hset(feed_state_key(0), "sequence", "9" * 5000),
    "epoch is no text": lambda r: r.hset(feed_state_key(0), "epoch", b"\xff\xfe"),
    "state of another type": lambda r: r.delete(feed_state_key(0)) and r.set(feed_state_key(0), "x"),
    "feed of another type": lambda r: r.delete(feed_key(0)) and r.set(feed_key(0), "x"),
    "feed at the end of its ids": lambda r: r.xadd(
        feed_key(0), {"x": "y"}, id=f"{2**64 - 1}-{2**64 - 1}"
    ),
    "heartbeats of another type": lambda r: r.delete(heartbeat_key(0)) and r.set(heartbeat_key(0), "x"),
    "heartbeats at the end of their ids": lambda r: r.xadd(
        heartbeat_key(0), {"x": "y"}, id=f"{2**64 - 1}-{2**64 - 1}"
    ),
    "catalogue of another type": lambda r: r.delete(CATALOGUE_KEY) and r.set(CATALOGUE_KEY, "x"),
    "snapshot of another type": lambda r: r.delete(snapshot_key("acme")) and r.set(snapshot_key("acme"), "x"),
    "version is no number": lambda r: r.hset(snapshot_key("acme"), "version", "many"),
    "version is a superscript": lambda r: r.hset(snapshot_key("acme"), "version", "²"),
    "version is no text": lambda r: r.hset(snapshot_key("acme"), "version", b"\xff"),
    "version is infinite": lambda r: r.hset(snapshot_key("acme"), "version", "inf"),
    "version of many digits": lambda r: r.hset(snapshot_key("acme"), "version", "9" * 5000),
    "version from the future": lambda r: r.hset(snapshot_key("acme"), "version", 10**12),
    "an entry without fields": lambda r: r.xadd(feed_key(0), {"x": "y"}),
    "an entry that is no text": lambda r: r.xadd(feed_key(0), dict.fromkeys(
        ("epoch", "sequence", "kind", "tenant", "version"), b"\xff")),
    "an entry from the future": lambda r: r.xadd(feed_key(0), {
        "epoch": "e", "sequence": 10**9, "kind": "snapshot", "tenant": "acme", "version": 10**9}),
    "a heartbeat that is garbage": lambda r: r.xadd(heartbeat_key(0), {"envelope": b"\xff"}),
    "a heartbeat without envelope": lambda r: r.xadd(heartbeat_key(0), {"x": "y"}),
}  # fmt: skip


@pytest.mark.parametrize("scribble", SCRIBBLES.values(), ids=SCRIBBLES.keys())
async def test_whatever_is_scribbled_is_put_right(through_redis: ThroughRedis, scribble: Any) -> None:
    """Publisher and feed go on, with the right version, whatever somebody wrote to Redis."""
    through_redis.store.change()
    through_redis.publish()

    scribble(through_redis.redis)
    through_redis.store.change()
    steps(through_redis)

    reader = Reader(through_redis.feed())
    await reader.began()
    await fresh_after_change(through_redis, reader)


@pytest.mark.parametrize(
    "scribble",
    [
        pytest.param(how, id=name)
        for name, how in SCRIBBLES.items()
        if name.startswith(("state", "epoch", "sequence"))
    ],
)
async def test_a_feed_on_a_scribbled_state_is_unavailable(through_redis: ThroughRedis, scribble: Any) -> None:
    """A feed that cannot tell where it is does not begin; or begins where it is told."""
    through_redis.publish()
    scribble(through_redis.redis)

    try:
        event = await Reader(through_redis.feed()).next()
    except SourceUnavailableError:
        return
    assert isinstance(event, Began)


async def test_a_missing_last_entry_is_noticed(through_redis: ThroughRedis) -> None:
    """A beat past the last entry that is there says that one is missing: the feed begins anew."""
    through_redis.publish()
    reader = Reader(through_redis.feed())
    await reader.began()

    through_redis.store.change()
    through_redis.publisher.step()
    entries: Any = through_redis.redis.xrevrange(feed_key(0), count=1)
    through_redis.redis.xdel(feed_key(0), entries[0][0])
    steps(through_redis)

    event = await reader.next()
    while isinstance(event, Beat):
        event = await reader.next()
        through_redis.publish()
    assert isinstance(event, Began)


@pytest.mark.parametrize("key", [heartbeat_key(0), feed_key(0)])
async def test_a_stream_whose_ids_went_back_is_heard_again(
    through_redis: ThroughRedis, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """A stream made anew has smaller ids, as on a server whose clock is behind: silence does not last."""
    monkeypatch.setattr(redis_feed, "SILENCE", 0.1)
    monkeypatch.setattr(redis_feed, "BLOCK_MS", 20)
    through_redis.publish()
    reader = Reader(through_redis.feed())
    await reader.began()
    through_redis.redis.xadd(key, {"envelope": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
    if key == feed_key(0):
        # Not the feed's entry: it begins anew, after that one.
        await reader.began()
    else:
        count = refused("garbage") + refused("signature") + refused("misplaced")
        poll = asyncio.create_task(reader.next())
        while refused("garbage") + refused("signature") + refused("misplaced") == count:
            await asyncio.sleep(0.01)
        through_redis.store.change()
        with suppress(redis.RedisError):
            through_redis.publish()
        await poll
    through_redis.store.change()
    steps(through_redis)

    await reader.began()

    await fresh_after_change(through_redis, reader)
