"""A database that says nothing: how long it is waited for, and that the end does not wait for it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from entitlement_sidecar.planstore.db import Database, create_engine_for
from entitlement_sidecar.planstore.db import engine as engines
from entitlement_sidecar.planstore.db.migrate import is_current, migrate
from entitlement_sidecar.planstore.snapshots import worker as workers
from entitlement_sidecar.planstore.snapshots.worker import Worker
from entitlement_sidecar.telemetry import probes
from entitlement_sidecar.telemetry.probes import HttpServer
from support.waiting import until


def settings(url: str) -> dict[str, str]:
    """How a connection to the database waits, in libpq's words, and how long a statement may take."""
    database = Database(create_engine_for(url))
    with database.reading() as session:
        line: Any = session.connection().connection.dbapi_connection
        found = {name: str(value) for name, value in line.info.get_parameters().items()}
        found["statement_timeout"] = session.scalar(text("SHOW statement_timeout"))
    database.close()
    return found


def test_connections_do_not_wait_for_ever(postgres_dsn: str) -> None:
    """A server that is gone without a word is noticed, and a statement that takes too long is given up."""
    found = settings(postgres_dsn)

    assert {name: found[name] for name in ("connect_timeout", "tcp_user_timeout", "statement_timeout")} == {
        "connect_timeout": "5",
        "tcp_user_timeout": "20000",
        "statement_timeout": "30s",
    }
    assert [found[f"keepalives_{name}"] for name in ("idle", "interval", "count")] == ["10", "5", "3"]


def test_the_url_has_the_last_word(postgres_dsn: str) -> None:
    """Whoever writes a wait into the URL gets that one."""
    found = settings(f"{postgres_dsn}&tcp_user_timeout=7000&options=-c%20statement_timeout%3D9s")

    assert (found["tcp_user_timeout"], found["statement_timeout"]) == ("7000", "9s")


def test_migrations_take_their_time(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who waits for another's migration is not given up on."""
    monkeypatch.setattr(engines, "STATEMENT_TIMEOUT", 1)
    plain = postgres_dsn.replace("postgresql+psycopg", "postgresql")
    with ThreadPoolExecutor(1) as pool, psycopg.connect(plain) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [0x656E7469746C65])
        migrating = pool.submit(migrate, postgres_dsn)
        with psycopg.connect(plain, autocommit=True) as looking:
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory' "
            longer = "AND now() - xact_start > '1.5s'"
            until(lambda: looking.execute(waits + longer).fetchone(), "a migration that waits")
        other.commit()
        migrating.result(30)

    database = Database(create_engine_for(postgres_dsn))
    assert is_current(database.engine)
    database.close()


def test_closing_ends_those_who_wait(postgres_dsn: str) -> None:
    """A thread that waits for an answer gets an error when the process is about to go."""
    database = Database(create_engine_for(postgres_dsn))
    asked = threading.Event()

    def wait() -> None:
        with database.reading() as session:
            session.execute(text("SELECT 1"))
            asked.set()
            session.execute(text("SELECT pg_sleep(25)"))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        assert asked.wait(10)
        database.close()

        with pytest.raises(OperationalError):
            waiting.result(10)


def test_a_step_that_does_not_end_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopping waits for a step, but not for ever."""
    monkeypatch.setattr(workers, "PATIENCE", 0.05)
    begun, go_on = threading.Event(), threading.Event()

    def step() -> None:
        begun.set()
        go_on.wait(30)

    worker = Worker("stuck", step, 0.1)
    worker.start()
    assert begun.wait(10)

    worker.stop()

    assert "stuck: does not end" in caplog.text
    go_on.set()


def test_stopping_does_not_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is not waited for until it may be tried again."""
    monkeypatch.setattr(workers, "_backoff", lambda _: 60.0)
    failed = threading.Event()

    def step() -> None:
        failed.set()
        raise OSError("away")

    worker = Worker("failing", step, 0.1)
    worker.start()
    assert failed.wait(10)

    worker.stop()

    assert not [thread for thread in threading.enumerate() if thread.name == "failing"]


async def test_a_request_that_does_not_end_does_not_hold_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HTTP ends after its grace, whatever a request waits for."""
    monkeypatch.setattr(probes, "GRACE", 1)
    begun: asyncio.Event = asyncio.Event()

    async def hang(_: object) -> PlainTextResponse:
        begun.set()
        await asyncio.sleep(60)
        return PlainTextResponse("late")

    server = HttpServer(Starlette(routes=[Route("/", hang)]), "127.0.0.1:0", allow_remote=False)
    serving = asyncio.create_task(server.run_until_stopped())
    async with httpx.AsyncClient(timeout=30) as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{server.port}/"))
        await begun.wait()

        server.stop()
        await asyncio.wait_for(serving, 20)
        await asyncio.gather(asking, return_exceptions=True)
