"""Whether what travels is right: signatures in the database, and the same in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import redis
from redis.exceptions import RedisClusterException
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.planstore.db import Database, OrganizationRow, SnapshotOutboxRow, TenantSnapshotRow
from entitlement_sidecar.planstore.snapshots.feed import newest_catalogue
from entitlement_sidecar.planstore.snapshots.redis_client import Cluster
from entitlement_sidecar.planstore.usage.bulk import among
from entitlement_sidecar.wire.envelopes import open_catalogue, open_snapshot
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY, snapshot_key
from entitlement_sidecar.wire.signing import BadSignatureError, KeyRing

LOOKS = 3
"""How often what does not fit is looked at before it counts: it may have changed between two reads."""

_Held = tuple[bytes | None, bytes | None]


class Fault(msgspec.Struct, frozen=True):
    """Something that does not fit. `tenant_id` is empty for the catalogue; `where`: database or redis.

    `cause` is stable: `missing`, `version`, `content`, or that of a `BadSignatureError`.
    """

    tenant_id: str
    where: str
    cause: str
    detail: str


class Verified(msgspec.Struct, frozen=True):
    """What was looked at, what does not fit, and whose newest change is still on its way to Redis."""

    checked: tuple[str, ...]
    faults: tuple[Fault, ...]
    waiting: tuple[str, ...]


class _Stored(msgspec.Struct, frozen=True):
    """What the database says of one tenant. `due` is the version that its organization is at."""

    due: int
    version: int = 0
    envelope: bytes = b""
    waits: bool = False


class Verification:
    """Looks at snapshots and at the catalogue document, and changes nothing."""

    def __init__(self, database: Database, trusted: KeyRing, redis: redis.Redis | Cluster | None) -> None:
        self._database = database
        self._trusted = trusted
        self._redis = redis

    def tenants(self, after: str, limit: int) -> Verified:
        """The next tenants after one, by id.

        Raises:
            SourceUnavailableError: Redis is away.
        """
        query = select(OrganizationRow.tenant_id).where(OrganizationRow.tenant_id > after)
        with self._database.reading() as session:
            found = session.scalars(query.order_by(OrganizationRow.tenant_id).limit(limit)).all()
        return self.these(found)

    def these(self, tenants: Sequence[str]) -> Verified:
        """Certain tenants.

        Raises:
            SourceUnavailableError: Redis is away.
        """
        stored: dict[str, _Stored] = {}
        faults: dict[str, Fault] = {}
        suspects: Sequence[str] = tenants
        for _ in range(LOOKS):
            if not suspects:
                break
            stored |= (seen := self._stored(suspects))
            held = self._held([snapshot_key(tenant) for tenant in seen])
            looked = zip(seen.items(), held, strict=True)
            faults = {
                tenant: fault for (tenant, one), there in looked if (fault := self._fault(tenant, one, there))
            }
            suspects = list(faults)
        waiting = tuple(tenant for tenant, one in stored.items() if one.waits)
        return Verified(tuple(tenants), tuple(faults.values()), waiting)

    def catalogue(self) -> tuple[Fault, ...]:
        """The catalogue document.

        Raises:
            SourceUnavailableError: Redis is away.
        """
        fault = None
        for _ in range(LOOKS):
            with self._database.reading() as session:
                newest = newest_catalogue(session)
            if newest is None:
                return ()
            [held] = self._held([CATALOGUE_KEY])
            one = _Stored(newest[0], *newest)
            fault = self._fault("", one, held)
            if fault is None:
                return ()
        return (fault,) if fault else ()

    def _stored(self, tenants: Sequence[str]) -> dict[str, _Stored]:
        with self._database.reading() as session:
            # Without Redis to look at, nothing is on its way there.
            waits = _waiting(session, tenants) if self._redis else frozenset()
            row, organization = TenantSnapshotRow, OrganizationRow
            query = (
                select(organization.tenant_id, organization.snapshot_version, row.version, row.envelope)
                .join_from(organization, row, row.tenant_id == organization.tenant_id, isouter=True)
                .where(among(session, organization.tenant_id, tenants))
                .order_by(organization.tenant_id)
            )
            return {
                tenant: _Stored(due, version or 0, envelope or b"", tenant in waits)
                for tenant, due, version, envelope in session.execute(query).all()
            }

    def _held(self, keys: Sequence[str]) -> list[_Held | None]:
        """What Redis holds under keys; None for what the plan store has no Redis to look at."""
        if self._redis is None:
            return [None] * len(keys)
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for key in keys:
                pipeline.hmget(key, ["version", "envelope"])
            answers: list[Any] = pipeline.execute(raise_on_error=False)
        except (redis.RedisError, RedisClusterException) as error:
            raise SourceUnavailableError(f"Redis: {type(error).__name__}: try again", 1.0) from error
        return [_answered(answer) for answer in answers]

    def _fault(self, tenant: str, stored: _Stored, held: _Held | None) -> Fault | None:
        return self._stored_fault(tenant, stored) or self._held_fault(tenant, stored, held)

    def _stored_fault(self, tenant: str, stored: _Stored) -> Fault | None:
        if not stored.envelope:
            return Fault(tenant, "database", "missing", "there is no snapshot; republish it")
        try:
            signed = self._opened(tenant, stored.envelope)
        except BadSignatureError as error:
            return Fault(tenant, "database", error.cause, str(error))
        if not stored.due == stored.version == signed:
            told = f"the tenant is at version {stored.due}, the row at {stored.version}, signed is {signed}"
            return Fault(tenant, "database", "version", told)
        return None

    def _held_fault(self, tenant: str, stored: _Stored, held: _Held | None) -> Fault | None:
        if held is None:
            return None
        version, envelope = held
        if version is None or envelope is None:
            # What waits to be published may not be there yet.
            return None if stored.waits else Fault(tenant, "redis", "missing", "Redis holds no snapshot")
        try:
            signed = self._opened(tenant, envelope)
        except BadSignatureError as error:
            return Fault(tenant, "redis", error.cause, str(error))
        if version != str(signed).encode():
            told = f"Redis says {version.decode(errors='replace')!r}, signed is {signed}"
            return Fault(tenant, "redis", "version", told)
        return _difference(tenant, stored, signed, envelope)

    def _opened(self, tenant: str, envelope: bytes) -> int:
        """The signed version; a tenant that is no name stands for the catalogue."""
        if not tenant:
            return open_catalogue(self._trusted, envelope).version
        return open_snapshot(self._trusted, envelope, tenant).version


def _difference(tenant: str, stored: _Stored, signed: int, envelope: bytes) -> Fault | None:
    """Between the database and what Redis holds. What waits may be older there, and never newer."""
    if signed > stored.version or (signed < stored.version and not stored.waits):
        told = f"Redis holds {signed}, the database has {stored.version}"
        return Fault(tenant, "redis", "version", told)
    if signed == stored.version and envelope != stored.envelope:
        return Fault(tenant, "redis", "content", f"another snapshot of the same version {signed}")
    return None


def _waiting(session: Session, tenants: Sequence[str]) -> frozenset[str]:
    query = select(SnapshotOutboxRow.tenant_id).where(SnapshotOutboxRow.published_at.is_(None))
    return frozenset(session.scalars(query.where(among(session, SnapshotOutboxRow.tenant_id, tenants))))


def _answered(answer: Any) -> _Held:  # noqa: ANN401 - what a pipeline returns
    """An error stands for a value of another type: not a snapshot."""
    if isinstance(answer, Exception):
        return None, None
    return cast("_Held", tuple(answer))
