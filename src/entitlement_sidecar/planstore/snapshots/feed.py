"""The feed as the database numbers it, for watchers of the plan store itself (DESIGN 6).

Changes commit in any order, so their numbers are given afterwards: `Sequencer` gives every committed change
the next `feed_sequence` of the epoch, under the row lock of `feed_state`. What has a number is published.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
import uuid6
from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.db import (
    CatalogueRow,
    Database,
    FeedStateRow,
    RedisFeedStateRow,
    SnapshotOutboxRow,
    TenantSnapshotRow,
)
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.envelopes import HeartbeatValue, seal_heartbeat
from entitlement_sidecar.wire.signing import SigningKey

CATALOGUE = "catalogue"
"""Kind of an outbox row that is about the catalogue document; the other is `snapshot`."""

RETAINED = 100_000
"""Numbered changes that are kept for watchers that come back; a watcher further back revalidates."""

PAGE = 200
"""Changes that a watcher is sent before it is looked for more: all of them are in memory at once."""

_BATCH = 1_000
_TRIMMED_AT_ONCE = 20_000
_BEAT_SHARED_FOR = 0.5


class Place(msgspec.Struct, frozen=True):
    """A place in the feed: the last sequence given in an epoch."""

    epoch: str
    sequence: int


class Entry(msgspec.Struct, frozen=True):
    """One numbered change with the newest envelope of what changed; None when that is gone."""

    sequence: int
    kind: str
    envelope: bytes | None


class SealedBeat(msgspec.Struct, frozen=True):
    """A signed heartbeat and the place that it speaks of."""

    place: Place
    envelope: bytes


def place(session: Session) -> Place | None:
    """Where the feed is; None before anything was ever numbered."""
    row = session.get(FeedStateRow, 1)
    return None if row is None else Place(row.epoch, row.sequence)


def entries_after(session: Session, sequence: int, limit: int = PAGE) -> list[Entry]:
    """The next changes, in order."""
    rows = session.scalars(
        select(SnapshotOutboxRow)
        .where(SnapshotOutboxRow.feed_sequence > sequence)
        .order_by(SnapshotOutboxRow.feed_sequence)
        .limit(limit)
    ).all()
    envelopes = newest_envelopes(session, rows)
    return [
        Entry(row.feed_sequence or 0, row.kind, envelope[1] if envelope else None)
        for row in rows
        for envelope in [envelopes.get((row.kind, row.tenant_id))]
    ]


def newest_envelopes(
    session: Session, rows: Sequence[SnapshotOutboxRow]
) -> dict[tuple[str, str], tuple[int, bytes]]:
    """Newest version and envelope of everything that the rows are about, by (kind, tenant)."""
    tenants = {row.tenant_id for row in rows if row.kind != CATALOGUE}
    found = session.scalars(select(TenantSnapshotRow).where(TenantSnapshotRow.tenant_id.in_(tenants)))
    newest = {("snapshot", row.tenant_id): (row.version, row.envelope) for row in found}
    if len(tenants) < len({(row.kind, row.tenant_id) for row in rows}):
        document = newest_catalogue(session)
        if document is not None:
            newest[CATALOGUE, ""] = document
    return newest


def newest_catalogue(session: Session) -> tuple[int, bytes] | None:
    """Version and envelope of the catalogue document in force."""
    row = session.execute(
        select(CatalogueRow.version, CatalogueRow.envelope).order_by(CatalogueRow.version.desc()).limit(1)
    ).first()
    return None if row is None else (row.version, row.envelope)


def feed_shards(session: Session) -> int | None:
    """How many shards the catalogue in force says that the feed in Redis has; None without a catalogue."""
    return session.scalar(select(CatalogueRow.feed_shards).order_by(CatalogueRow.version.desc()).limit(1))


class Sequencer:
    """Numbers committed changes. Any number of replicas may run one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def drain(self) -> Place:
        """Numbers everything that was committed before the call. Returns where the feed is then."""
        more = True
        while True:
            with self._database.reading() as session:
                # The place is read last: nothing that was found numbered may lie behind it.
                waiting = _has_unnumbered(session)
                found = place(session)
                if found is not None and not (waiting and more):
                    return found
            # Less than a batch: what came since was committed after the call.
            more = self._number_some() == _BATCH

    def trim(self, retained: int = RETAINED, *, for_redis: bool = False) -> int:
        """Deletes numbered changes beyond the newest `retained` ones. Returns how many.

        With `for_redis` nothing goes that Redis does not have yet, nor what is newer than that: what is kept
        has no gap. Without it such changes go too, and whoever publishes to Redis later begins anew.
        """
        deleted = 0
        while some := self._trim_some(retained, for_redis=for_redis):
            deleted += some
        return deleted

    def _trim_some(self, retained: int, *, for_redis: bool) -> int:
        """Deletes the oldest, few enough for one transaction."""
        with self._database.writing() as session:
            found, oldest = place(session), oldest_kept(session)
            if found is None:
                return 0
            last = min(found.sequence - retained, oldest + _TRIMMED_AT_ONCE)
            unpublished = _oldest_unpublished(session)
            if unpublished is not None and unpublished <= last:
                if for_redis:
                    last = unpublished - 1
                else:
                    # Nobody will tell Redis of these: whoever publishes next refills it.
                    session.execute(delete(RedisFeedStateRow))
            rows = session.query(SnapshotOutboxRow).where(SnapshotOutboxRow.feed_sequence <= last)
            return rows.delete(synchronize_session=False)

    def _number_some(self) -> int:
        with self._database.writing() as session:
            state = self._locked_state(session)
            ids = session.scalars(
                select(SnapshotOutboxRow.id)
                .where(SnapshotOutboxRow.feed_sequence.is_(None))
                .order_by(SnapshotOutboxRow.id)
                .limit(_BATCH)
            ).all()
            if ids:
                numbered = [
                    {"id": row_id, "feed_sequence": state.sequence + offset}
                    for offset, row_id in enumerate(ids, 1)
                ]
                session.execute(update(SnapshotOutboxRow), numbered)
                state.sequence += len(ids)
        metrics.published_entries.labels("database").inc(len(ids))
        return len(ids)

    def _locked_state(self, session: Session) -> FeedStateRow:
        """The row that whoever numbers must hold; made when there is none yet."""
        insert = sqlite.insert if self._database.is_sqlite else postgresql.insert
        values = {"id": 1, "epoch": uuid6.uuid7().hex, "sequence": 0}
        session.execute(insert(FeedStateRow).values(values).on_conflict_do_nothing())
        return session.scalars(select(FeedStateRow).where(FeedStateRow.id == 1).with_for_update()).one()


def _has_unnumbered(session: Session) -> bool:
    waiting = select(exists().where(SnapshotOutboxRow.feed_sequence.is_(None)))
    return bool(session.scalar(waiting))


def _oldest_unpublished(session: Session) -> int | None:
    """The first numbered change that Redis does not have."""
    return session.scalar(
        select(func.min(SnapshotOutboxRow.feed_sequence)).where(SnapshotOutboxRow.published_at.is_(None))
    )


class Beats:
    """Heartbeats of the database's feed, shared by all watchers of this process."""

    def __init__(self, database: Database, key: SigningKey, clock: Clock) -> None:
        self._database = database
        self._sequencer = Sequencer(database)
        self._key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: tuple[float, SealedBeat] | None = None

    def newest(self) -> SealedBeat:
        """A heartbeat that is at most half a second old."""
        with self._lock:
            now = self._clock.monotonic()
            if self._newest is None or now - self._newest[0] >= _BEAT_SHARED_FOR:
                self._newest = (now, self._make())
            return self._newest[1]

    def _make(self) -> SealedBeat:
        # The clock is read first: what is committed before it is found by the reads that follow.
        true_at = read_clock(self._database)
        found = self._sequencer.drain()
        beat = HeartbeatValue(found.epoch, 0, found.sequence, true_at)
        return SealedBeat(found, seal_heartbeat(self._key, beat))


def read_clock(database: Database) -> datetime:
    """The database's clock, read in a transaction of its own, so that later reads see a later state."""
    with database.reading() as session:
        return database.now(session)


def oldest_kept(session: Session) -> int:
    """The first sequence that is still kept; 0 when none is."""
    return session.scalar(select(func.min(SnapshotOutboxRow.feed_sequence))) or 0


class FeedSignal:
    """Wakes watchers when the feed moved, when their caller left, and when the process goes away."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._sequence = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """The process goes away: watchers end."""
        return self._closed

    def announce(self, sequence: int) -> None:
        """The feed is at this sequence now."""
        with self._condition:
            if sequence != self._sequence:
                self._sequence = sequence
                self._condition.notify_all()

    def wake(self) -> None:
        """Lets every watcher look again whether it is still wanted."""
        with self._condition:
            self._condition.notify_all()

    def close(self) -> None:
        """Ends all waiting, for good."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def wait_past(self, sequence: int, timeout: float, wanted: Callable[[], bool]) -> None:
        """Waits until the feed is past a sequence, at most `timeout` seconds, while still wanted."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._closed or self._sequence > sequence or not wanted(), timeout
            )
