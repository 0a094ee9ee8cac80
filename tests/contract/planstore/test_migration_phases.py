"""Upgrades without a pause: pre beside plan stores of the version before, post after the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, event, inspect, text
from sqlalchemy.exc import IntegrityError

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.db import Base, create_engine_for
from entitlement_sidecar.planstore.db.engine import WRITING
from entitlement_sidecar.planstore.db.grants import APPEND_ONLY
from entitlement_sidecar.planstore.db.migrate import Phase, head, is_current, migrate, migrations_folder

PRE, POST = head(Phase.PRE), head(Phase.POST)
BOTH = f"{PRE}, {POST}"
VERSION_BEFORE = "0002"

PLAN = """
    INSERT INTO billing_plans (id, code, version, title, price_amount, price_currency, billing_period,
        billing_model, trial_days, active, created_at)
    VALUES (:id, 'basic', :id, 'Basic', '29.90', 'EUR', 'month', 1, 0, :active, '2026-01-01 00:00:00')
"""
ADD_ON = """
    INSERT INTO add_ons (id, code, version, title, body, active, created_at)
    VALUES (1, 'more', 1, 'More', '{}', true, '2026-01-01 00:00:00')
"""
TENANT = """
    INSERT INTO organizations (tenant_id, snapshot_version, created_at)
    VALUES (:tenant, 1, '2026-01-01 00:00:00')
"""
SUBSCRIPTION = """
    INSERT INTO organization_subscriptions (id, tenant_id, plan_id, state, auto_renew,
        current_period_start, current_period_end, cancel_at, anchor, version, created_at, updated_at)
    VALUES (:id, :tenant, 1, :state, true, :since, '2027-01-01 00:00:00', :cancel_at, :since, 1, :since,
        :since)
"""
BOUGHT = "INSERT INTO subscription_add_ons (subscription_id, add_on_id, quantity) VALUES ('second', 1, 2)"

FIRST, LATER = "2026-01-01 00:00:00", "2026-02-01 00:00:00"


def subscription(id_: str, tenant: str, since: str, state: str = "active") -> dict[str, object]:
    """Values of a subscription as the version before stores it."""
    cancel_at = "2026-03-01 00:00:00" if state == "cancelled" else None
    return {"id": id_, "tenant": tenant, "since": since, "state": state, "cancel_at": cancel_at}


BEFORE = (
    subscription("replaced", "acme", FIRST),
    subscription("second", "acme", LATER),
    subscription("gone", "other", FIRST, "cancelled"),
)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An empty database, whose references are not looked at while tables are copied."""
    engine = create_engine_for(database_url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=OFF"))
    yield engine
    engine.dispose()


@contextmanager
def alembic(engine: Engine) -> Iterator[Config]:
    """What runs single migrations, in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with engine.execution_options(**{WRITING: True}).begin() as connection:
        config.attributes["connection"] = connection
        yield config


def fill_version_before(engine: Engine) -> None:
    """A database of the version before, in use: one subscription replaced another, with an add-on."""
    with alembic(engine) as config:
        command.upgrade(config, VERSION_BEFORE)
    with engine.begin() as connection:
        connection.execute(text(PLAN), [{"id": 1, "active": False}, {"id": 2, "active": True}])
        connection.execute(text(ADD_ON))
        connection.execute(text(TENANT), [{"tenant": "acme"}, {"tenant": "other"}])
        connection.execute(text(SUBSCRIPTION), BEFORE)
        connection.execute(text(BOUGHT))


def stored(engine: Engine, columns: str) -> list[tuple[object, ...]]:
    """Columns of every subscription, by id."""
    query = f"SELECT id, {columns} FROM organization_subscriptions ORDER BY id"  # noqa: S608 - constants
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def counts(engine: Engine) -> list[int]:
    """Rows of the tables that the version before has filled."""
    tables = ("billing_plans", "add_ons", "organizations", "subscription_add_ons")
    with engine.begin() as connection:
        return [
            int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608
            for table in tables
        ]


def test_pre_keeps_what_is_there(engine: Engine, database_url: str) -> None:
    """Every row stays; new columns say what was meant; the new version may start."""
    fill_version_before(engine)
    assert not is_current(engine)

    assert migrate(database_url, Phase.PRE) == PRE

    assert is_current(engine)
    assert counts(engine) == [2, 1, 2, 1]
    assert [(id_, product, bool(is_open)) for id_, product, is_open in stored(engine, "product, open")] == [
        ("gone", "default", True),
        ("replaced", "default", True),
        ("second", "default", True),
    ]


def test_the_version_before_goes_on_beside_pre(engine: Engine, database_url: str) -> None:
    """It inserts without the columns that it does not know, also a second subscription of a tenant."""
    fill_version_before(engine)
    migrate(database_url, Phase.PRE)

    with engine.begin() as connection:
        connection.execute(text(SUBSCRIPTION), subscription("third", "acme", "2026-02-15 00:00:00"))
        connection.execute(text(PLAN.replace("'basic'", "'other'")), {"id": 3, "active": True})

    assert ("third", "default") in stored(engine, "product")
    assert counts(engine)[0] == 3


def test_post_closes_what_was_replaced(engine: Engine, database_url: str) -> None:
    """The latest subscription of a tenant stays open, what it replaced has ended; then the rules hold."""
    fill_version_before(engine)
    migrate(database_url, Phase.PRE)

    assert migrate(database_url, Phase.POST) == BOTH

    assert [(id_, state, bool(is_open)) for id_, state, is_open in stored(engine, "state, open")] == [
        ("gone", "cancelled", False),
        ("replaced", "ended", False),
        ("second", "active", True),
    ]
    assert counts(engine) == [2, 1, 2, 1]
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text(SUBSCRIPTION), subscription("third", "acme", LATER))


@pytest.mark.parametrize("phase", [Phase.POST, Phase.ALL])
def test_post_includes_pre(engine: Engine, database_url: str, phase: Phase) -> None:
    """Also from the version before in one go."""
    fill_version_before(engine)

    assert migrate(database_url, phase) == BOTH
    assert [row[1] for row in stored(engine, "state")] == ["cancelled", "ended", "active"]


RULES_BEFORE = {"feed_state", "quota_counters", "snapshot_outbox", "subscription_add_ons"}
"""Tables whose rules have other names since their first version."""


def rules(engine: Engine) -> dict[str, list[object]]:
    """What a database itself refuses, by table: rules, keys, references and conditions of indexes."""
    inspector = inspect(engine)
    return {
        table: [
            sorted(
                (None if table in RULES_BEFORE else one["name"], one["sqltext"])
                for one in inspector.get_check_constraints(table)
            ),
            sorted(
                (
                    one["name"],
                    one["column_names"],
                    one["unique"],
                    str(one["dialect_options"].get("sqlite_where")),
                )
                for one in inspector.get_indexes(table)
            ),
            sorted(
                (one["name"], one["constrained_columns"], one["referred_table"])
                for one in inspector.get_foreign_keys(table)
            ),
            sorted((one["name"], one["column_names"]) for one in inspector.get_unique_constraints(table)),
        ]
        for table in Base.metadata.tables
    }


def test_copying_tables_loses_no_rule(tmp_path: Path) -> None:
    """SQLite alters by copying: afterwards a database in use refuses all that a new one refuses."""
    migrated, declared = (create_engine_for(f"sqlite:///{tmp_path}/{name}.db") for name in ("old", "new"))
    try:
        fill_version_before(migrated)
        migrate(f"sqlite:///{tmp_path}/old.db")
        Base.metadata.create_all(declared)
        assert rules(migrated) == rules(declared)
        query = "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger'"
        with migrated.begin() as connection:
            guarded = sorted(connection.execute(text(query)).scalars())
        assert guarded == sorted([*APPEND_ONLY, *APPEND_ONLY])
    finally:
        migrated.dispose()
        declared.dispose()


def test_rows_that_new_rules_refuse_are_told(engine: Engine, database_url: str) -> None:
    """Post says which rule they break, changes nothing, and goes through once they are put right."""
    fill_version_before(engine)
    migrate(database_url, Phase.PRE)
    wrong = (
        "UPDATE organization_subscriptions SET current_period_end = '2025-01-01 00:00:00' WHERE id = 'second'"
    )
    with engine.begin() as connection:
        connection.execute(text(wrong))

    with pytest.raises(ConfigurationError, match=r"nothing was changed: .*period_in_order"):
        migrate(database_url)

    assert [row[1] for row in stored(engine, "state")] == ["cancelled", "active", "active"]
    with engine.begin() as connection:
        connection.execute(text(wrong.replace("2025", "2027")))
    assert migrate(database_url) == BOTH


def test_both_phases_can_be_taken_back(engine: Engine, database_url: str) -> None:
    """Post first, then pre: the version before finds its tables, with every row; and forward again."""
    fill_version_before(engine)
    columns = {column["name"] for column in inspect(engine).get_columns("organization_subscriptions")}
    tables = set(inspect(engine).get_table_names())
    migrate(database_url)

    with alembic(engine) as config:
        command.downgrade(config, "post@base")
    assert is_current(engine)
    with engine.begin() as connection:
        connection.execute(text(SUBSCRIPTION), subscription("third", "acme", "2026-02-15 00:00:00"))
    with alembic(engine) as config:
        command.downgrade(config, f"pre@{VERSION_BEFORE}")

    assert not is_current(engine)
    assert set(inspect(engine).get_table_names()) == tables
    assert {c["name"] for c in inspect(engine).get_columns("organization_subscriptions")} == columns
    assert [row[0] for row in stored(engine, "state")] == ["gone", "replaced", "second", "third"]
    assert migrate(database_url) == BOTH
    assert [row[0] for row in stored(engine, "state") if row[1] == "active"] == ["third"]


def test_first_migrations_can_be_taken_back(engine: Engine, database_url: str) -> None:
    """Down to nothing, post before pre, and up again."""
    migrate(database_url)

    with alembic(engine) as config:
        command.downgrade(config, "post@base")
        command.downgrade(config, "pre@base")
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}

    assert migrate(database_url) == BOTH


@pytest.mark.parametrize("newer", [("0099",), ("0099", POST), (PRE, "p099"), ("0099", "p099")])
def test_what_a_newer_version_migrated_is_current(
    engine: Engine, database_url: str, newer: tuple[str, ...]
) -> None:
    """This version may start beside it, and its own migrations of that phase are no more to be done."""
    migrate(database_url)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
        for revision in newer:
            statement = "INSERT INTO alembic_version (version_num) VALUES (:revision)"
            connection.execute(text(statement), {"revision": revision})

    assert is_current(engine)
    assert migrate(database_url, Phase.PRE) == ", ".join(sorted(newer))


def test_phases_may_run_at_once(engine: Engine, database_url: str) -> None:
    """One waits for the other, and everything is there once."""
    fill_version_before(engine)

    with ThreadPoolExecutor(4) as pool:
        phases = [Phase.PRE, Phase.POST, Phase.ALL, Phase.PRE]
        revisions = set(pool.map(lambda phase: migrate(database_url, phase), phases))

    assert revisions <= {PRE, BOTH}
    assert migrate(database_url) == BOTH
    assert counts(engine) == [2, 1, 2, 1]
