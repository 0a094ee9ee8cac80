"""L2: signed snapshots in Redis, as the publisher put them there."""

from __future__ import annotations

from typing import cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from entitlement_sidecar.domain.address import redis_url
from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.sidecar.adapters.verification import counted_refusals
from entitlement_sidecar.sidecar.snapshots.ports import Fetched
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.envelopes import open_catalogue, open_snapshot
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY, snapshot_key
from entitlement_sidecar.wire.signing import BadSignatureError, KeyRing

TIMEOUT = 0.25
"""Seconds that Redis may take to connect or to answer: beyond them the plan store is asked."""

MAX_BYTES = 8 << 20
"""Size of an envelope at most: nobody who may write to Redis may fill this process' memory."""


def connect(url: str) -> Redis:
    """A client for reads that must not wait long. Connects when it is first used.

    Raises:
        ConfigurationError: The URL is malformed. Its text is not repeated, since it may hold a password.
    """
    return client(url, TIMEOUT)


def client(url: str, timeout: float) -> Redis:
    """A client whose every answer may take `timeout` seconds; it never retries by itself.

    Raises:
        ConfigurationError: The URL is malformed.
    """
    return Redis.from_url(
        redis_url(url, "--redis"),
        socket_timeout=timeout,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )


class RedisSnapshots:
    """One tenant at a time, verified."""

    def __init__(self, redis: Redis, keyring: KeyRing) -> None:
        self._redis = redis
        self._keyring = keyring

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """The snapshot that Redis holds; see `SnapshotSource`. Redis cannot know whether it is current."""
        envelope = await self._envelope(snapshot_key(tenant_id))
        if envelope is None:
            return None
        with counted_refusals("redis"):
            snapshot = open_snapshot(self._keyring, envelope, tenant_id)
        return Fetched(snapshot, Source.REDIS) if snapshot.version >= min_version else None

    async def catalogue(self) -> CatalogueDocument | None:
        """The catalogue document that Redis holds."""
        envelope = await self._envelope(CATALOGUE_KEY)
        if envelope is None:
            return None
        with counted_refusals("redis"):
            return open_catalogue(self._keyring, envelope)

    async def _envelope(self, key: str) -> bytes | None:
        try:
            size = await self._redis.hstrlen(key, "envelope")
            if size > MAX_BYTES:
                with counted_refusals("redis"):
                    raise BadSignatureError("too_large", f"{key}: {size} bytes, at most {MAX_BYTES} are read")
            return cast("bytes | None", await self._redis.hget(key, "envelope")) if size else None
        except (RedisError, OSError) as error:
            metrics.source_errors.labels("redis").inc()
            raise SourceUnavailableError(f"Redis: {type(error).__name__}") from error
