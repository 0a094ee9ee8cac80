"""Migrations lead to exactly the tables that the code expects."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from entitlement_sidecar.planstore.db import Base, Database, create_engine_for
from entitlement_sidecar.planstore.db.migrate import head, is_current, migrate


def test_migrations_match_the_models(database: Database) -> None:
    """A migrated database has no difference from the declared tables."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, Base.metadata)

    assert differences == []


def test_migrating_again_changes_nothing(database_url: str) -> None:
    """Migrating is safe to repeat, and says which revision it left."""
    first, second = migrate(database_url), migrate(database_url)

    assert first == second == head()


def test_several_may_migrate_at_once(database_url: str) -> None:
    """Several processes that start together bring an empty database to the head once."""
    with ThreadPoolExecutor(4) as pool:
        revisions = list(pool.map(migrate, [database_url] * 4))

    assert revisions == [head()] * 4


def test_an_unmigrated_database_is_not_current(database_url: str) -> None:
    """A process can tell that the schema is missing before it serves."""
    engine = create_engine_for(database_url)
    try:
        before = is_current(engine)
        migrate(database_url)
        after = is_current(engine)
    finally:
        engine.dispose()

    assert (before, after) == (False, True)


@pytest.mark.parametrize("table", ["usage_events", "quota_counters", "snapshot_outbox"])
def test_tables_that_others_write_exist(database: Database, table: str) -> None:
    """The tables of ingest, publisher and authority are part of the first revision."""
    assert inspect(database.engine).has_table(table)
