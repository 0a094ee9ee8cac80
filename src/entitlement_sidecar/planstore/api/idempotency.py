"""`Idempotency-Key`: a POST that is sent again gets its first answer again, and is done once.

The change and its answer are one transaction: before the route runs, a transaction is opened which all that
the route opens joins (`Database.enclosing`); its answer is rendered and stored inside; then it commits. So a
process that is killed at any point leaves both or neither, and a retry finds the answer or does the work.

Two of the same key at once: the second is told 409 with `Retry-After`. In one process a set of running keys
says so; between replicas an advisory lock of PostgreSQL does, which ends with its transaction. On SQLite a
second process waits for the one writer's turn, and finds the answer. The table's primary key backs them all.

A route that only read (a look at a quota, what a catalogue would change) is answered anew: doing it twice is
right, its answer may have changed, and who may only read stores nothing.

Only what succeeded is kept: after an error the transaction is rolled back, and the same key may try again. An
answer with `Cache-Control: no-store` holds a secret: that it was given is kept, and not its text. Keys are
forgotten after `KEPT`.

A route that is many transactions, because it walks over all tenants in small steps, cannot be one. It says
that it is `repeatable`: doing it twice does no more than doing it once. Its answer is kept after it was done,
and a crash in between makes a retry do it again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec
from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session
from starlette.responses import Response

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import ConflictError, InvalidInputError, RetryableError, Violation
from entitlement_sidecar.planstore.access import current_principal
from entitlement_sidecar.planstore.audit import current_actor
from entitlement_sidecar.planstore.db import Database, IdempotencyRow
from entitlement_sidecar.planstore.db.unit_of_work import has_written
from entitlement_sidecar.planstore.db.upsert import insert_for

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEPT = timedelta(hours=24)
"""How long an answer is kept."""

PURGED_AT_ONCE = 20
"""Expired keys that each new one takes away."""

_KEPT_HEADERS = ("content-type", "etag", "location")
_FIRST_ERROR = 400


_REPEATABLE = "repeatable"

_Route = TypeVar("_Route", bound=Callable[..., Any])


def repeatable(route: _Route) -> _Route:
    """Marks a route of many transactions, of which doing it twice does no more than doing it once."""
    setattr(route, _REPEATABLE, True)
    return route


def is_repeatable(route: Callable[..., Any]) -> bool:
    """Whether the route is marked so."""
    return getattr(route, _REPEATABLE, False)


class KeyReusedError(InvalidInputError):
    """The key came before with another request."""

    reason = "IDEMPOTENCY_CONFLICT"


class KeyInUseError(RetryableError):
    """The first request with this key is still being answered."""

    reason = "IDEMPOTENCY_IN_PROGRESS"


class AnswerNotKeptError(ConflictError):
    """It was done, and its answer held a secret, which is given once."""

    reason = "ANSWER_NOT_KEPT"


class KeyedRequest(msgspec.Struct, frozen=True):
    """A request with a key: who sent it, and what it was."""

    principal: str
    key: str
    digest: bytes

    @classmethod
    def of(cls, key: str, target: str, body: bytes) -> KeyedRequest:
        """The request of who acts now; `target` is method, path, query and `If-Match`."""
        digest = hashlib.sha256(target.encode() + b"\0" + body).digest()
        principal = current_principal()
        return cls(principal.id if principal else current_actor().name, key, digest)

    @property
    def lock(self) -> int:
        """A number for PostgreSQL's advisory locks. Two that share one wait for each other, and no more."""
        named = hashlib.sha256(f"{HEADER}\0{self.principal}\0{self.key}".encode()).digest()
        return int.from_bytes(named[:8], signed=True)


class IdempotentAnswers:
    """Answers each keyed request once. Thread-safe."""

    def __init__(self, database: Database, clock: Clock, changed: Callable[[], None]) -> None:
        self._database = database
        self._clock = clock
        self._changed = changed
        self._running: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def answer(self, asked: KeyedRequest, do: Callable[[], Response]) -> Response:
        """The stored answer, or what `do` answers now, in one transaction with all that `do` changes.

        Raises:
            KeyReusedError: The key came before with another request.
            KeyInUseError: The first request with this key is still being answered.
            AnswerNotKeptError: It was done, and its answer is not kept.
        """
        with self._alone(asked), self._database.enclosing() as session:
            self._hold(session, asked)
            now = self._clock.now()
            if earlier := _stored(session, asked, now):
                return _replay(earlier, asked)
            response = do()
            if has_written(session):
                _keep(session, asked, response, now)
        # What the route announced before was not committed yet.
        self._changed()
        return response

    def answer_repeatable(self, asked: KeyedRequest, do: Callable[[], Response]) -> Response:
        """The stored answer, or what `do` answers now, in transactions of its own. Raises like `answer`."""
        with self._alone(asked):
            with self._database.writing() as session:
                if earlier := _stored(session, asked, self._clock.now()):
                    return _replay(earlier, asked)
            response = do()
            with self._database.writing() as session:
                _keep(session, asked, response, self._clock.now())
            return response

    @contextmanager
    def _alone(self, asked: KeyedRequest) -> Iterator[None]:
        name = (asked.principal, asked.key)
        with self._lock:
            if name in self._running:
                raise _in_use()
            self._running.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(name)

    def _hold(self, session: Session, asked: KeyedRequest) -> None:
        if self._database.is_sqlite:
            return
        if not session.scalar(select(func.pg_try_advisory_xact_lock(asked.lock))):
            raise _in_use()


def _in_use() -> KeyInUseError:
    return KeyInUseError(f"the first request with this {HEADER} is still being answered: try again", 1.0)


def _stored(session: Session, asked: KeyedRequest, now: datetime) -> IdempotencyRow | None:
    row = session.get(IdempotencyRow, (asked.principal, asked.key))
    if row is not None and row.created_at <= now - KEPT:
        session.delete(row)
        session.flush()
        return None
    return row


def _replay(row: IdempotencyRow, asked: KeyedRequest) -> Response:
    if row.digest != asked.digest:
        raise KeyReusedError([Violation(HEADER, "expected a key of its own, got that of another request")])
    headers: dict[str, str] | None = json.loads(row.headers)
    if headers is None:
        raise AnswerNotKeptError("this was done before; its answer holds a secret, which is given only once")
    return Response(row.body, row.status, {**headers, REPLAYED: "true"})


def _keep(session: Session, asked: KeyedRequest, response: Response, now: datetime) -> None:
    if response.status_code >= _FIRST_ERROR:
        return
    secret = "no-store" in response.headers.get("cache-control", "")
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    kept = insert_for(session, IdempotencyRow).values(
        principal=asked.principal,
        key=asked.key,
        digest=asked.digest,
        status=response.status_code,
        headers=json.dumps(None if secret else headers),
        body=b"" if secret else bytes(response.body),
        created_at=now,
    )
    # Only of repeatable ones two may have been done at once, by two replicas; either answer is right.
    session.execute(kept.on_conflict_do_nothing())
    _purge(session, now)


def _purge(session: Session, now: datetime) -> None:
    identity = (IdempotencyRow.principal, IdempotencyRow.key)
    expired = (
        select(*identity)
        .where(IdempotencyRow.created_at <= now - KEPT)
        .order_by(IdempotencyRow.created_at)
        .limit(PURGED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    session.execute(
        delete(IdempotencyRow).where(tuple_(*identity).in_(expired)),
        execution_options={"synchronize_session": False},
    )
