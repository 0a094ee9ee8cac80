"""Redis is empty, restored or new: everything is written again, a batch a step, then new epochs begin.

    idle ── shards are lost ──▶ claimed ──▶ writing ──────────────▶ beginning ──▶ idle
      ▲                       (one replica)  tenants in use first      │
      └── emptied, restarted, claim lost, or other shards lost ◀───────┘

No epoch begins before everything is there: a sidecar without a plan store would take an old snapshot of a
restored Redis for the newest. What changes meanwhile waits in the outbox, and is published after it.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import uuid6
from sqlalchemy import func, select, true
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.db import Database, RedisFeedStateRow, TenantSnapshotRow
from entitlement_sidecar.planstore.snapshots.bulk import Cursor, next_tenants
from entitlement_sidecar.planstore.snapshots.feed import newest_catalogue
from entitlement_sidecar.planstore.snapshots.redis_feed import FeedLostError, RedisFeedWriter, ShardState
from entitlement_sidecar.planstore.snapshots.redis_values import RedisValues, Value
from entitlement_sidecar.planstore.usage.bulk import among
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY, shard_of, snapshot_key

BATCH = 500
"""Snapshots written in one step at most."""

PER_SECOND = 5_000
"""Snapshots written in a second at most: Redis and the database have others to answer."""

MAX_FIRST = 50_000
"""Tenants in use that come first at most: they are remembered, so as not to be written twice."""

_TOLD_EVERY = 10_000

_log = logging.getLogger(__name__)

Lost = Mapping[int, ShardState]
"""Shards that are not what the database knows, as they were found."""


class _Walk(msgspec.Struct):
    """One refill under way. `at`: None when every tenant was met; `first`: a key that was written first."""

    lost: Lost
    server: str
    token: str
    at: Cursor | None
    in_use: set[str]
    left: int
    next_at: float = float("-inf")
    first: str = ""
    written: int = 0


class Refill:
    """Writes everything again. `step` does a batch at most, and is called again and again."""

    def __init__(
        self, database: Database, writer: RedisFeedWriter, values: RedisValues, clock: Clock
    ) -> None:
        self._database = database
        self._writer = writer
        self._values = values
        self._clock = clock
        self._walk: _Walk | None = None

    def abandon(self) -> None:
        """Nothing is lost (any more): another replica was quicker."""
        if self._walk is not None:
            self._walk = None
            metrics.refill_left.set(0)

    def step(self, lost: Lost, shards: int) -> bool:
        """Writes the next batch, when it is time. Says whether all is written and the new epochs have begun.

        Raises:
            FeedLostError: What was written may be gone: the next step begins again.
            redis.RedisError: Redis is away; the next step goes on.
        """
        walk = self._walk
        if walk is None or walk.lost != lost:
            walk = self._begin(lost)
        if walk is None or self._clock.monotonic() < walk.next_at:
            return False
        try:
            self._require_kept(walk)
            self._write(walk, shards)
            if walk.at is not None:
                return False
            self._finish(walk)
        except FeedLostError:
            _log.warning("Redis was emptied or started again while it was refilled; beginning again")
            self.abandon()
            raise
        return True

    def wait(self) -> float | None:
        """Seconds until the next batch may be written; None while nothing is."""
        return None if self._walk is None else max(0.0, self._walk.next_at - self._clock.monotonic())

    def _begin(self, lost: Lost) -> _Walk | None:
        """Claims the turn; None while another replica has it."""
        self.abandon()
        server, token = self._writer.server(), uuid.uuid4().hex
        if not self._writer.claim_refill(token):
            return None
        with self._database.reading() as session:
            left = session.scalar(select(func.count()).select_from(TenantSnapshotRow)) or 0
            document = newest_catalogue(session)
        _log.warning("Redis is not what the database knows: %d snapshots are written again", left)
        walk = _Walk(lost, server, token, Cursor(self._clock.now()), set(), left)
        if document is not None:
            self._values.put(CATALOGUE_KEY, *document)
            walk.first = CATALOGUE_KEY
        self._walk = walk
        return walk

    def _require_kept(self, walk: _Walk) -> None:
        """A claim that is gone was emptied away, and with it perhaps what was written since."""
        if not self._writer.keep_claim(walk.token):
            raise FeedLostError

    def _write(self, walk: _Walk, shards: int) -> None:
        with self._database.reading() as session:
            values = self._batch(session, walk, shards)
        self._values.put_all(values)
        if values:
            walk.first = walk.first or values[0].key
            walk.next_at = self._clock.monotonic() + len(values) / PER_SECOND
        self._count(walk, len(values))

    def _batch(self, session: Session, walk: _Walk, shards: int) -> list[Value]:
        """Up to a batch of what the lost shards' tenants have; fewer only when there are no more."""
        tenants: list[str] = []
        while walk.at is not None and len(tenants) < BATCH:
            some = self._next(session, walk, BATCH - len(tenants))
            tenants += [tenant for tenant in some if shard_of(tenant, shards) in walk.lost]
        row = TenantSnapshotRow
        query = select(row.tenant_id, row.version, row.envelope).where(among(session, row.tenant_id, tenants))
        return [
            Value(snapshot_key(found.tenant_id), found.version, found.envelope)
            for found in session.execute(query)
        ]

    def _next(self, session: Session, walk: _Walk, limit: int) -> Sequence[str]:
        at = walk.at or Cursor(self._clock.now(), active=False)
        tenants, walk.at = next_tenants(session, true(), at, self._clock.now(), limit)
        if not at.active:
            fresh = [tenant for tenant in tenants if tenant not in walk.in_use]
            walk.left -= len(fresh)
            return fresh
        walk.in_use.update(tenants)
        walk.left -= len(tenants)
        if len(walk.in_use) >= MAX_FIRST and walk.at is not None and walk.at.active:
            walk.at = Cursor(at.began, active=False)
        return tenants

    def _count(self, walk: _Walk, written: int) -> None:
        metrics.republished.inc(written)
        metrics.refill_left.set(max(0, walk.left))
        if (walk.written + written) // _TOLD_EVERY > walk.written // _TOLD_EVERY:
            _log.info("%d snapshots written again, %d left", walk.written + written, max(0, walk.left))
        walk.written += written

    def _finish(self, walk: _Walk) -> None:
        self._require_kept(walk)
        # Another run of the server, or one that was emptied, may have lost what was written to it.
        if self._writer.server() != walk.server or (walk.first and not self._writer.holds(walk.first)):
            raise FeedLostError
        self._begin_epochs(walk.lost.items())
        self._writer.release_claim(walk.token)
        _log.info("%d snapshots written again: all are", walk.written)
        self.abandon()

    def _begin_epochs(self, lost: Iterable[tuple[int, ShardState]]) -> None:
        for shard, found in lost:
            epoch = uuid6.uuid7().hex
            if not self._writer.begin(shard, found, epoch):
                raise FeedLostError
            with self._database.writing() as session:
                session.merge(RedisFeedStateRow(shard=shard, epoch=epoch, sequence=0))
