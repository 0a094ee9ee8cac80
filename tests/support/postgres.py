"""Empty databases of a PostgreSQL that runs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """The SQLAlchemy URL of a new database, by the server's administration URI; dropped in the end."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    base, _, query = server.partition("?")
    root, _, _ = base.rpartition("/")
    yield f"{root}/{name}?{query}".replace("postgresql://", "postgresql+psycopg://")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
