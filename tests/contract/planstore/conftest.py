"""A migrated database of each kind, and a plan store's core on it."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.db import (
    Base,
    Database,
    create_engine_for,
)
from entitlement_sidecar.planstore.db.migrate import migrate
from support.leasing import PLENTY, Sidecar
from support.shop import CATALOGUE, Shop


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/planstore.db"
    dsn: str = request.getfixturevalue("postgres_dsn")
    return dsn


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that tests copy: migrating takes longer than most of them."""
    path = tmp_path_factory.mktemp("template") / "planstore.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """A migrated PostgreSQL database that the tests of this process share, each after emptying it."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    base, _, query = postgres_server.partition("?")
    url = f"{base.rpartition('/')[0]}/{name}?{query}"
    migrate(url)
    yield url
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated, empty database of either kind."""
    if request.param == "sqlite":
        copy = tmp_path / "planstore.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), copy)
        database = Database(create_engine_for(f"sqlite:///{copy}"))
    else:
        database = Database(create_engine_for(request.getfixturevalue("postgres_template")))
        with database.writing() as session:
            _empty(session)
    yield database
    database.close()


def _empty(session: Session) -> None:
    """Removes every row and begins every sequence anew, where there is something: that saves most of it."""
    names = [table.name for table in Base.metadata.sorted_tables]
    query = " UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {name})" for name in names)  # noqa: S608 - names of our tables
    if filled := session.scalars(text(query)).all():
        session.execute(text(f"TRUNCATE {', '.join(filled)} RESTART IDENTITY CASCADE"))
    begun = "SELECT quote_ident(sequencename) FROM pg_sequences WHERE last_value IS NOT NULL"
    for name in session.scalars(text(begun)).all():
        session.execute(text(f"ALTER SEQUENCE {name} RESTART"))


@pytest.fixture
def shop(database: Database) -> Shop:
    """A plan store's core with a catalogue in force."""
    shop = Shop(database)
    shop.apply()
    return shop


@pytest.fixture
def plenty(shop: Shop) -> Shop:
    """A tenant with 100 calls a day."""
    shop.apply(PLENTY)
    shop.subscribe(plan="large")
    return shop


@pytest.fixture
def sidecar(plenty: Shop) -> Sidecar:
    """One that leases for it."""
    return Sidecar(plenty)


@pytest.fixture
def catalogue_text() -> str:
    """The catalogue that the shop begins with."""
    return CATALOGUE
