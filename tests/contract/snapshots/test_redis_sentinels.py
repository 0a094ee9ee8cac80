"""A primary that sentinels name: it dies, its replica takes over, and nothing claims more than is true."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from pathlib import Path

import pytest
import redis

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.sidecar.snapshots.ports import Beat, Began, Changed, FeedEvent
from support.redis_servers import SentinelServers
from support.transports import Reader, Store, ThroughRedis


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[SentinelServers]:
    """A primary, its replica, and three sentinels."""
    with SentinelServers.running(tmp_path / "sentinels") as servers:
        yield servers


async def hear_past(transport: ThroughRedis, reader: Reader, instant: datetime) -> None:
    """Publishes and reads until what was committed before an instant is confirmed."""
    while True:
        with suppress(redis.RedisError):
            transport.publish()
        try:
            event = await reader.next()
        except SourceUnavailableError:
            await reader.again()
            continue
        if isinstance(event, Beat) and event.true_at > instant:
            return


def assert_told_before_confirmed(heard: list[FeedEvent], committed: dict[int, datetime]) -> None:
    """No beat confirms an instant after a commit that was not told, or covered by a new beginning."""
    told = 0
    for event in heard:
        match event:
            case Changed():
                told = max(told, event.version)
            case Began():
                # What is held is read again: it may have what nobody told.
                told = max(committed)
            case Beat():
                assert all(version <= told or event.true_at <= at for version, at in committed.items())


async def test_a_replica_takes_over(sentinels: SentinelServers, store: Store, stack: AsyncExitStack) -> None:
    """Given that the primary is killed, then publisher and sidecar find the next one by themselves."""
    transport = ThroughRedis(store, sentinels.url, stack)
    transport.publish()
    reader = Reader(transport.feed())
    await reader.began()
    source = transport.source()
    committed = {store.change(): store.now()}
    await hear_past(transport, reader, committed[1])
    sentinels.wait_for_replica()

    sentinels.primary.stop()
    for _ in range(3):
        version = store.change()
        committed[version] = store.now()
    await hear_past(transport, reader, committed[version])

    assert_told_before_confirmed(reader.heard, committed)
    fetched = await source.snapshot("acme")
    assert fetched is not None
    assert fetched.snapshot.version == version


async def test_what_the_replica_never_got_is_written_again(
    sentinels: SentinelServers, store: Store, stack: AsyncExitStack
) -> None:
    """Given a replica that was cut off before the last changes, then these are told again once it serves."""
    transport = ThroughRedis(store, sentinels.url, stack)
    transport.publish()
    reader = Reader(transport.feed())
    await reader.began()
    committed = {store.change(): store.now()}
    await hear_past(transport, reader, committed[1])
    sentinels.wait_for_replica()
    with sentinels.replica_apart():
        for _ in range(3):
            version = store.change()
            committed[version] = store.now()
        transport.publish()
        sentinels.primary.stop()
    await hear_past(transport, reader, store.now())

    assert_told_before_confirmed(reader.heard, committed)
    assert sum(isinstance(event, Began) for event in reader.heard) > 1
    fetched = await transport.source().snapshot("acme")
    assert fetched is not None
    assert fetched.snapshot.version == version


async def test_a_sentinel_that_is_away_is_not_waited_for(
    sentinels: SentinelServers, store: Store, stack: AsyncExitStack
) -> None:
    """Given that two of three sentinels are gone, then the third one's word is enough to find the primary."""
    transport = ThroughRedis(store, sentinels.url, stack)
    store.change()
    transport.publish()
    sentinels.stop_sentinels(2)

    fetched = await transport.source().snapshot("acme")

    assert fetched is not None
