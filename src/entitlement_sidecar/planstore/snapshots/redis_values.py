"""Signed envelopes as Redis holds them: the newest of each tenant, and the catalogue document."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from entitlement_sidecar.planstore.db import Database, TenantSnapshotRow
from entitlement_sidecar.planstore.snapshots.feed import newest_catalogue
from entitlement_sidecar.planstore.snapshots.redis_feed import RedisFeedWriter
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY

_log = logging.getLogger(__name__)


class Value(msgspec.Struct, frozen=True):
    """An envelope, and where it belongs."""

    key: str
    version: int
    envelope: bytes


class RedisValues:
    """Writes envelopes, and puts right what is newer than the database's own newest."""

    def __init__(self, database: Database, writer: RedisFeedWriter) -> None:
        self._database = database
        self._writer = writer

    def put(self, key: str, version: int, envelope: bytes) -> None:
        """Writes one, unless Redis holds a newer one rightly."""
        self._put_right(key, self._writer.put(key, version, envelope))

    def put_all(self, values: Sequence[Value]) -> None:
        """Writes many, in few round trips."""
        found = self._writer.put_many([(value.key, value.version, value.envelope) for value in values])
        for value, held in zip(values, found, strict=True):
            self._put_right(value.key, held)

    def _put_right(self, key: str, held: str) -> None:
        """`held` is newer than what was read: written meanwhile, or nothing that this database ever made."""
        newest = self._newest(key) if held else None
        if newest is not None and int(held) > newest[0]:
            metrics.newer_replaced.inc()
            _log.warning(
                "%s: Redis held version %s, newer than the database's %d, which replaces it. Where the "
                "database was restored, run `entitlements planstore after-restore`",
                key,
                held,
                newest[0],
            )
            self._writer.put(key, *newest, instead_of=held)

    def _newest(self, key: str) -> tuple[int, bytes] | None:
        with self._database.reading() as session:
            if key == CATALOGUE_KEY:
                return newest_catalogue(session)
            tenant_id = key.removeprefix("ent:{").removesuffix("}:snapshot")
            row = session.get(TenantSnapshotRow, tenant_id)
            return None if row is None else (row.version, row.envelope)
