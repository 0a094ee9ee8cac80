"""Rights of the plan stores' PostgreSQL role: less than the owner's, and append-only where it says so."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, text

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.db.base import Base

APPEND_ONLY = frozenset(
    {"audit_anchors", "audit_log", "subscription_history", "usage_classifications", "usage_events"}
)
"""Tables whose rows are read and added, and never changed or removed (DESIGN 9). Triggers say so too."""

FUNCTIONS = (
    "usage_events_make_months(date, integer)",
    "usage_events_remove(integer, timestamptz, timestamptz, timestamptz)",
    "usage_events_drop_empty_months(date)",
)
"""What plan stores may have done by the owner of the tables, and nobody else: partitions, and retention."""

_LOCK = 0x656E7469746C65
"""Key of the advisory lock of who changes the schema, or rights on it: "entitle" in ASCII."""


def take_turn(connection: Connection) -> None:
    """Waits for whoever else changes the schema of this PostgreSQL, until its transaction ends."""
    # Rewriting a large table takes as long as it takes, and so does waiting for who does it.
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def grant(engine: Engine, role: str) -> None:
    """Gives a role what plan stores need, and takes what they must not have.

    Raises:
        ConfigurationError: It is not PostgreSQL, or has no such role.
    """
    if engine.dialect.name != "postgresql":
        raise ConfigurationError("--grant-to: only PostgreSQL has roles")
    with engine.begin() as connection:
        # PostgreSQL ends a grant that meets another one with an error.
        take_turn(connection)
        if connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}) is None:
            raise ConfigurationError(f"--grant-to {role}: PostgreSQL has no such role; create it first")
        _grant(connection, connection.dialect.identifier_preparer.quote_identifier(role))


def _grant(connection: Connection, role: str) -> None:
    schema = connection.dialect.identifier_preparer.quote_identifier(
        str(connection.scalar(text("SELECT current_schema()")))
    )
    connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {role}"))
    connection.execute(text(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"))
    connection.execute(text(f"GRANT SELECT ON alembic_version TO {role}"))
    for table in sorted(Base.metadata.tables):
        connection.execute(text(f"REVOKE ALL ON {table} FROM {role}"))
        rights = "SELECT, INSERT" if table in APPEND_ONLY else "SELECT, INSERT, UPDATE, DELETE"
        connection.execute(text(f"GRANT {rights} ON {table} TO {role}"))
    for function in FUNCTIONS:
        connection.execute(text(f"GRANT EXECUTE ON FUNCTION {function} TO {role}"))
