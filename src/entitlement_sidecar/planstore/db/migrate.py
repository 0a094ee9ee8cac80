"""Brings a database to the current schema, in two phases, so that versions may run beside each other.

Phase `pre` only adds what the version before ignores: run it before the first new plan store starts. Phase
`post` is what the version before would break or miss: run it after the last old one has ended.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import IntegrityError

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.db.away import AWAY, MISNAMED, told
from entitlement_sidecar.planstore.db.engine import WRITING, create_engine_for
from entitlement_sidecar.planstore.db.grants import grant, take_turn
from entitlement_sidecar.planstore.db.partitions import make_months

_log = logging.getLogger(__name__)


class Phase(StrEnum):
    """Which migrations to run."""

    PRE = "pre"
    POST = "post"
    ALL = "all"


def migrate(url: str, phase: Phase = Phase.ALL, grant_to: str = "") -> str:
    """Brings the database to the current schema; does nothing when it is there already.

    Safe to repeat and safe with several at once: the others wait, and then find nothing to do. Post includes
    pre. `grant_to` names the PostgreSQL role of the plan stores: it may then do what they do and nothing
    more, which for append-only tables is to read and to add.

    Returns:
        The revisions that the database is at now.

    Raises:
        ConfigurationError: The URL is malformed, the database cannot be reached, it has no such role, or it
            holds rows that a new rule refuses.
    """
    engine = create_engine_for(url)
    if engine.dialect.name == "sqlite":
        # Altering copies a table and drops the old one, to which others refer meanwhile.
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=OFF"))
    try:
        return _upgrade_and_grant(engine, phase, grant_to)
    except (*AWAY, *MISNAMED) as error:
        where = engine.url.database if engine.dialect.name == "sqlite" else "PostgreSQL"
        raise ConfigurationError(f"database {where}: cannot be reached or changed: {told(error)}") from error
    except IntegrityError as error:
        raise ConfigurationError(
            "database: it holds rows that a new rule refuses; put them right, nothing was changed: "
            f"{told(error)}"
        ) from error
    finally:
        engine.dispose()


def is_current(engine: Engine) -> bool:
    """Whether the database has the schema that this version needs: its own pre phase, or a newer one's."""
    with engine.connect() as connection:
        return _has(_revisions(connection), head())


@cache
def head(phase: Phase = Phase.PRE) -> str:
    """The newest revision of a phase that this version ships."""
    return _scripts().get_revision(f"{phase}@head").revision


def migrations_folder() -> Path:
    """Where migrations are: inside the package when installed, at the top of the source tree otherwise."""
    installed = Path(__file__).parent / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[4] / "migrations"


def _upgrade_and_grant(engine: Engine, phase: Phase, grant_to: str) -> str:
    revisions = _upgrade(engine, phase)
    if grant_to:
        grant(engine, grant_to)
    return revisions


def _upgrade(engine: Engine, phase: Phase) -> str:
    with engine.execution_options(**{WRITING: True}).begin() as connection:
        if engine.dialect.name == "postgresql":
            take_turn(connection)
        before = _revisions(connection)
        config = _config()
        config.attributes["connection"] = connection
        for part in (Phase.PRE,) if phase is Phase.PRE else (Phase.PRE, Phase.POST):
            # A newer plan store may have gone further already; what it did includes ours.
            if not _has(_revisions(connection), head(part)):
                _run(config, part)
        after = _revisions(connection)
        make_months(connection, datetime.now(UTC).date())
        if engine.dialect.name == "sqlite" and connection.execute(text("PRAGMA foreign_key_check")).all():
            raise ConfigurationError("database: rows refer to what is not there; nothing was changed")
    if after != before:
        _log.info("database migrated from revision %s to %s", _told(before), _told(after))
    return _told(after)


def _run(config: Config, phase: Phase) -> None:
    try:
        command.upgrade(config, f"{phase}@head")
    except CommandError as error:
        raise ConfigurationError(
            f"database: migrated by a newer version: run its `planstore migrate --phase {phase}`: {error}"
        ) from error


def _revisions(connection: Connection) -> tuple[str, ...]:
    return tuple(sorted(MigrationContext.configure(connection).get_current_heads()))


def _told(revisions: tuple[str, ...]) -> str:
    return ", ".join(revisions) or "none"


def _has(revisions: tuple[str, ...], wanted: str) -> bool:
    """Whether a database at these revisions has been through another one."""
    known = {script.revision: script for script in _scripts().walk_revisions()}
    if any(revision not in known and _phase_of(revision) is _phase_of(wanted) for revision in revisions):
        # A newer plan store's; those of this version come before it.
        return True
    through = {
        step.revision
        for revision in revisions
        if revision in known
        for step in _scripts().iterate_revisions(revision, "base")
    }
    return wanted in through


def _phase_of(revision: str) -> Phase:
    return Phase.POST if revision.startswith("p") else Phase.PRE


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config
