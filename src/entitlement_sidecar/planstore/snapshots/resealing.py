"""Another signing key: what the database holds is signed again, so that all that travels has one signer."""

from __future__ import annotations

import logging

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.catalogue import seal_catalogue_again
from entitlement_sidecar.planstore.db import CatalogueRow, Database, TenantSnapshotRow
from entitlement_sidecar.planstore.snapshots.feed import newest_catalogue
from entitlement_sidecar.planstore.snapshots.writer import SignedSnapshots
from entitlement_sidecar.wire.signing import SigningKey, signer_of

PAGE = 200
"""Snapshots that one transaction signs again."""

_log = logging.getLogger(__name__)


def holds_signed(session: Session) -> bool:
    """Whether anything was ever signed into this database."""
    return bool(session.scalar(select(exists(select(CatalogueRow.version)))))


def put_into_force(database: Database, key: SigningKey, feed_shards: int, clock: Clock) -> None:
    """Makes the catalogue in force, and every snapshot where its key changed, what these settings say.

    The catalogue comes last: where it names the key, all is done. A start that was cut short goes on.
    """
    with database.reading() as session:
        newest = newest_catalogue(session)
    if newest is not None and signer_of(newest[1]) != key.key_id:
        done = _seal_snapshots_again(database, SignedSnapshots(key, clock), key)
        _log.warning("the signing key is another one: %d snapshots signed again with %s", done, key.key_id)
    with database.writing() as session:
        if seal_catalogue_again(session, feed_shards, key, clock.now()):
            _log.info("catalogue signed again: key %s, %d shards", key.key_id, feed_shards)


def _seal_snapshots_again(database: Database, snapshots: SignedSnapshots, key: SigningKey) -> int:
    after, done = "", 0
    while True:
        with database.writing() as session:
            page = select(TenantSnapshotRow.tenant_id, TenantSnapshotRow.envelope)
            page = page.where(TenantSnapshotRow.tenant_id > after).order_by(TenantSnapshotRow.tenant_id)
            rows = session.execute(page.limit(PAGE)).all()
            for tenant_id, envelope in rows:
                if signer_of(envelope) != key.key_id:
                    snapshots.write(session, tenant_id)
                    done += 1
        if len(rows) < PAGE:
            return done
        after = rows[-1].tenant_id
