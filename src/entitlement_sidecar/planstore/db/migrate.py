"""Brings a database to the current schema."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.db.away import AWAY, MISNAMED, told
from entitlement_sidecar.planstore.db.engine import WRITING, create_engine_for

_LOCK = 0x656E7469746C65
"""Key of the advisory lock that migrations take: "entitle" in ASCII."""

_log = logging.getLogger(__name__)


def migrate(url: str) -> str:
    """Brings the database to the current schema; does nothing when it is there already.

    Safe to repeat and safe with several at once: the others wait, and then find nothing to do.

    Returns:
        The revision that the database is at now.

    Raises:
        ConfigurationError: The URL is malformed or the database cannot be reached.
    """
    engine = create_engine_for(url)
    try:
        return _upgrade(engine)
    except (*AWAY, *MISNAMED) as error:
        where = engine.url.database if engine.dialect.name == "sqlite" else "PostgreSQL"
        raise ConfigurationError(f"database {where}: cannot be reached or changed: {told(error)}") from error
    finally:
        engine.dispose()


def is_current(engine: Engine) -> bool:
    """Whether the database has the schema that this version expects."""
    with engine.connect() as connection:
        return _revision(connection) == head()


@cache
def head() -> str:
    """The newest revision that this version ships."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def migrations_folder() -> Path:
    """Where migrations are: inside the package when installed, at the top of the source tree otherwise."""
    installed = Path(__file__).parent / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[4] / "migrations"


def _upgrade(engine: Engine) -> str:
    with engine.execution_options(**{WRITING: True}).begin() as connection:
        if engine.dialect.name == "postgresql":
            # Rewriting a large table takes as long as it takes, and so does waiting for who does it.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = _revision(connection)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        after = _revision(connection)
    if after != before:
        _log.info("database migrated from revision %s to %s", before or "none", after)
    return after


def _revision(connection: Connection) -> str:
    return MigrationContext.configure(connection).get_current_revision() or ""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config
