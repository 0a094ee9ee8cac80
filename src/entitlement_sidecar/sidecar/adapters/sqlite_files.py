"""What the SQLite files of the state folder share: how they are opened, read, found damaged, set aside."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

BUSY_TIMEOUT_MS = 1000
"""Milliseconds to wait for someone who looks into the file, such as an operator's shell."""
_STATEMENTS = 512
"""Prepared statements that are kept: inserts are prepared for each number of rows."""
_READ_TIMEOUT = 0.1
"""Seconds that a read may wait for the file; the event loop may wait with it."""

_STATEMENT = re.compile(r"^-- name: (\w+)\n(?:-- [^\n]*\n)*(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)


class CorruptFileError(sqlite3.DatabaseError):
    """The file is damaged, or is another's."""


def is_corrupt(error: BaseException) -> bool:
    """Whether an error says that the file is damaged."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, CorruptFileError) or code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def load_statements(name: str) -> dict[str, str]:
    """The statements of an SQL file beside this module, by the name above each."""
    return dict(_STATEMENT.findall(files(__package__).joinpath(name).read_text("utf-8")))


def open_private(path: Path) -> sqlite3.Connection:
    """The connection that writes. A file that is made is for this user alone, with its companions."""
    # Before SQLite makes it: SQLite gives its companions the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_MS / 1000,
        cached_statements=_STATEMENTS,
    )


def open_reader(path: Path) -> sqlite3.Connection:
    """A second connection, for reads beside the one that writes."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_READ_TIMEOUT,
    )


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some failures have rolled back already
            db.execute("ROLLBACK")
        raise


def set_aside(path: Path) -> Path:
    """Renames a damaged file and its companions, so that nothing in it is lost for good."""
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside
