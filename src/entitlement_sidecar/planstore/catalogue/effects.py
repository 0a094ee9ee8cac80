"""Who would have less, or more, when a catalogue comes into force (S1.2).

Subscribers keep the plan versions that they bought, so what plans say touches nobody. Features and metrics
are of the whole catalogue: what is taken from one of those is taken from everybody who has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Catalogue, Feature, Obligations
from entitlement_sidecar.domain.losing import Having, lost
from entitlement_sidecar.domain.resolve import resolve
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.domain.values import alike
from entitlement_sidecar.planstore.db import TenantSnapshotRow, UsageLedgerRow
from entitlement_sidecar.wire.snapshot_codec import snapshot_from_proto
from entitlement_sidecar.wire.v1 import snapshot_pb2

NAMED = 100
"""Tenants that an effect names; the others are only counted."""

IN_USE = timedelta(days=31)
"""How long ago the last event of a metric may be for a tenant to be one that uses it."""

_PAGE = 500


class TenantEffect(msgspec.Struct, frozen=True):
    """What one tenant would lose or gain."""

    tenant_id: str
    what: tuple[str, ...]


class Affected(msgspec.Struct, frozen=True):
    """How many tenants, and the first of them in the order of their ids."""

    count: int = 0
    tenants: tuple[TenantEffect, ...] = ()


class Effect(msgspec.Struct, frozen=True):
    """What a change of one feature or metric does. `section` as in the file, `change` says what changes."""

    section: str
    key: str
    change: str
    lost: Affected = Affected()
    gained: Affected = Affected()


def effects_of(session: Session, before: Catalogue, after: Catalogue, now: datetime) -> list[Effect]:
    """What tenants would lose and gain, by feature and metric; those that touch nobody are left out."""
    features = _FeatureEffects(before, after)
    if features.changed:
        for tenant_id, envelope in _snapshots(session):
            features.look(tenant_id, envelope, now)
    found = [*features.effects(), *_metric_effects(session, before, after, now)]
    return [effect for effect in found if effect.lost.count or effect.gained.count]


class _Tally:
    """Counts tenants, and keeps the first."""

    def __init__(self) -> None:
        self.count = 0
        self.tenants: list[TenantEffect] = []

    def add(self, tenant_id: str, what: tuple[str, ...]) -> None:
        if what:
            self.count += 1
            if len(self.tenants) < NAMED:
                self.tenants.append(TenantEffect(tenant_id, what))

    def total(self) -> Affected:
        return Affected(self.count, tuple(self.tenants))


class _FeatureEffects:
    def __init__(self, before: Catalogue, after: Catalogue) -> None:
        keys = dict.fromkeys((*before.features, *after.features))
        pairs = {key: (before.features.get(key), after.features.get(key)) for key in keys}
        self.changed = {
            key: pair for key, pair in pairs.items() if not alike(_telling(pair[0]), _telling(pair[1]))
        }
        self._lost = {key: _Tally() for key in self.changed}
        self._gained = {key: _Tally() for key in self.changed}

    def look(self, tenant_id: str, envelope: bytes, now: datetime) -> None:
        """Adds what one tenant loses and gains."""
        snapshot: Snapshot | None = None
        for key, (old, new) in self.changed.items():
            # Keys stand in an envelope as they are, so most need not be opened.
            if key.encode() not in envelope:
                continue
            snapshot = snapshot or _opened(envelope)
            before, after = _having(snapshot, old, now), _having(snapshot, new, now)
            self._lost[key].add(tenant_id, _texts(before, after))
            self._gained[key].add(tenant_id, _texts(after, before, forwards=False))

    def effects(self) -> Iterator[Effect]:
        for key, (old, new) in self.changed.items():
            change = "retired" if new is None else "added" if old is None else "changed"
            yield Effect("features", key, change, self._lost[key].total(), self._gained[key].total())


def _telling(feature: Feature | None) -> Feature | None:
    """What of a feature says what tenants have."""
    if feature is None:
        return None
    return msgspec.structs.replace(feature, title="", metric="", deprecated=False, obligations=Obligations())


def _having(snapshot: Snapshot, feature: Feature | None, now: datetime) -> Having:
    return Having() if feature is None else Having(feature, resolve(snapshot, feature, now))


def _texts(before: Having, after: Having, *, forwards: bool = True) -> tuple[str, ...]:
    found = lost(before, after)
    if not forwards:
        found = tuple(msgspec.structs.replace(one, before=one.after, after=one.before) for one in found)
    return tuple(str(one) for one in found)


def _snapshots(session: Session) -> Iterator[tuple[str, bytes]]:
    """Every tenant's newest snapshot, by page."""
    row, after = TenantSnapshotRow, ""
    while True:
        query = select(row.tenant_id, row.envelope).where(row.tenant_id > after)
        page = session.execute(query.order_by(row.tenant_id).limit(_PAGE)).all()
        yield from ((tenant_id, envelope) for tenant_id, envelope in page)
        if len(page) < _PAGE:
            return
        after = page[-1][0]


def _opened(envelope: bytes) -> Snapshot:
    # The plan store's own database is what it trusts, so the signature is not checked again here.
    payload = snapshot_pb2.SignedEnvelope.FromString(envelope).payload
    return snapshot_from_proto(snapshot_pb2.Snapshot.FromString(payload))


def _metric_effects(session: Session, before: Catalogue, after: Catalogue, now: datetime) -> Iterator[Effect]:
    """Of metrics whose events will be refused: they are gone, or of another unit."""
    for key, metric in before.metrics.items():
        new = after.metrics.get(key)
        if new is None:
            yield Effect("metrics", key, "retired", _reporting(session, key, now, "its events count no more"))
        elif new.unit != metric.unit:
            what = f"unit: {metric.unit} → {new.unit}, events of the old one are refused"
            yield Effect("metrics", key, "changed", _reporting(session, key, now, what))


def _reporting(session: Session, metric: str, now: datetime, what: str) -> Affected:
    row = UsageLedgerRow
    recent = (row.metric == metric) & (row.last_event_at > now - IN_USE)
    count = session.scalar(select(func.count(row.tenant_id.distinct())).where(recent)) or 0
    query = select(row.tenant_id).where(recent).distinct().order_by(row.tenant_id).limit(NAMED)
    return Affected(count, tuple(TenantEffect(one, (what,)) for one in session.scalars(query)))
