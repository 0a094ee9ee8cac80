"""Empties the snapshot outbox: numbers changes for watchers, and writes them to Redis (DESIGN 6).

    committed ──▶ numbered (feed_sequence) ──▶ WatchSnapshots
        └──────▶ put, appended to the feed, marked ──▶ sidecars that read Redis

Publishing again is harmless, so a crash between Redis and the mark only repeats. Any number of replicas may
run; on PostgreSQL they take different rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
import redis
from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.db import (
    Database,
    RedisFeedStateRow,
    SnapshotOutboxRow,
)
from entitlement_sidecar.planstore.snapshots.feed import (
    CATALOGUE,
    FeedSignal,
    Sequencer,
    feed_shards,
    newest_catalogue,
    newest_envelopes,
    read_clock,
)
from entitlement_sidecar.planstore.snapshots.redis_feed import (
    FeedEntry,
    FeedLostError,
    RedisFeedWriter,
    ShardState,
)
from entitlement_sidecar.planstore.snapshots.redis_values import RedisValues
from entitlement_sidecar.planstore.snapshots.refill import Refill
from entitlement_sidecar.planstore.snapshots.worker import Worker
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.envelopes import HeartbeatValue, seal_heartbeat
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY, shard_of, snapshot_key
from entitlement_sidecar.wire.signing import SigningKey

POLL = 0.1
"""Seconds between two looks for changes of other replicas; changes of this one wake the publisher."""

PASSED_BY = 0.01
"""Seconds after which rows that somebody else had locked are looked at again: the sequencer is woken by the
same change and holds them for milliseconds, and they must not wait for `POLL`."""

BEAT_EVERY = 1.0
"""Seconds between two heartbeats."""

TRIM_EVERY = 300.0
"""Seconds between two trims of what was numbered long ago."""

BATCH = 500
"""Changes published at once."""


class _Instant(msgspec.Struct, frozen=True):
    """An instant, and the last row of the outbox that waited then."""

    true_at: datetime
    last_waiting: int


class Publisher:
    """The workers of one plan store process."""

    def __init__(
        self,
        database: Database,
        signal: FeedSignal,
        clock: Clock,
        to_redis: RedisPublisher | None,
        beside: Sequence[Worker] = (),
    ) -> None:
        """`beside` are workers that are not woken by changes."""
        self._sequencer = Sequencer(database)
        self._for_redis = to_redis is not None
        self._signal = signal
        self._clock = clock
        self._trimmed = clock.monotonic()
        self._workers = [Worker("sequencer", self.number, POLL)]
        if to_redis is not None:
            self._workers.append(Worker("redis publisher", to_redis.step, POLL))
        self._beside = tuple(beside)

    def start(self) -> None:
        """Begins to publish."""
        for worker in (*self._workers, *self._beside):
            worker.start()

    def notify(self) -> None:
        """Something was committed."""
        for worker in self._workers:
            worker.wake()

    def stop(self) -> None:
        """Ends after what is under way."""
        for worker in (*self._beside, *self._workers):
            worker.stop()

    def number(self) -> None:
        """Numbers what was committed, and tells the watchers."""
        self._signal.announce(self._sequencer.drain().sequence)
        if self._clock.monotonic() - self._trimmed >= TRIM_EVERY:
            self._trimmed = self._clock.monotonic()
            self._sequencer.trim(for_redis=self._for_redis)


class RedisPublisher:
    """Writes changes and heartbeats to Redis, and refills it where it is not what the database knows."""

    def __init__(
        self, database: Database, writer: RedisFeedWriter, key: SigningKey, shards: int, clock: Clock
    ) -> None:
        """`shards` is how many there are until a catalogue says it."""
        self._database = database
        self._writer = writer
        self._values = RedisValues(database, writer)
        self._refill = Refill(database, writer, self._values, clock)
        self._key = key
        self._shards = shards
        self._clock = clock
        self._beaten = float("-inf")
        self._beat_about: _Instant | None = None

    def step(self) -> float | None:
        """Publishes what waits, and beats when it is time; first refills what is lost, a batch at most.

        Returns the seconds after which it wants to go on: with that, or with changes that it passed by
        because somebody else had locked them; None when there is neither.

        Raises:
            redis.RedisError: Redis is away; nothing was marked that it does not have.
        """
        waiting = self._count_waiting()
        try:
            restored = more = self._restored()
            while more:
                self._choose_instant()
                more = self._publish_some()
                self._beat()
        except FeedLostError:
            # Found lost in the middle: the next step sees it first, and refills.
            return None
        except redis.RedisError:
            metrics.publish_failures.inc()
            raise
        if restored and waiting and self._count_waiting():
            return PASSED_BY
        return self._refill.wait()

    def _count_waiting(self) -> int:
        """Before Redis is asked for anything: the number matters most while it does not answer."""
        with self._database.reading() as session:
            query = select(func.count()).where(SnapshotOutboxRow.published_at.is_(None))
            waiting = session.scalar(query) or 0
        metrics.unpublished_changes.set(waiting)
        return waiting

    def _restored(self) -> bool:
        """Whether every shard is what the database knows, or has been made so now."""
        with self._database.reading() as session:
            # What the document says, sidecars go by; before the first one, nobody reads anything.
            self._shards = feed_shards(session) or self._shards
            recorded = _recorded(session)
        found = {shard: self._writer.state(shard) for shard in range(self._shards)}
        lost = {
            shard: state
            for shard, state in found.items()
            if not state.continues(recorded.get(shard, ShardState()))
        }
        if lost:
            return self._refill.step(lost, self._shards)
        self._refill.abandon()
        return True

    def _require_kept(self, server: str) -> None:
        """What was written since that run of the server was seen: a restart or failover may have lost it."""
        if self._writer.server() != server:
            raise FeedLostError

    def _publish_some(self) -> bool:
        """Publishes up to a batch of changes; whether there may be more."""
        if self._database.is_sqlite:
            # One writer at a time: Redis must not be waited for while holding that turn.
            with self._database.reading() as session:
                rows, reached = self._send(session)
            if rows:
                with self._database.writing() as session:
                    self._mark(session, rows, reached)
        else:
            with self._database.writing() as session:
                rows, reached = self._send(session)
                if rows:
                    self._mark(session, rows, reached)
        metrics.published_entries.labels("redis").inc(len(rows))
        return len(rows) == BATCH

    def _send(self, session: Session) -> tuple[Sequence[SnapshotOutboxRow], dict[int, ShardState]]:
        """Writes what waits to Redis; the rows, and where each shard that got one is then.

        One replica at a time: each begins where the one before has recorded to be, so that no entry ever
        takes the number of one that Redis has lost, which would hide the loss.
        """
        query = select(SnapshotOutboxRow).where(SnapshotOutboxRow.published_at.is_(None))
        query = query.order_by(SnapshotOutboxRow.id).limit(BATCH).with_for_update(skip_locked=True)
        rows = session.scalars(query).all()
        if not rows:
            return rows, {}
        reached = _recorded(session, in_turn=True)
        server = self._writer.server()
        envelopes = newest_envelopes(session, rows)
        for (kind, tenant_id), (version, envelope) in envelopes.items():
            self._values.put(
                CATALOGUE_KEY if kind == CATALOGUE else snapshot_key(tenant_id), version, envelope
            )
            entry = FeedEntry(kind, tenant_id, version)
            # A catalogue concerns every sidecar, and each of them reads every shard.
            shard = 0 if kind == CATALOGUE else shard_of(tenant_id, self._shards)
            at = reached.get(shard, ShardState())
            reached[shard] = ShardState(at.epoch, self._writer.append(shard, at, entry))
        self._require_kept(server)
        return rows, reached

    def _mark(
        self, session: Session, rows: Sequence[SnapshotOutboxRow], reached: dict[int, ShardState]
    ) -> None:
        published = update(SnapshotOutboxRow).where(SnapshotOutboxRow.id.in_([row.id for row in rows]))
        session.execute(published.values(published_at=self._clock.now()))
        for shard, state in sorted(reached.items()):
            # Another replica may have got further, or begun a new epoch.
            record = update(RedisFeedStateRow).where(
                RedisFeedStateRow.shard == shard,
                RedisFeedStateRow.epoch == state.epoch,
                RedisFeedStateRow.sequence < state.sequence,
            )
            session.execute(record.values(sequence=state.sequence))

    def _choose_instant(self) -> None:
        """Remembers an instant, and what of before it is not published: the next heartbeat is about it.

        The clock is read first, and the look for waiting rows is a plain one: it finds all that was committed
        before, also what another replica is publishing. Changes that come later need not be waited for, so
        that heartbeats go on however many come.
        """
        if self._beat_about is not None or self._clock.monotonic() - self._beaten < BEAT_EVERY:
            return
        true_at = read_clock(self._database)
        with self._database.reading() as session:
            waiting = select(func.max(SnapshotOutboxRow.id)).where(SnapshotOutboxRow.published_at.is_(None))
            self._beat_about = _Instant(true_at, session.scalar(waiting) or 0)

    def _beat(self) -> None:
        """Everything committed before the marked instant is published. Says nothing while any of it waits."""
        instant = self._beat_about
        if instant is None:
            return
        with self._database.reading() as session:
            waits = exists().where(
                SnapshotOutboxRow.published_at.is_(None), SnapshotOutboxRow.id <= instant.last_waiting
            )
            if session.scalar(select(waits)):
                return
            recorded = _recorded(session)
            document = newest_catalogue(session)
        if document is not None:
            # No feed begins without it, so it is put back before long, whatever became of it.
            self._values.put(CATALOGUE_KEY, *document)
        for shard in range(self._shards):
            state = self._writer.state(shard)
            if not state.continues(recorded.get(shard, ShardState())):
                raise FeedLostError
            beat = HeartbeatValue(state.epoch, shard, state.sequence, instant.true_at)
            self._writer.beat(shard, seal_heartbeat(self._key, beat))
        self._beaten, self._beat_about = self._clock.monotonic(), None


def _recorded(session: Session, *, in_turn: bool = False) -> dict[int, ShardState]:
    """Where each shard was when something was last marked; `in_turn`: nobody else publishes until the end."""
    query = select(RedisFeedStateRow).order_by(RedisFeedStateRow.shard)
    rows = session.scalars(query.with_for_update() if in_turn else query)
    return {row.shard: ShardState(row.epoch, row.sequence) for row in rows}
