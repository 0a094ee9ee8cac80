"""L2: signed snapshots in Redis, as the publisher put them there."""

from __future__ import annotations

import asyncio
from typing import cast

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.sidecar.adapters.redis_client import AWAY, RedisClient, told, within
from entitlement_sidecar.sidecar.adapters.verification import counted_refusals
from entitlement_sidecar.sidecar.snapshots.last_known import LastKnown, NothingKept
from entitlement_sidecar.sidecar.snapshots.ports import Fetched
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.envelopes import open_catalogue, open_snapshot
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY, snapshot_key
from entitlement_sidecar.wire.signing import BadSignatureError, KeyRing

PATIENCE = 0.3
"""Seconds that one read may take in all: waiting for its turn, finding the server, connecting, two answers.

A little more than a client waits for one answer: it has to see for itself that a server is away, so that it
looks for another one.
"""

AT_ONCE = 32
"""Reads at once, which is also how many connections they need; more wait for their turn."""

MAX_BYTES = 8 << 20
"""Size of an envelope at most: nobody who may write to Redis may fill this process' memory."""


class RedisSnapshots:
    """One tenant at a time, verified."""

    def __init__(
        self,
        redis: RedisClient,
        keyring: KeyRing,
        last_known: LastKnown | None = None,
        *,
        patience: float = PATIENCE,
    ) -> None:
        """`last_known` is told of the catalogue document; one read may take `patience` seconds in all."""
        self._redis = redis
        self._keyring = keyring
        self._last_known = last_known or NothingKept()
        self._patience = patience
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:  # noqa: ARG002 - one hash
        """The snapshot that Redis holds; see `SnapshotSource`. Redis cannot know whether it is current."""
        envelope = await self._envelope(snapshot_key(tenant_id))
        if envelope is None:
            return None
        with counted_refusals("redis"):
            snapshot = open_snapshot(self._keyring, envelope, tenant_id)
        return Fetched(snapshot, Source.REDIS, envelope=envelope)

    async def catalogue(self) -> CatalogueDocument | None:
        """The catalogue document that Redis holds."""
        envelope = await self._envelope(CATALOGUE_KEY)
        if envelope is None:
            return None
        with counted_refusals("redis"):
            document = open_catalogue(self._keyring, envelope)
        self._last_known.keep_catalogue(envelope, document.version)
        return document

    async def _envelope(self, key: str) -> bytes | None:
        try:
            return await within(self._patience, self._in_turn(key))
        except AWAY as error:
            metrics.source_errors.labels("redis").inc()
            raise SourceUnavailableError(told(error)) from error

    async def _in_turn(self, key: str) -> bytes | None:
        async with self._turns:
            return await self._read(key)

    async def _read(self, key: str) -> bytes | None:
        size = await self._redis.hstrlen(key, "envelope")
        if size > MAX_BYTES:
            with counted_refusals("redis"):
                raise BadSignatureError("too_large", f"{key}: {size} bytes, at most {MAX_BYTES} are read")
        return cast("bytes | None", await self._redis.hget(key, "envelope")) if size else None
