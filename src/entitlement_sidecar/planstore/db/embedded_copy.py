"""Copies of the embedded database: a backup of one in use, and the way back (S1.14).

A copy is one file without a journal beside it. It is complete and checked before it gets its name, so that a
copy that was cut short is never taken for one.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from entitlement_sidecar.domain.errors import ConfigurationError

_PATIENCE = 5.0
"""Seconds to wait for whoever holds the database."""


def back_up(database: Path, file: Path, *, replace: bool) -> int:
    """Copies a database, which may be in use, as it is at one instant. Returns the bytes of the copy.

    Raises:
        ConfigurationError: There is no such database, it is damaged, or the file exists and `replace` is
            not set, cannot be written, or is the database itself.
    """
    _require_plan_store(database)
    _require_apart(database, file)
    _require_room(file, replace=replace)
    return _copy(database, file)


def restore(file: Path, database: Path, *, replace: bool) -> int:
    """Puts a copy in the place of a database that nobody uses. Returns the bytes of it.

    Raises:
        ConfigurationError: The file is no backup or is damaged; or there is a database already and
            `replace` is not set, it is in use, or is the file itself.
    """
    _require_plan_store(file)
    _require_apart(database, file)
    _require_room(database, replace=replace)
    if database.exists():
        _require_unused(database)
    return _copy(file, database)


def _require_plan_store(path: Path) -> None:
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file; expected the database of a plan store")
    with _told(path), closing(_opened(path)) as connection:
        found = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'")
        if not found.fetchone()[0]:
            raise ConfigurationError(f"{path}: not the database of a plan store")


def _require_apart(database: Path, file: Path) -> None:
    """A database that is replaced under a plan store that runs would lose what is written meanwhile."""
    own = {database.resolve().with_name(f"{database.resolve().name}{end}") for end in ("", "-wal", "-shm")}
    same = file.exists() and database.exists() and file.samefile(database)
    if same or file.resolve() in own:
        raise ConfigurationError(f"{file}: is the database itself; name a file of the backup's own")


def _require_room(path: Path, *, replace: bool) -> None:
    if path.exists() and not replace:
        raise ConfigurationError(f"{path}: exists already; name another file, or replace it with --force")


def _require_unused(path: Path) -> None:
    """Only who is alone with a database can take it out of WAL mode; that also empties its journal."""
    with _told(path), closing(_opened(path)) as connection:
        try:
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError as error:
            raise ConfigurationError(f"{path}: in use; stop the plan store first ({error})") from error


def _copy(source: Path, target: Path) -> int:
    partial = target.with_name(f".{target.name}.partial")
    with _held(partial, target):
        with _told(source), closing(_opened(source)) as reading, closing(_opened(partial)) as writing:
            reading.backup(writing)
            writing.execute("PRAGMA journal_mode=DELETE")
            _check(source, writing)
        with _told(target):
            _remove_journals(target)
            return _named(partial, target)


@contextmanager
def _held(partial: Path, target: Path) -> Iterator[None]:
    """An empty file to write a copy into, which nobody else writes; what is left of it goes."""
    with _told(target):
        # It holds what customers have: for its owner only, from the first byte on.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        with _told(target):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it until now may have given it its name: then it is a copy.
                mine = partial.exists() and partial.stat().st_ino == os.fstat(descriptor).st_ino
            except BlockingIOError:
                mine = False
            if not mine:
                raise ConfigurationError(f"{target}: is being written by another copy; try again after it")
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
            _remove_journals(partial)
        try:
            yield
        finally:
            partial.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _check(source: Path, copy: sqlite3.Connection) -> None:
    problems = [row[0] for row in copy.execute("PRAGMA integrity_check(3)")]
    if problems != ["ok"]:
        raise ConfigurationError(f"{source}: damaged: {'; '.join(problems)}")


def _remove_journals(target: Path) -> None:
    """What is left of a database of that name, or it would be played into the copy when that is opened."""
    for end in ("-wal", "-shm", "-journal"):
        target.with_name(target.name + end).unlink(missing_ok=True)


def _named(partial: Path, target: Path) -> int:
    """Gives a complete copy its name, so that it is there after a crash too."""
    for path, rename in ((partial, True), (target.parent, False)):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if rename:
            partial.replace(target)
    return target.stat().st_size


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=_PATIENCE)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Says which file it was that could not be read or written."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path}: cannot be read as a database: {error}") from error
