"""WatchSnapshots: cursors, room, tokens, and heartbeats that are true."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from sqlalchemy import delete, event, update

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.planstore.api import rpc_snapshots
from entitlement_sidecar.planstore.db import Database, FeedStateRow, SnapshotOutboxRow
from entitlement_sidecar.planstore.snapshots import feed as database_feed
from entitlement_sidecar.planstore.snapshots.feed import Sequencer
from entitlement_sidecar.sidecar.snapshots.ports import Beat, Began, Changed
from entitlement_sidecar.wire.v1 import snapshot_pb2, snapshot_pb2_grpc
from support.transports import PATIENCE, TOKEN, ByWatching, Reader, Store


def watch(channel: grpc.aio.Channel, after: tuple[str, int] | None = None, token: str = TOKEN) -> Any:
    """A bare WatchSnapshots call."""
    request = snapshot_pb2.WatchSnapshotsRequest()
    if after is not None:
        request.after.epoch, request.after.sequence = after
    stub = snapshot_pb2_grpc.SnapshotServiceStub(channel)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return stub.WatchSnapshots(request, metadata=metadata, timeout=PATIENCE)


async def code_of(call: Any) -> grpc.StatusCode:
    """How a call ends."""
    with pytest.raises(grpc.RpcError) as caught:
        async for _ in call:
            pass
    code: grpc.StatusCode = caught.value.code()
    return code


async def test_a_trimmed_cursor_is_told_and_the_feed_begins_anew(by_watching: ByWatching) -> None:
    """Changes that are no longer kept: OUT_OF_RANGE once, then a beginning without a gap."""
    reader = Reader(by_watching.feed())
    await reader.began()
    by_watching.cut()
    with pytest.raises(SourceUnavailableError):
        await reader.until(lambda _: False)
    for _ in range(5):
        by_watching.store.change()
    Sequencer(by_watching.store.database).drain()
    Sequencer(by_watching.store.database).trim(retained=2)

    await reader.again()
    with pytest.raises(SourceUnavailableError):
        await reader.until(lambda _: False)
    await reader.again()

    assert (await reader.began()).position.sequence == 6
    assert await code_of(watch(by_watching.channel(), (reader.heard[0].position.epoch, 1))) is (
        grpc.StatusCode.OUT_OF_RANGE
    )


async def test_cursors_of_another_feed_are_refused(by_watching: ByWatching) -> None:
    """Another epoch, a negative place, and a place that the database never reached."""
    place = Sequencer(by_watching.store.database).drain()

    for after in (("another", 1), (place.epoch, -1), (place.epoch, place.sequence + 1)):
        call = watch(by_watching.channel(), after)
        assert await code_of(call) is grpc.StatusCode.OUT_OF_RANGE, after


async def test_a_restored_database_begins_the_feed_anew(by_watching: ByWatching) -> None:
    """A watcher that is ahead of the database hears a beginning, and beats again."""
    for _ in range(3):
        by_watching.store.change()
    reader = Reader(by_watching.feed())
    await reader.began()
    by_watching.cut()
    with pytest.raises(SourceUnavailableError):
        await reader.until(lambda _: False)
    with by_watching.store.database.writing() as session:
        session.execute(delete(SnapshotOutboxRow).where(SnapshotOutboxRow.feed_sequence > 2))
        session.execute(update(FeedStateRow).values(sequence=2))
    by_watching.renew()
    by_watching.cut()

    await reader.again()
    with pytest.raises(SourceUnavailableError):
        await reader.until(lambda _: False)
    await reader.again()

    assert (await reader.began()).position.sequence == 2
    await reader.until(lambda e: isinstance(e, Beat))


async def test_a_long_way_back_is_read_page_by_page(
    by_watching: ByWatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything comes, in order, and the beat after it."""
    monkeypatch.setattr(rpc_snapshots, "PAGE", 3)
    monkeypatch.setattr(database_feed.entries_after, "__defaults__", (3,))
    reader = Reader(by_watching.feed())
    await reader.began()
    by_watching.cut()
    with pytest.raises(SourceUnavailableError):
        await reader.until(lambda _: False)
    reader.heard.clear()
    for _ in range(10):
        by_watching.store.change()
    committed = by_watching.store.now()

    await reader.again()
    await reader.until(lambda e: isinstance(e, Beat) and e.true_at > committed)

    told = [e for e in reader.heard if not isinstance(e, Beat)]
    assert [e.position.sequence for e in told] == list(range(2, 12))


async def test_a_change_is_told_at_once_not_with_the_next_beat(
    by_watching: ByWatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared heartbeat of a moment ago holds no change back."""
    monkeypatch.setattr(rpc_snapshots, "BEAT_EVERY", 3600.0)
    monkeypatch.setattr(database_feed, "_BEAT_SHARED_FOR", 3600.0)
    reader = Reader(by_watching.feed())
    await reader.began()
    await reader.until(lambda e: isinstance(e, Beat))

    version = by_watching.store.change()
    by_watching.publish()
    told = await reader.until(lambda e: isinstance(e, Changed))

    assert told.version == version


async def test_beats_come_also_while_changes_do(by_watching: ByWatching) -> None:
    """Changes that follow each other closely do not keep the feed from being confirmed."""
    reader = Reader(by_watching.feed())
    await reader.began()
    done = asyncio.Event()

    async def keep_changing() -> None:
        while not done.is_set():
            await asyncio.to_thread(by_watching.store.change)
            await asyncio.to_thread(by_watching.publish)

    changing = asyncio.create_task(keep_changing())
    for _ in range(3):
        await reader.until(lambda e: isinstance(e, Changed))
        await reader.until(lambda e: isinstance(e, Beat))
    done.set()
    await changing

    assert sum(isinstance(e, Began) for e in reader.heard) == 1


async def test_watchers_are_bounded(
    store: Store, free_port: int, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One watcher too many is told so; when one leaves there is room again."""
    monkeypatch.setattr(rpc_snapshots, "MAX_WATCHERS", 2)
    server = ByWatching(store, free_port, stack)
    channel = server.channel()
    first, second = watch(channel), watch(channel)
    assert await first.read()
    assert await second.read()

    assert await code_of(watch(channel)) is grpc.StatusCode.RESOURCE_EXHAUSTED

    first.cancel()
    async with asyncio.timeout(PATIENCE):
        while True:
            again = watch(channel)
            try:
                assert await again.read()
                break
            except grpc.RpcError:
                await asyncio.sleep(0.02)
    assert await code_of(watch(channel)) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("token", ["", "another"])
async def test_without_the_token_nothing_is_told(by_watching: ByWatching, token: str) -> None:
    """Neither feed nor snapshot nor keys: UNAUTHENTICATED."""
    by_watching.store.change()

    assert await code_of(watch(by_watching.channel(), token=token)) is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(SourceUnavailableError):
        await by_watching.source(token=token).snapshot("acme")
    with pytest.raises(SourceUnavailableError):
        await by_watching.source(token=token).catalogue()
    with pytest.raises(SourceUnavailableError):
        await Reader(by_watching.feed(token=token)).next()


def test_a_place_covers_what_another_replica_numbers_meanwhile(postgres_database: Database) -> None:
    """A heartbeat's place is never behind what was committed before its instant."""
    store = Store(postgres_database)
    other = Database(postgres_database.engine.execution_options())
    Sequencer(postgres_database).drain()
    store.change()
    raced: list[bool] = []

    def number_after_place(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        # Another replica numbers the change between the two reads of this one.
        if "FROM feed_state" in statement and not raced:
            raced.append(True)
            Sequencer(other).drain()

    event.listen(postgres_database.engine, "after_cursor_execute", number_after_place)
    try:
        found = Sequencer(postgres_database).drain()
    finally:
        event.remove(postgres_database.engine, "after_cursor_execute", number_after_place)

    assert raced
    assert found.sequence == 2
