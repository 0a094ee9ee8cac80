"""From what a tenant bought to what a sidecar needs to know. Pure: rows in, a snapshot out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.catalogue import PlanEntitlement
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind
from entitlement_sidecar.domain.snapshot import Grant, Snapshot, Subscription
from entitlement_sidecar.planstore.catalogue import add_on_of, plan_of
from entitlement_sidecar.planstore.db import SubscriptionAddOnRow, SubscriptionRow
from entitlement_sidecar.planstore.subscriptions import phases_of


class Stamp(msgspec.Struct, frozen=True):
    """Whose snapshot it is, and which."""

    tenant_id: str
    version: int
    compiled_at: datetime
    catalogue_version: int


def compile_snapshot(stamp: Stamp, rows: Sequence[SubscriptionRow]) -> Snapshot:
    """The snapshot of a tenant with these subscriptions; none is legal and grants nothing.

    It carries effective intervals instead of a state, so that ends take effect on time without anyone
    compiling again. Amounts of add-ons are multiplied by their quantity, and billing-cycle windows get the
    subscription's anchor.
    """
    return Snapshot(
        tenant_id=stamp.tenant_id,
        version=stamp.version,
        compiled_at=stamp.compiled_at,
        catalogue_version=stamp.catalogue_version,
        subscriptions=tuple(_subscription(row) for row in rows),
        grants=tuple(grant for row in rows for grant in _grants(row)),
    )


def _subscription(row: SubscriptionRow) -> Subscription:
    return Subscription(row.id, row.plan.code, row.plan.version, phases_of(row))


def _grants(row: SubscriptionRow) -> Iterator[Grant]:
    plan = Provenance(ProvenanceKind.PLAN, f"{row.plan.code}@{row.plan.version}")
    for entitlement in plan_of(row.plan).entitlements:
        yield _grant(row, plan, entitlement, quantity=1)
    for entry in row.add_ons:
        yield from _add_on_grants(row, entry)


def _add_on_grants(row: SubscriptionRow, entry: SubscriptionAddOnRow) -> Iterator[Grant]:
    add_on = add_on_of(entry.add_on)
    provenance = Provenance(ProvenanceKind.ADD_ON, add_on.key)
    for entitlement in add_on.entitlements:
        yield _grant(row, provenance, entitlement, entry.quantity)


def _grant(
    row: SubscriptionRow, provenance: Provenance, entitlement: PlanEntitlement, quantity: int
) -> Grant:
    return Grant(
        feature=entitlement.feature,
        provenance=provenance,
        subscription_id=row.id,
        enabled=entitlement.enabled,
        value=entitlement.value,
        limits=tuple(limit.bought(quantity, row.anchor) for limit in entitlement.limits),
        priority=entitlement.priority,
    )
