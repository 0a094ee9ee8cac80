"""Both ways from a plan store's tables to a sidecar, as fixtures."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from entitlement_sidecar.planstore.api import rpc_snapshots
from entitlement_sidecar.planstore.db import Database, create_engine_for
from entitlement_sidecar.planstore.db.migrate import migrate
from entitlement_sidecar.planstore.snapshots import feed as database_feed
from support.redis_servers import RedisClusterServers
from support.transports import ByWatching, Store, ThroughRedis, Transport


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("migrated") / "planstore.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_database(migrated_file: Path, tmp_path: Path) -> Iterator[Database]:
    """A migrated, empty SQLite database."""
    shutil.copyfile(migrated_file, tmp_path / "planstore.db")
    database = Database(create_engine_for(f"sqlite:///{tmp_path}/planstore.db"))
    yield database
    database.close()


@pytest.fixture
def postgres_database(postgres_dsn: str) -> Iterator[Database]:
    """A migrated, empty PostgreSQL database."""
    migrate(postgres_dsn)
    database = Database(create_engine_for(postgres_dsn))
    yield database
    database.close()


@pytest.fixture(params=["sqlite_database", "postgres_database"])
def database(request: pytest.FixtureRequest) -> Database:
    """A migrated, empty database of either kind."""
    chosen: Database = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def store(sqlite_database: Database) -> Store:
    """A plan store with a catalogue in force."""
    return Store(sqlite_database)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test opened."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def through_redis(store: Store, redis_db: str, stack: AsyncExitStack) -> ThroughRedis:
    """Tables, publisher, Redis."""
    return ThroughRedis(store, redis_db, stack)


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClusterServers]:
    """A cluster of three nodes that the tests of this process share."""
    servers = RedisClusterServers(tmp_path_factory.mktemp("cluster"))
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


@pytest.fixture
def cluster_db(redis_cluster: RedisClusterServers) -> str:
    """The shared cluster, emptied."""
    redis_cluster.flush()
    return redis_cluster.url


@pytest.fixture
def through_cluster(store: Store, cluster_db: str, stack: AsyncExitStack) -> ThroughRedis:
    """Tables, publisher, a cluster of Redis."""
    return ThroughRedis(store, cluster_db, stack)


@pytest.fixture
def by_watching(
    store: Store, free_port: int, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> ByWatching:
    """Tables and a server that streams them, with a heartbeat every few milliseconds."""
    monkeypatch.setattr(rpc_snapshots, "BEAT_EVERY", 0.05)
    monkeypatch.setattr(database_feed, "_BEAT_SHARED_FOR", 0.02)
    return ByWatching(store, free_port, stack)


@pytest.fixture(params=["through_redis", "through_cluster", "by_watching"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Each way."""
    chosen: Transport = request.getfixturevalue(request.param)
    return chosen
