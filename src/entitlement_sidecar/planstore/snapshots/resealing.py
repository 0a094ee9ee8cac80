"""Another signing key: what the old one signed is signed again, in the background, as fast as it travels.

The catalogue is signed anew at the start; snapshots follow in small batches, those in use first. Until the
last one is done both keys have to be trusted. A plan store that still runs with the old key goes on signing
with it while a new one starts, so the new one looks again for a while; the old one sees by the catalogue that
its key is no longer in force, and signs nothing again.
"""

from __future__ import annotations

import logging

from sqlalchemy import ColumnElement, LargeBinary, exists, func, literal, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.catalogue import seal_catalogue_again
from entitlement_sidecar.planstore.db import CatalogueRow, Database, TenantSnapshotRow
from entitlement_sidecar.planstore.snapshots.bulk import Cursor, Pace, next_tenants
from entitlement_sidecar.planstore.snapshots.feed import newest_catalogue
from entitlement_sidecar.planstore.snapshots.writer import SignedSnapshots
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.signing import SigningKey, signature_mark, signer_of

LOOK_EVERY = 60.0
"""Seconds between two looks for what another key signed."""

LOOK_FOR = 900.0
"""Seconds after the start that it looks again: longer than an old plan store takes to leave."""

PAUSE = 0.1
"""Seconds between two steps."""

_TOLD_EVERY = 10_000

_log = logging.getLogger(__name__)


def holds_signed(session: Session) -> bool:
    """Whether anything was ever signed into this database."""
    return bool(session.scalar(select(exists(select(CatalogueRow.version)))))


def put_into_force(database: Database, key: SigningKey, feed_shards: int, clock: Clock) -> None:
    """Makes the catalogue in force what these settings say: its shards, and the key that signs it."""
    with database.writing() as session:
        if seal_catalogue_again(session, feed_shards, key, clock.now()):
            _log.info("catalogue signed again: key %s, %d shards", key.key_id, feed_shards)


def in_force(session: Session, key_id: str) -> bool:
    """Whether this is the key of the catalogue in force: that of the plan store which started last."""
    newest = newest_catalogue(session)
    return newest is not None and signer_of(newest[1]) == key_id


def signed_otherwise(session: Session, key_id: str) -> int:
    """How many snapshots another key signed."""
    return session.scalar(select(func.count()).where(_not_signed_by(session, key_id))) or 0


class Resealer:
    """Signs again what another key signed. `step` does a batch at most, and is called again and again."""

    def __init__(self, database: Database, key: SigningKey, clock: Clock, pace: Pace) -> None:
        self._database = database
        self._key = key
        self._snapshots = SignedSnapshots(key, clock)
        self._clock = clock
        self._pace = pace
        self._next_look = clock.monotonic()
        self._last_look = self._next_look + LOOK_FOR
        self._at: Cursor | None = None
        self._left = 0
        self._done = 0

    def step(self) -> None:
        """Looks whether there is something to sign when it is time, and signs a batch when there is room."""
        if self._at is None and not self._found_some():
            return
        if self._pace.ready():
            self._sign_batch()

    def _found_some(self) -> bool:
        now = self._clock.monotonic()
        if now < self._next_look or now > self._last_look:
            return False
        self._next_look = now + LOOK_EVERY
        with self._database.reading() as session:
            mine = in_force(session, self._key.key_id)
            self._left = signed_otherwise(session, self._key.key_id)
        # Told as it is, also where it is not for this plan store to sign: nothing may be retired meanwhile.
        metrics.resealing_left.set(self._left)
        if self._left and not mine:
            _log.warning(
                "another key signed %d snapshots and the catalogue in force; if %s is the new key, start "
                "this plan store again when none with the other one runs",
                self._left,
                self._key.key_id,
            )
        elif self._left:
            self._at, self._done = Cursor(self._clock.now()), 0
            _log.warning("another key signed %d snapshots; signing with %s", self._left, self._key.key_id)
        return bool(self._left) and mine

    def _sign_batch(self) -> None:
        at = self._at or Cursor(self._clock.now())
        with self._database.writing() as session:
            wanted = _not_signed_by(session, self._key.key_id)
            tenants, following = next_tenants(session, wanted, at, self._clock.now())
            for tenant in tenants:
                self._snapshots.write(session, tenant)
        self._count(len(tenants))
        self._at = following
        if following is None:
            metrics.resealing_left.set(0)
            # What an old plan store signed meanwhile counts from here.
            self._next_look = self._clock.monotonic() + LOOK_EVERY
            self._last_look = self._next_look + LOOK_FOR
            _log.info("%d snapshots signed again with %s: all are", self._done, self._key.key_id)

    def _count(self, signed: int) -> None:
        metrics.bulk_snapshots.labels("resealing").inc(signed)
        if (self._done + signed) // _TOLD_EVERY > self._done // _TOLD_EVERY:
            _log.info("%d of %d snapshots signed again", self._done + signed, self._left)
        self._done += signed
        metrics.resealing_left.set(max(0, self._left - self._done))


def _not_signed_by(session: Session, key_id: str) -> ColumnElement[bool]:
    """That an envelope names another key; judged in the database, which need not send them all."""
    mark = literal(signature_mark(key_id), LargeBinary)
    envelope = TenantSnapshotRow.envelope
    if session.get_bind().dialect.name == "sqlite":
        return func.instr(envelope, mark) == 0
    return func.position(mark.op("IN")(envelope)) == 0
