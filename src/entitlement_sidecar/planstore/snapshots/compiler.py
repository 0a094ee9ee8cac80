"""From what a tenant bought to what a sidecar needs to know. Pure: rows in, a snapshot out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.catalogue import Limit, PlanEntitlement
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind
from entitlement_sidecar.domain.snapshot import Grant, GrantEffect, Snapshot, Subscription
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.planstore.catalogue import add_on_of, plan_of
from entitlement_sidecar.planstore.catalogue.plans import decode_entitlement
from entitlement_sidecar.planstore.db import (
    CreditGrantRow,
    OverrideRow,
    PlanRow,
    SubscriptionAddOnRow,
    SubscriptionRow,
)
from entitlement_sidecar.planstore.subscriptions import Holdings, phases_of


class Stamp(msgspec.Struct, frozen=True):
    """Whose snapshot it is, and which."""

    tenant_id: str
    version: int
    compiled_at: datetime
    catalogue_version: int


def compile_snapshot(stamp: Stamp, held: Holdings) -> Snapshot:
    """The snapshot of a tenant that has this; nothing is legal and grants nothing.

    It carries effective intervals instead of a state, so that ends take effect on time without anyone
    compiling again. Amounts of add-ons are multiplied by their quantity, and billing-cycle windows get the
    subscription's anchor, those of overrides the anchor of the tenant's first one.
    """
    anchor = held.subscriptions[0].anchor if held.subscriptions else None
    return Snapshot(
        tenant_id=stamp.tenant_id,
        version=stamp.version,
        compiled_at=stamp.compiled_at,
        catalogue_version=stamp.catalogue_version,
        subscriptions=tuple(_subscription(row) for row in held.subscriptions),
        grants=(
            *(grant for row in held.subscriptions for grant in _grants(row)),
            *(_override(row, anchor) for row in held.overrides),
            *(_credits(row) for row in held.credit_grants),
        ),
    )


def _subscription(row: SubscriptionRow) -> Subscription:
    return Subscription(row.id, row.plan.code, row.plan.version, phases_of(row))


def _grants(row: SubscriptionRow) -> Iterator[Grant]:
    yield from _plan_grants(row, row.plan, row.anchor, until=row.next_plan_at)
    if row.next_plan is not None:
        # A trial's end is where billing cycles begin to count.
        anchor = row.next_plan_at if row.state == "trialing" else row.anchor
        yield from _plan_grants(row, row.next_plan, anchor, since=row.next_plan_at)
    for entry in row.add_ons:
        yield from _add_on_grants(row, entry)


def _plan_grants(
    row: SubscriptionRow,
    plan: PlanRow,
    anchor: datetime | None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[Grant]:
    provenance = Provenance(ProvenanceKind.PLAN, f"{plan.code}@{plan.version}")
    for entitlement in plan_of(plan).entitlements:
        grant = _grant(row, provenance, entitlement, 1, anchor)
        yield msgspec.structs.replace(grant, since=since, until=until)


def _add_on_grants(row: SubscriptionRow, entry: SubscriptionAddOnRow) -> Iterator[Grant]:
    add_on = add_on_of(entry.add_on)
    provenance = Provenance(ProvenanceKind.ADD_ON, add_on.key)
    for entitlement in add_on.entitlements:
        yield _grant(row, provenance, entitlement, entry.quantity, row.anchor)


def _grant(
    row: SubscriptionRow,
    provenance: Provenance,
    entitlement: PlanEntitlement,
    quantity: int,
    anchor: datetime | None,
) -> Grant:
    return Grant(
        feature=entitlement.feature,
        provenance=provenance,
        subscription_id=row.id,
        enabled=entitlement.enabled,
        value=entitlement.value,
        limits=tuple(limit.bought(quantity, anchor) for limit in entitlement.limits),
        priority=entitlement.priority,
    )


def _override(row: OverrideRow, anchor: datetime | None) -> Grant:
    entitlement = decode_entitlement(row.body)
    return Grant(
        feature=row.feature,
        provenance=Provenance(ProvenanceKind.OVERRIDE, row.id),
        effect=GrantEffect[row.effect.upper()],
        since=row.since,
        until=row.until,
        enabled=entitlement.enabled,
        value=entitlement.value,
        limits=tuple(limit.bought(1, anchor) for limit in entitlement.limits),
        reason=row.reason,
        priority=entitlement.priority,
    )


def _credits(row: CreditGrantRow) -> Grant:
    return Grant(
        feature=row.feature,
        provenance=Provenance(ProvenanceKind.CREDIT_GRANT, row.id),
        since=row.since,
        until=row.until,
        limits=(Limit(row.amount, WindowSpec(WindowUnit.LIFETIME)),),
        reason=row.reason,
        priority=row.priority,
    )
