"""Copies of the embedded database: complete, checked, and never in the way of what is there."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.db import Database, OrganizationRow, create_engine_for, embedded_copy
from entitlement_sidecar.planstore.db.embedded_copy import back_up, restore
from support.shop import NOW


@pytest.fixture
def file(sqlite_template: Path, tmp_path: Path) -> Path:
    """A migrated database that nobody uses."""
    path = tmp_path / "planstore.db"
    shutil.copyfile(sqlite_template, path)
    return path


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    """The same, in use by a plan store."""
    database = Database(create_engine_for(f"sqlite:///{file}"))
    _add(database, "acme")
    yield database
    database.close()


def _add(database: Database, tenant: str) -> None:
    with database.writing() as session:
        session.add(OrganizationRow(tenant_id=tenant, snapshot_version=1, created_at=NOW))


def _tenants(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT tenant_id FROM organizations ORDER BY 1")]


def test_a_copy_is_of_one_instant(database: Database, file: Path, tmp_path: Path) -> None:
    """What was committed is in it although the journal was not emptied, what comes later is not."""
    copy = tmp_path / "copy.db"
    with database.writing() as session:
        session.add(OrganizationRow(tenant_id="not-yet", snapshot_version=1, created_at=NOW))
        session.flush()
        back_up(file, copy, replace=False)
    assert _tenants(copy) == ["acme"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.glob("*copy*")) == ["copy.db"]


def test_a_copy_is_replaced_only_where_that_is_asked_for(
    database: Database, file: Path, tmp_path: Path
) -> None:
    """A backup of yesterday is not lost to one of today by accident."""
    copy = tmp_path / "copy.db"
    back_up(file, copy, replace=False)
    _add(database, "umbrella")
    with pytest.raises(ConfigurationError, match=r"exists already.*--force"):
        back_up(file, copy, replace=False)
    assert _tenants(copy) == ["acme"]
    back_up(file, copy, replace=True)
    assert _tenants(copy) == ["acme", "umbrella"]


def test_a_copy_comes_back(database: Database, file: Path, tmp_path: Path) -> None:
    """In the place of what was there, whose journal goes with it."""
    copy = tmp_path / "copy.db"
    back_up(file, copy, replace=False)
    _add(database, "umbrella")
    database.close()
    with pytest.raises(ConfigurationError, match="exists already"):
        restore(copy, file, replace=False)
    restore(copy, file, replace=True)
    assert _tenants(file) == ["acme"]
    assert sorted(path.name for path in tmp_path.glob("*planstore*")) == ["planstore.db"]


def test_a_database_in_use_is_not_replaced(
    database: Database, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever uses it would go on with what is not there any more."""
    monkeypatch.setattr("entitlement_sidecar.planstore.db.embedded_copy._PATIENCE", 0.1)
    copy = tmp_path / "copy.db"
    back_up(file, copy, replace=False)
    _add(database, "umbrella")  # From now on it only waits, with a connection open.
    with pytest.raises(ConfigurationError, match="in use; stop the plan store first"):
        restore(copy, file, replace=True)
    assert _tenants(file) == ["acme", "umbrella"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no such file"),
        (b"", "not the database"),
        (b"plain text, for long enough" * 99, "cannot be read"),
    ],
)
def test_what_is_no_backup_is_not_restored(
    content: bytes | None, why: str, file: Path, tmp_path: Path
) -> None:
    """The database that is there stays."""
    wrong = tmp_path / "wrong.db"
    if content is not None:
        wrong.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(ConfigurationError, match=f"wrong.db: {why}"):
        restore(wrong, file, replace=True)
    assert file.read_bytes() == before


def test_a_damaged_backup_is_not_restored(database: Database, file: Path, tmp_path: Path) -> None:
    """Every page is looked at before the copy gets its name."""
    copy = tmp_path / "copy.db"
    with database.writing() as session:
        session.add_all(
            OrganizationRow(tenant_id=f"t{number}", snapshot_version=1, created_at=NOW)
            for number in range(2000)
        )
    back_up(file, copy, replace=False)
    database.close()
    content = bytearray(copy.read_bytes())
    middle = len(content) * 3 // 4 // 4096 * 4096
    content[middle : middle + 8192] = b"\xff" * 8192
    copy.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"copy\.db: (damaged|cannot be read)"):
        restore(copy, file, replace=True)
    assert len(_tenants(file)) == 2001
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_that_is_not_there_is_named(file: Path, tmp_path: Path) -> None:
    """And nothing is left behind."""
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        back_up(file, tmp_path / "nowhere" / "copy.db", replace=False)


@pytest.mark.parametrize("name", ["planstore.db", "planstore.db-wal", "planstore.db-shm", "linked.db"])
def test_a_database_is_no_backup_of_itself(database: Database, file: Path, tmp_path: Path, name: str) -> None:
    """Not even with `--force`: a plan store that runs would go on writing to what nobody finds any more."""
    (tmp_path / "linked.db").symlink_to(file)
    with pytest.raises(ConfigurationError, match=f"{name}: is the database itself"):
        back_up(file, tmp_path / name, replace=True)
    _add(database, "umbrella")
    assert _tenants(file) == ["acme", "umbrella"]


def test_a_database_is_not_copied_onto_itself(database: Database, file: Path, tmp_path: Path) -> None:
    """Not by another name of it either: who uses it would go on with what is not there any more."""
    other = tmp_path / "other.db"
    other.symlink_to(file)
    for name in (file, other):
        with pytest.raises(ConfigurationError, match="is the database itself"):
            back_up(file, name, replace=True)
        with pytest.raises(ConfigurationError, match="is the database itself"):
            restore(name, file, replace=True)
    _add(database, "umbrella")
    assert _tenants(file) == ["acme", "umbrella"]


def test_a_journal_that_was_left_behind_is_not_played_into_what_comes_back(
    database: Database, file: Path, tmp_path: Path
) -> None:
    """The database was deleted, its journal was not: only what the backup has comes back."""
    copy, journal = tmp_path / "copy.db", file.with_name("planstore.db-wal")
    back_up(file, copy, replace=False)
    _add(database, "later")
    left = journal.read_bytes()
    database.close()
    file.unlink()
    journal.write_bytes(left)
    assert left

    restore(copy, file, replace=False)

    assert _tenants(file) == ["acme"]


@pytest.mark.usefixtures("database")
def test_two_copies_to_one_file_do_not_mix(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is told so while the first is being written; what the first leaves is complete."""
    copy = tmp_path / "copy.db"
    check = embedded_copy._check

    def meanwhile(source: Path, writing: sqlite3.Connection) -> None:
        with pytest.raises(ConfigurationError, match="is being written by another copy"):
            back_up(file, copy, replace=True)
        check(source, writing)

    monkeypatch.setattr(embedded_copy, "_check", meanwhile)
    back_up(file, copy, replace=True)

    assert _tenants(copy) == ["acme"]
    assert [path.name for path in tmp_path.glob("*copy*")] == ["copy.db"]


@pytest.mark.usefixtures("database")
def test_what_a_copy_that_was_killed_left_is_written_over(file: Path, tmp_path: Path) -> None:
    """Also where others could read it."""
    copy, left = tmp_path / "copy.db", tmp_path / ".copy.db.partial"
    left.write_bytes(b"half of a copy" * 999)
    left.chmod(0o644)

    back_up(file, copy, replace=False)

    assert _tenants(copy) == ["acme"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert not left.exists()
