"""Each grantor of leases, empty, for the contract suite; and a plan store with blocks in the shared Redis."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from contract.planstore.conftest import database, postgres_template, sqlite_template
from entitlement_sidecar.domain.lease import OnHolderLoss
from entitlement_sidecar.planstore.db import Base, Database, create_engine_for
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.testing.memory_grantor import MemoryGrantor
from support.blocks import BlockStore
from support.grantors import Grantor, SqlGrantor, limit_of, seconds
from support.shop import Shop

__all__ = ["database", "postgres_template", "sqlite_template"]

Grantors = Callable[..., Grantor]


@pytest.fixture
def clock() -> FakeClock:
    """The grantor's clock."""
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def grantors(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Grantors]:
    """Makes a grantor of so many tokens."""
    if request.param == "memory":

        def in_memory(size: int, *, soft: bool = False) -> Grantor:
            on_loss = OnHolderLoss.RECLAIM if soft else OnHolderLoss.FORFEIT
            return MemoryGrantor(size, lambda: seconds(clock), on_loss)

        yield in_memory
        return
    opened = _database(request, tmp_path)

    def of_database(size: int, *, soft: bool = False) -> Grantor:
        return SqlGrantor(opened, clock, limit_of(size, soft=soft))

    yield of_database
    opened.close()


@pytest.fixture
def port(redis_db: str) -> int:
    """Of the shared Redis, emptied."""
    return int(redis_db.rpartition(":")[2].partition("/")[0])


@pytest.fixture
def client(port: int) -> Iterator[redis.Redis]:
    """The shared Redis."""
    with closing(redis.Redis(port=port)) as client:
        yield client


@pytest.fixture
def store(database: Database, client: redis.Redis) -> BlockStore:
    """A plan store with a limit of 100."""
    return BlockStore(Shop(database), client)


def _database(request: pytest.FixtureRequest, folder: Path) -> Database:
    if request.param == "sqlite":
        copy = folder / "planstore.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), copy)
        return Database(create_engine_for(f"sqlite:///{copy}"))
    opened = Database(create_engine_for(request.getfixturevalue("postgres_template")))
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with opened.writing() as session:
        session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    return opened
