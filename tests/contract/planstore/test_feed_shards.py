"""Publishers and sidecars agree on how many shards the feed has, whatever a process was started with."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from sqlalchemy import select

from entitlement_sidecar.planstore.catalogue import current_document, seal_catalogue_again
from entitlement_sidecar.planstore.config import PlanstoreConfig, prepare_state
from entitlement_sidecar.planstore.db import Database, RedisFeedStateRow
from entitlement_sidecar.planstore.process import serve
from entitlement_sidecar.planstore.snapshots.publisher import RedisPublisher
from entitlement_sidecar.sidecar.snapshots.ports import Changed
from support.transports import Reader, Store, ThroughRedis

TENANTS = {f"tenant-{number}" for number in range(8)}


def change_all(store: Store) -> None:
    """A change of each tenant."""
    for tenant in sorted(TENANTS):
        store.change(tenant)


async def hear_all(reader: Reader) -> set[str]:
    """Tenants that a reader heard of, once it heard of as many as there are."""
    heard: set[str] = set()
    while heard != TENANTS:
        heard.add((await reader.until(lambda event: isinstance(event, Changed))).tenant_id)
    return heard


async def test_a_publisher_goes_by_the_document(database: Database, redis_db: str) -> None:
    """Started with more shards than the catalogue in force says, it writes only where sidecars read."""
    store = Store(database, shards=2)
    async with AsyncExitStack() as stack:
        through = ThroughRedis(store, redis_db, stack)
        through.publisher = RedisPublisher(database, through.writer, store.key, 8, through.clock)
        through.publish()
        reader = Reader(through.feed())
        assert (await reader.began()).shards == 2

        change_all(store)
        through.publish()

        assert await hear_all(reader) == TENANTS


async def test_another_number_reaches_those_who_read(database: Database, redis_db: str) -> None:
    """More shards, and fewer again: readers begin anew and miss nothing of what changes then."""
    store = Store(database, shards=2)
    async with AsyncExitStack() as stack:
        through = ThroughRedis(store, redis_db, stack)
        through.publish()
        reader = Reader(through.feed())
        await reader.began()
        for shards in (5, 2, 5):
            with database.writing() as session:
                assert seal_catalogue_again(session, shards, store.key, store.clock.now())
            through.publish()
            assert (await reader.began()).shards == shards

            change_all(store)
            through.publish()

            assert await hear_all(reader) == TENANTS


async def test_starting_with_another_number_puts_it_into_force(database: Database, tmp_path: Path) -> None:
    """The flag is what the document says once the plan store runs; the same flag seals nothing again."""
    url = database.engine.url.render_as_string(hide_password=False)
    store = Store(database, shards=2)
    config = PlanstoreConfig(
        database=url, http="127.0.0.1:0", grpc="127.0.0.1:0", state_dir=tmp_path / "state", feed_shards=3
    )
    prepare_state(config)
    store.key.save(config.key_path)
    with database.writing() as session:
        session.add(RedisFeedStateRow(shard=0, epoch="e", sequence=1))
    for _ in range(2):
        stopping = asyncio.Event()

        await serve(config, stopping, lambda *_, stopping=stopping: stopping.set())

        with database.reading() as session:
            document = current_document(session)
            assert (document.version, document.feed_shards) == (2, 3)
            assert session.scalars(select(RedisFeedStateRow)).all() == []
