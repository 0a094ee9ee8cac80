"""Database URLs: what is accepted, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.db import create_engine_for
from entitlement_sidecar.planstore.db.migrate import migrate


@pytest.mark.parametrize(
    "url",
    [
        "",
        "planstore.db",
        "postgresql://user:secret@host:port/database",
        "postgresql://user:secret@host",
        "postgresql+asyncpg://user:secret@host/database",
        "mysql://user:secret@host/database",
        "sqlite+aiosqlite:///file.db",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_other_urls_are_refused_without_repeating_them(url: str) -> None:
    """The message names the setting and the accepted forms, and never a password."""
    with pytest.raises(ConfigurationError, match=r"^database: .*expected sqlite:////absolute") as caught:
        create_engine_for(url)

    assert "secret" not in str(caught.value)


def test_a_password_shows_nowhere() -> None:
    """The engine itself does not show it either."""
    engine = create_engine_for("postgresql://user:secret@host/database")

    assert "secret" not in repr(engine)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A database that cannot be opened is an error of configuration that names the file."""
    path = tmp_path / "missing" / "planstore.db"

    with pytest.raises(ConfigurationError, match=str(path)):
        migrate(f"sqlite:///{path}")


def test_a_server_that_is_not_there_is_named(free_port: int) -> None:
    """Nobody at the port: the message names the host, not the password."""
    with pytest.raises(ConfigurationError, match=str(free_port)) as caught:
        migrate(f"postgresql://user:secret@127.0.0.1:{free_port}/database")

    assert "secret" not in str(caught.value)
