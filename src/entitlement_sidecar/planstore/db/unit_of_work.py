"""One request, one transaction. What runs inside never commits."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy import Engine, event, func, select
from sqlalchemy.orm import Session, sessionmaker

from entitlement_sidecar.planstore.db.engine import WRITING

_WRITTEN = "written"


class Database:
    """Hands out sessions, each with one transaction that commits at the end or leaves nothing behind."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._writers = sessionmaker(engine.execution_options(**{WRITING: True}), expire_on_commit=False)
        # SQLite has one writer at a time and lets others poll for their turn; a lock queues them instead.
        self._turn = threading.Lock() if self.is_sqlite else nullcontext()
        self._enclosing = threading.local()
        self._in_use: set[psycopg.Connection[Any]] = set()
        if not self.is_sqlite:
            event.listen(engine, "checkout", lambda connection, *_: self._in_use.add(connection))
            event.listen(engine, "checkin", lambda connection, *_: self._in_use.discard(connection))

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that may write. Not reentrant: on SQLite a second one inside it would never begin."""
        if (outer := self._outer()) is not None:
            outer.info[_WRITTEN] = True
            with outer.begin_nested():
                yield outer
            return
        with self._turn, self._writers.begin() as session:
            yield session

    @contextmanager
    def enclosing(self) -> Iterator[Session]:
        """A writing transaction that all that this thread opens inside becomes part of: one commit for all.

        What `writing` opens inside is a savepoint: its failure takes back its own work.
        """
        with self.writing() as session:
            self._enclosing.session = session
            try:
                yield session
            finally:
                self._enclosing.session = None

    def _outer(self) -> Session | None:
        return getattr(self._enclosing, "session", None)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads; on SQLite it sees one state from its first read on."""
        if (outer := self._outer()) is not None:
            yield outer
            return
        with self._sessions() as session:
            yield session

    def now(self, session: Session) -> datetime:
        """The database's clock, in UTC; the same for every replica of the plan store."""
        if self.is_sqlite:
            return datetime.now(UTC)
        # Not now(): that is when the transaction began.
        stamp: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return stamp.astimezone(UTC)

    def ping(self) -> None:
        """Asks the database for nothing; raises what the driver raises when it is away."""
        with self.reading() as session:
            session.execute(select(1))

    def close(self) -> None:
        """Closes every connection. Who still waits for a PostgreSQL that does not answer is told so."""
        for connection in tuple(self._in_use):
            _hang_up(connection)
        self.engine.dispose()


def has_written(session: Session) -> bool:
    """Whether anything inside `Database.enclosing` asked to write, successfully or not."""
    return bool(session.info.get(_WRITTEN))


def after_commit(session: Session, do: Callable[[], object]) -> None:
    """Does something once the session's transaction is committed, and not if it is rolled back."""
    event.listen(session, "after_commit", lambda one: None if one.in_nested_transaction() else do())


def _hang_up(connection: psycopg.Connection[Any]) -> None:
    # Closing would race with the thread that waits on it; this only wakes that thread, with an error.
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)
