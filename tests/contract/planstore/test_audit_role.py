"""The PostgreSQL role of the plan stores: enough to run one, too little to rewrite what was written."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url, text
from sqlalchemy.exc import ProgrammingError

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.audit.anchors import Anchoring
from entitlement_sidecar.planstore.audit.verify import Verification
from entitlement_sidecar.planstore.config import PlanstoreConfig, prepare_state
from entitlement_sidecar.planstore.db import Base, Database, create_engine_for
from entitlement_sidecar.planstore.db.migrate import migrate
from entitlement_sidecar.planstore.process import serve
from entitlement_sidecar.planstore.usage.retention import Retaining
from support.auditing import TABLES
from support.shop import CATALOGUE, Shop

SUSPENSION = "/api/billing/organizations/acme/subscription/suspend"


@pytest.fixture
def role(postgres_dsn: str) -> Iterator[str]:
    """A role that may log in, and nothing more. It has a name that needs quotes."""
    name = f"Plan stores {secrets.token_hex(4)}"
    with psycopg.connect(postgres_dsn.replace("+psycopg", ""), autocommit=True) as admin:
        named = sql.Identifier(name)
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER").format(named))
        yield name
        admin.execute(sql.SQL("DROP OWNED BY {}").format(named))
        admin.execute(sql.SQL("DROP ROLE {}").format(named))


@pytest.fixture
def url_of_role(postgres_dsn: str, role: str) -> str:
    """The migrated database, for that role."""
    migrate(postgres_dsn, grant_to=role)
    return make_url(postgres_dsn).set(username=role).render_as_string(hide_password=False)


@pytest.fixture
def as_role(url_of_role: str) -> Iterator[Database]:
    """The database as the plan stores see it."""
    database = Database(create_engine_for(url_of_role))
    yield database
    database.close()


@pytest.mark.parametrize("verb", ["UPDATE {} SET {} = {}", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
@pytest.mark.parametrize("table", TABLES)
def test_the_role_may_not_change_what_is_append_only(as_role: Database, table: str, verb: str) -> None:
    """PostgreSQL itself refuses, before any trigger is asked."""
    column = Base.metadata.tables[table].columns[0].name

    with (
        pytest.raises(ProgrammingError, match=f"permission denied for table {table}"),
        as_role.writing() as session,
    ):
        session.execute(text(verb.format(table, column, column)))


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE audit_log DISABLE TRIGGER USER",
        "DROP TABLE audit_log",
        "UPDATE alembic_version SET version_num = 'x'",
    ],
)
def test_the_role_may_not_change_the_schema(as_role: Database, statement: str) -> None:
    """Migrations are the owner's."""
    with (
        pytest.raises(ProgrammingError, match=r"must be owner|permission denied"),
        as_role.writing() as session,
    ):
        session.execute(text(statement))


def test_a_plan_store_runs_as_the_role(as_role: Database) -> None:
    """Catalogue, subscription, quota with usage, audit, anchors and verification need no more."""
    shop = Shop(as_role)
    shop.apply()
    shop.subscribe()
    asked = {"feature": "calls", "quantity": 1, "record_usage": True, "request_id": "one"}
    consumed = shop.rest.post("/api/billing/organizations/acme/quotas/check", json=asked)
    assert consumed.is_success, consumed.text
    assert shop.rest.post(SUSPENSION, json={}).is_success
    Anchoring(as_role, shop.key).step()

    report = Verification(as_role, shop.ring).verify()
    assert (report.count, report.anchors) == (0, 1)
    assert report.entries > 1


def test_retention_and_partitions_as_the_role(as_role: Database) -> None:
    """It may neither delete events nor change the schema; functions of the owner do both for it."""
    shop = Shop(as_role)
    shop.apply(CATALOGUE.replace("\nplans:", "\nretention: {billable: 40d}\nplans:", 1))
    shop.subscribe()
    asked = {"feature": "calls", "quantity": 1, "record_usage": True, "request_id": "one"}
    assert shop.rest.post("/api/billing/organizations/acme/quotas/check", json=asked).is_success
    shop.clock.advance(90 * 86400)

    assert Retaining(as_role, shop.clock).step() == 1
    with as_role.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM usage_events")) == 0


async def test_a_plan_store_starts_as_the_role(url_of_role: str, tmp_path: Path) -> None:
    """A whole process' life, its workers included."""
    config = PlanstoreConfig(
        database=url_of_role, http="127.0.0.1:0", grpc="127.0.0.1:0", state_dir=tmp_path / "state"
    )
    prepare_state(config)
    stopping = asyncio.Event()

    await serve(config, stopping, lambda *_: stopping.set())


def test_granting_again_takes_what_was_too_much(postgres_dsn: str, url_of_role: str, role: str) -> None:
    """A right that somebody gave by hand does not outlive the next migration."""
    with psycopg.connect(postgres_dsn.replace("+psycopg", ""), autocommit=True) as admin:
        given = sql.SQL("GRANT ALL ON audit_log TO {}").format(sql.Identifier(role))
        admin.execute(given)
        migrate(postgres_dsn, grant_to=role)
        asked = "SELECT has_table_privilege(%s, 'audit_log', %s)"
        rights = {
            right: admin.execute(asked, (role, right)).fetchone()
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
        }

    assert role in make_url(url_of_role).username
    assert rights == {
        "SELECT": (True,),
        "INSERT": (True,),
        "UPDATE": (False,),
        "DELETE": (False,),
        "TRUNCATE": (False,),
    }


def test_several_may_grant_at_once(postgres_dsn: str, role: str) -> None:
    """Processes that start together migrate and grant together; PostgreSQL alone would end all but one."""
    migrate(postgres_dsn)
    with ThreadPoolExecutor(4) as pool:
        revisions = set(pool.map(lambda _: migrate(postgres_dsn, grant_to=role), range(8)))
    assert len(revisions) == 1


def test_a_role_that_is_not_there_is_named(postgres_dsn: str, tmp_path: Path) -> None:
    """And so is a database that has no roles."""
    with pytest.raises(ConfigurationError, match="--grant-to nobody: PostgreSQL has no such role"):
        migrate(postgres_dsn, grant_to="nobody")
    with pytest.raises(ConfigurationError, match="only PostgreSQL has roles"):
        migrate(f"sqlite:///{tmp_path}/planstore.db", grant_to="nobody")
