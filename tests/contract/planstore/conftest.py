"""A migrated database of each kind, empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from entitlement_sidecar.planstore.db import Database, create_engine_for
from entitlement_sidecar.planstore.db.migrate import migrate


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/planstore.db"
    dsn: str = request.getfixturevalue("postgres_dsn")
    return dsn


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty database of either kind."""
    migrate(database_url)
    database = Database(create_engine_for(database_url))
    yield database
    database.close()
