"""Migrations lead to exactly the tables that the code expects."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from entitlement_sidecar.planstore.db import Base, Database, create_engine_for
from entitlement_sidecar.planstore.db.engine import WRITING
from entitlement_sidecar.planstore.db.migrate import Phase, head, is_current, migrate, migrations_folder

HEADS = f"{head(Phase.PRE)}, {head(Phase.POST)}"


def test_migrations_match_the_models(database: Database) -> None:
    """A migrated database has no difference from the declared tables."""
    with database.engine.connect() as connection:
        opts = {"compare_type": True, "include_name": _is_declared}
        context = MigrationContext.configure(connection, opts=opts)
        differences = compare_metadata(context, Base.metadata)

    assert differences == []


def _is_declared(name: str | None, kind: str, _parents: object) -> bool:
    """All but the partitions of tables."""
    return kind != "table" or not str(name).startswith("usage_events_")


def test_migrating_again_changes_nothing(database_url: str) -> None:
    """Migrating is safe to repeat, and says which revision it left."""
    first, second = migrate(database_url), migrate(database_url)

    assert first == second == HEADS


def test_several_may_migrate_at_once(database_url: str) -> None:
    """Several processes that start together bring an empty database to the head once."""
    with ThreadPoolExecutor(4) as pool:
        revisions = list(pool.map(migrate, [database_url] * 4))

    assert revisions == [HEADS] * 4


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


COUNTER = """
    INSERT INTO quota_counters (tenant_id, feature, limit_key, window_start, admitted)
    VALUES ('acme', 'calls', 'month', '2026-01-01 00:00:00+00:00', 7)
"""


def test_what_was_counted_before_a_migration_is_there_after_it(database_url: str) -> None:
    """Counters of the first version keep what they count; nothing is carried over in them yet."""
    engine = create_engine_for(database_url)
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    try:
        with engine.execution_options(**{WRITING: True}).begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            connection.execute(text(COUNTER))
        migrate(database_url)
        with engine.begin() as connection:
            rows = connection.execute(text("SELECT admitted, carried FROM quota_counters")).all()
    finally:
        engine.dispose()

    assert [tuple(row) for row in rows] == [(7, None)]


EVENT = """
    INSERT INTO usage_events (id, tenant_id, event_id, metric, feature, value, unit, occurred_at, recorded_at,
        received_at, subject, actor_id, correlation_id, emitter, classification, lease_id, instance, epoch,
        sequence, payload)
    VALUES (7, 'acme', 'e1', 'calls', '', 3, 'call', '{at}', '{at}', '{at}', '', '', 'w', '', 1, '', '', 0,
        0, '')
"""
AGGREGATE = """
    INSERT INTO subscription_usage_ledger (tenant_id, subscription_id, metric, window_kind, window_start,
        classification, window_end, value, event_count, first_event_at, last_event_at)
    VALUES ('acme', 'sub_1', 'calls', 'month', '2026-01-01 00:00:00.000000+00:00', 1,
        '2026-02-01 00:00:00.000000+00:00', 3, 1, '{at}', '{at}')
"""


def test_events_from_before_partitions_keep_their_place(database_url: str) -> None:
    """They are there with their ids, belong to the aggregate that counted them, and new ones come after."""
    engine = create_engine_for(database_url)
    at = "2026-01-09 12:00:00.000000" + ("" if engine.dialect.name == "sqlite" else "+00:00")
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    aggregate = AGGREGATE.replace("+00:00", "") if engine.dialect.name == "sqlite" else AGGREGATE
    slot = "SELECT id, event_id, subscription_id, window_kind FROM usage_events ORDER BY id"
    try:
        with engine.execution_options(**{WRITING: True}).begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0005")
            connection.execute(text(EVENT.format(at=at)))
            connection.execute(text(aggregate.format(at=at)))
        migrate(database_url)
        with engine.execution_options(**{WRITING: True}).begin() as connection:
            before = connection.execute(text(slot)).all()
            with pytest.raises(DBAPIError, match="append-only"), connection.begin_nested():
                connection.execute(text("DELETE FROM usage_events"))
            config.attributes["connection"] = connection
            command.downgrade(config, "0005")
            kept = connection.execute(text("SELECT id, event_id, value FROM usage_events")).all()
    finally:
        engine.dispose()

    assert [tuple(row) for row in before] == [(7, "e1", "sub_1", "month")]
    assert [tuple(row) for row in kept] == [(7, "e1", 3)]
