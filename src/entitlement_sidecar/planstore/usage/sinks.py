"""Sinks: accepted events go on to where others work with them, in order, at least once.

    ledger ──▶ events up to a horizon ──▶ sink writes and syncs ──▶ cursor moves ──┐
                      ▲                                                           │
                      └───────────────────────────────────────────────────────────┘

The order is that of `usage_events.id`, and the cursor is the last id written. On PostgreSQL ids are taken
before their transactions commit, so a smaller id may appear after a greater one was seen. So events are read
up to a horizon only: the greatest id seen at one moment, once every transaction that had begun to write by
then has ended. Whoever stores an event has claimed its identity before, in the same transaction, so it has
a transaction number before it takes an id: a smaller id is never taken by a transaction that begins later.

What is written twice after a crash has the same cursor. An event goes out as it was accepted: what becomes of
it later (a correction is an event itself; a classification is not) does not send it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Text, cast, func, select, update
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.db import Database, UsageEventRow, UsageSinkRow
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import event_from_proto
from entitlement_sidecar.wire.usage_json import encode_line, event_to_json
from entitlement_sidecar.wire.v1 import usage_pb2

EVERY = 1.0
"""Seconds between two looks for new events."""

SOON = 0.1
"""Seconds after which to look again where somebody still writes, or there is more."""

CHUNK = 1000
"""Events that are written and synced at once."""

_JSON_LINES = "jsonl:"
_TAIL = 1 << 20
"""Bytes at the end of a file in which the last whole line ends: no line is as long."""


class AcceptedEvent(msgspec.Struct, frozen=True):
    """An event with its place in the ledger: greater cursors were accepted later."""

    cursor: int
    event: UsageEvent


class EventSink(Protocol):
    """Takes accepted events. Called by one thread at a time."""

    @property
    def name(self) -> str:
        """What its cursor is kept under; the same destination has the same name."""
        ...

    def write(self, events: Sequence[AcceptedEvent]) -> None:
        """Keeps events for good before it returns; may get the last ones again after a crash.

        Raises:
            OSError: Nothing is certain; the same events come again.
        """
        ...


class JsonLinesSink:
    """A file with one event per line. It is opened for each write, so that it may be moved away any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = f"{_JSON_LINES}{path}"

    def write(self, events: Sequence[AcceptedEvent]) -> None:
        """Appends lines and syncs them; of a line that was cut off by a crash nothing is left."""
        lines = (encode_line({"cursor": one.cursor, **event_to_json(one.event)}) for one in events)
        content = b"".join(line + b"\n" for line in lines)
        with self._opened() as file:
            _end_with_a_line(file)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        fresh = not self._path.exists()
        with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o640), "r+b") as file:
            yield file
        if fresh:
            _sync_folder(self._path.parent)


def _end_with_a_line(file: IO[bytes]) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    whole = size - len(tail) + tail.rfind(b"\n") + 1
    if whole < size:
        file.truncate(whole)
    file.seek(whole)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sink_of(setting: str) -> JsonLinesSink | None:
    """The sink that `--usage-sink` names; None without one.

    Raises:
        ConfigurationError: There is no such kind, or its folder does not exist or cannot be written to.
    """
    if not setting:
        return None
    path = Path(setting.removeprefix(_JSON_LINES))
    if not (setting.startswith(_JSON_LINES) and path.is_absolute()):
        raise ConfigurationError(f"--usage-sink {setting}: expected {_JSON_LINES}/path/to/file")
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"--usage-sink {setting}: expected a file in a folder that this user may write to"
        )
    return JsonLinesSink(path)


class _Horizon(msgspec.Struct, frozen=True):
    """Ids up to `last` are settled once every transaction below `before` has ended."""

    last: int
    before: int


class SinkFeeder:
    """Feeds one sink from the ledger. Of several replicas with one sink, one feeds it at a time."""

    def __init__(self, database: Database, sink: EventSink, clock: Clock) -> None:
        self._database = database
        self._sink = sink
        self._clock = clock
        self._horizon: _Horizon | None = None
        self._written = -1

    def step(self) -> float:
        """Writes what is settled, up to a chunk; seconds until it wants to go on."""
        horizon = self._horizon = self._horizon or self._look()
        if horizon.last != self._written:
            if not self._is_settled(horizon):
                return SOON
            written = self._write_until(horizon.last)
            if written == CHUNK:
                return 0.0
            self._written = self._written if written is None else horizon.last
        self._horizon = None
        return EVERY

    def _look(self) -> _Horizon:
        last = func.coalesce(func.max(UsageEventRow.id), 0)
        with self._database.reading() as session:
            if self._database.is_sqlite:
                # One writer at a time: what is seen is all there is.
                return _Horizon(session.scalar(select(last)) or 0, 0)
            before = _number(func.pg_snapshot_xmax(func.pg_current_snapshot()))
            newest, ended = session.execute(select(last, before)).one()
            return _Horizon(newest, ended)

    def _is_settled(self, horizon: _Horizon) -> bool:
        if self._database.is_sqlite:
            return True
        with self._database.reading() as session:
            oldest = session.scalar(select(_number(func.pg_snapshot_xmin(func.pg_current_snapshot()))))
        return oldest is not None and oldest >= horizon.before

    def _write_until(self, last: int) -> int | None:
        """How many events were written; None where another replica writes now."""
        with self._database.writing() as session:
            cursor = self._cursor(session)
            if cursor is None:
                return None
            events = _accepted(session, cursor, last)
            if events:
                self._sink.write(events)
                self._move(session, events)
        if events:
            metrics.usage_sink_events.labels(self._sink.name).inc(len(events))
        return len(events)

    def _cursor(self, session: Session) -> int | None:
        """How far the sink has got; None where another replica feeds it now."""
        row = UsageSinkRow
        first = insert_for(session, row).values(
            name=self._sink.name, cursor="0", updated_at=self._clock.now()
        )
        session.execute(first.on_conflict_do_nothing())
        query = select(row.cursor).where(row.name == self._sink.name).with_for_update(skip_locked=True)
        cursor = session.scalar(query)
        return None if cursor is None else int(cursor)

    def _move(self, session: Session, events: Sequence[AcceptedEvent]) -> None:
        row = UsageSinkRow
        session.execute(
            update(row)
            .where(row.name == self._sink.name)
            .values(
                cursor=str(events[-1].cursor), events=row.events + len(events), updated_at=self._clock.now()
            )
        )


def _number(transaction: ColumnElement[Any]) -> ColumnElement[int]:
    """A transaction's number as Python has it; PostgreSQL makes numbers of its own of text alone."""
    return cast(cast(transaction, Text), BigInteger)


def _accepted(session: Session, after: int, last: int) -> list[AcceptedEvent]:
    row = UsageEventRow
    query = select(row.id, row.payload).where(row.id > after, row.id <= last).order_by(row.id).limit(CHUNK)
    return [
        AcceptedEvent(id_, event_from_proto(usage_pb2.UsageEvent.FromString(payload)))
        for id_, payload in session.execute(query)
    ]


class SinkState(msgspec.Struct, frozen=True):
    """How far a sink has got: `behind` counts ids, of which not each is an event."""

    row: UsageSinkRow
    behind: int


def sink_states(session: Session) -> list[SinkState]:
    """Every sink that was ever fed, by name."""
    newest = session.scalar(select(func.max(UsageEventRow.id))) or 0
    rows = session.scalars(select(UsageSinkRow).order_by(UsageSinkRow.name))
    return [SinkState(row, max(0, newest - int(row.cursor))) for row in rows]
