"""After a restore: everything gets a version above all that was ever published, and the feed begins anew.

Sidecars and Redis hold versions that the restored database has never heard of, and never go back to an older
one. What is true again therefore has to be newer than what is not true any more. Versions continue from the
milliseconds of the clock, which no tenant's changes get to by counting, and which a second restore of the
same backup is past.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice

import msgspec
import redis
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.audit import Change, record
from entitlement_sidecar.planstore.catalogue import lift_catalogue
from entitlement_sidecar.planstore.db import (
    CatalogueRow,
    Database,
    FeedStateRow,
    OrganizationRow,
    RedisFeedStateRow,
    SnapshotOutboxRow,
    TenantSnapshotRow,
)
from entitlement_sidecar.planstore.snapshots.redis_client import Cluster
from entitlement_sidecar.wire.envelopes import seal_snapshot
from entitlement_sidecar.wire.redis_keys import BLOCKS, snapshot_key
from entitlement_sidecar.wire.signing import SigningKey
from entitlement_sidecar.wire.snapshot_codec import snapshot_from_proto
from entitlement_sidecar.wire.v1 import snapshot_pb2

PAGE = 1000
"""Snapshots that are in memory at once."""

_BEFORE, _BEHIND = snapshot_key("*").split("*")
_KEYS = f"{_BEFORE}*{_BEHIND}"


class Lifted(msgspec.Struct, frozen=True):
    """What was done: tenants with a snapshot, and the version from which all of them go on."""

    tenants: int
    version: int


def lift(
    database: Database, key: SigningKey, now: datetime, advance: Callable[[int], None] = lambda _: None
) -> Lifted:
    """Seals the catalogue and every snapshot again, above every version so far, in one transaction.

    Repeating it does no harm. It is recorded in the audit log. `advance` is told how many are done.
    """
    with database.writing() as session:
        _forget_feed(session)
        version = max(int(now.timestamp() * 1000), _highest(session) + 1)
        catalogue = lift_catalogue(session, version, key, now)
        done = 0
        for page in _pages(session):
            _lift_snapshots(session, page, key, _Stamp(version, catalogue, now))
            done += len(page)
            advance(len(page))
        # Those without a snapshot too: their first one must not be older than what others remember of them.
        session.execute(update(OrganizationRow).values(snapshot_version=version))
        record(session, Change("database.restored", "database", "", None, {"version": version}), now)
    return Lifted(done, version)


def count_snapshots(database: Database) -> int:
    """How many there are to seal again."""
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(TenantSnapshotRow)) or 0


def remove_strangers(database: Database, client: redis.Redis | Cluster) -> int:
    """Removes snapshots of tenants that the database does not know from Redis. Returns how many.

    Raises:
        redis.RedisError: Redis is away.
    """
    removed = 0
    keys: Iterator[bytes] = iter(client.scan_iter(match=_KEYS, count=PAGE))
    while page := list(islice(keys, PAGE)):
        named = {key.decode(errors="replace")[len(_BEFORE) : -len(_BEHIND)]: key for key in page}
        with database.reading() as session:
            query = select(OrganizationRow.tenant_id).where(OrganizationRow.tenant_id.in_(list(named)))
            known = set(session.scalars(query))
        # One by one: in a cluster they lie on several servers.
        removed += sum(client.delete(named[tenant_id]) for tenant_id in named.keys() - known)
    return removed


def remove_blocks(client: redis.Redis | Cluster) -> int:
    """Removes every block of quota from Redis: the database may not know what they were delegated.

    No plan store may run. Sidecars go on with the leases that they have; new blocks are laid when they ask.

    Raises:
        redis.RedisError: Redis is away.
    """
    removed = 0
    keys: Iterator[bytes] = iter(client.scan_iter(match=BLOCKS, count=PAGE))
    while page := list(islice(keys, PAGE)):
        # One by one: in a cluster they lie on several servers.
        removed += sum(client.delete(key) for key in page)
    return removed


class _Stamp(msgspec.Struct, frozen=True):
    """What every snapshot gets."""

    version: int
    catalogue_version: int
    now: datetime


def _forget_feed(session: Session) -> None:
    """Without a place to go on from, every reader begins anew and reads all that it holds again."""
    for row in (SnapshotOutboxRow, FeedStateRow, RedisFeedStateRow):
        session.execute(delete(row))


def _highest(session: Session) -> int:
    tenants = session.scalar(select(func.max(OrganizationRow.snapshot_version))) or 0
    return max(tenants, session.scalar(select(func.max(CatalogueRow.version))) or 0)


def _pages(session: Session) -> Iterator[Sequence[tuple[str, bytes]]]:
    snapshot = TenantSnapshotRow
    query = select(snapshot.tenant_id, snapshot.envelope).order_by(snapshot.tenant_id).limit(PAGE)
    after = ""
    while rows := session.execute(query.where(snapshot.tenant_id > after)).all():
        yield [(tenant_id, envelope) for tenant_id, envelope in rows]
        after = rows[-1].tenant_id


def _lift_snapshots(
    session: Session, page: Sequence[tuple[str, bytes]], key: SigningKey, stamp: _Stamp
) -> None:
    common = {"version": stamp.version, "compiled_at": stamp.now}
    lifted = [{"tenant_id": tenant, "envelope": _sealed(key, was, stamp), **common} for tenant, was in page]
    session.execute(update(TenantSnapshotRow), lifted)
    waiting = [{"kind": "snapshot", "tenant_id": tenant, **common} for tenant, _ in page]
    session.execute(insert(SnapshotOutboxRow), waiting)


def _sealed(key: SigningKey, envelope: bytes, stamp: _Stamp) -> bytes:
    """The same snapshot under another version: it was compiled in the transaction that it was stored in."""
    payload = snapshot_pb2.SignedEnvelope.FromString(envelope).payload
    snapshot = snapshot_from_proto(snapshot_pb2.Snapshot.FromString(payload))
    lifted = msgspec.structs.replace(
        snapshot,
        version=stamp.version,
        compiled_at=stamp.now,
        catalogue_version=stamp.catalogue_version or snapshot.catalogue_version,
    )
    return seal_snapshot(key, lifted)
