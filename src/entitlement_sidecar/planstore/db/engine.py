"""Engines: what both databases need to keep their promises."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from entitlement_sidecar.domain.errors import ConfigurationError

WRITING = "entitlements_writing"
"""Execution option of a connection whose transaction is going to write."""

_ACCEPTED = (
    "expected sqlite:////absolute/path/to/file.db or postgresql://USER:PASSWORD@HOST:PORT/DATABASE "
    "(the password is better kept in PGPASSFILE)"
)
_BUSY_TIMEOUT = 30
"""Seconds that SQLite waits for another process' write; threads of this one queue before it."""
STATEMENT_TIMEOUT = 30
"""Seconds that one statement may take in PostgreSQL, waiting for locks included."""
_WAITS: dict[str, Any] = {
    "connect_timeout": 5,
    # A server that is silently gone is noticed within half a minute, also while it is waited for.
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""How long PostgreSQL is waited for, in libpq's words, unless the URL says otherwise."""


def create_engine_for(url: str) -> Engine:
    """An engine for a database URL.

    Raises:
        ConfigurationError: The URL is not one of the accepted forms. Its text is not repeated, since it may
            hold a password.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed)
    waits = _WAITS | {"options": f"-c statement_timeout={STATEMENT_TIMEOUT}s"}
    waits = {name: value for name, value in waits.items() if name not in parsed.query}
    try:
        return create_engine(parsed, connect_args=waits, pool_pre_ping=True, pool_size=10, max_overflow=20)
    except ArgumentError as error:
        # It names the option, not the URL.
        raise ConfigurationError(f"database: {error}; {_ACCEPTED}") from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The cause repeats the URL, so it is not chained.
        raise ConfigurationError(f"database: not a database URL; {_ACCEPTED}") from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return _postgresql(parsed)
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite"}:
        raise ConfigurationError(f"database: {parsed.drivername!r} is not supported; {_ACCEPTED}")
    if parsed.database in {None, "", ":memory:"}:
        raise ConfigurationError(f"database: SQLite needs a file; {_ACCEPTED}")
    return parsed


def _postgresql(url: URL) -> URL:
    if not url.database:
        raise ConfigurationError(f"database: names no database; {_ACCEPTED}")
    if url.drivername not in {"postgresql", "postgresql+psycopg"}:
        raise ConfigurationError(f"database: {url.drivername!r} is not supported; {_ACCEPTED}")
    return url.set(drivername="postgresql+psycopg")


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT}, pool_size=10, max_overflow=20)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:  # noqa: ANN401 - pool internals
    # The driver's own transactions begin too late, at the first write; these begin where SQLAlchemy says so.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later can lose its turn halfway; IMMEDIATE takes it at once.
    writing = connection.get_execution_options().get(WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
