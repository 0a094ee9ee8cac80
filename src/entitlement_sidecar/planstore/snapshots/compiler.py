"""From what a tenant bought to what a sidecar needs to know. Pure: rows in, a snapshot out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from entitlement_sidecar.planstore.subscriptions.former import FormerPlan, carrying
from entitlement_sidecar.planstore.subscriptions.phases import BEGINS_EARLY


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
    subscription's anchor, those of overrides the anchor of the one that grants the feature. A trial's end
    is where billing cycles begin to count anew.
    """
    return Snapshot(
        tenant_id=stamp.tenant_id,
        version=stamp.version,
        compiled_at=stamp.compiled_at,
        catalogue_version=stamp.catalogue_version,
        subscriptions=tuple(_subscription(row) for row in held.subscriptions),
        grants=(
            *(grant for row in held.subscriptions for grant in _grants(row, held.former.get(row.id, ()))),
            *(grant for row in held.overrides for grant in _overrides(row, held)),
            *(_credits(row) for row in held.credit_grants),
        ),
    )


def _subscription(row: SubscriptionRow) -> Subscription:
    return Subscription(row.id, row.plan.code, row.plan.version, phases_of(row))


def _grants(row: SubscriptionRow, former: Sequence[FormerPlan]) -> Iterator[Grant]:
    for grant in _plan_grants(row, row.plan, row.anchor, until=row.next_plan_at):
        yield msgspec.structs.replace(grant, since=_had_since(row, grant.feature, former))
    yield from _former_grants(row, former)
    if row.next_plan is not None:
        anchor = _anchor_after_trial(row) or row.anchor
        yield from _plan_grants(row, row.next_plan, anchor, since=row.next_plan_at)
    for entry in row.add_ons:
        yield from _add_on_grants(row, entry)


def _former_grants(row: SubscriptionRow, former: Sequence[FormerPlan]) -> Iterator[Grant]:
    """What there was of features that carry over: some of it may be left."""
    features = carrying(row) if former else frozenset[str]()
    for one in former:
        for grant in _plan_grants(row, one.plan, one.anchor, one.since, one.until):
            if grant.feature in features:
                yield grant


def _had_since(row: SubscriptionRow, feature: str, former: Sequence[FormerPlan]) -> datetime | None:
    """Since when the present plan grants it, where that matters to what is carried over."""
    if not former or feature not in carrying(row):
        return None
    at = former[-1].until
    known = any(one.feature == feature for one in plan_of(former[-1].plan).entitlements)
    # A sidecar whose clock is behind must not refuse what was just bought.
    return at if known or at == row.current_period_start else at - BEGINS_EARLY


def _anchor_after_trial(row: SubscriptionRow) -> datetime | None:
    """What billing cycles count from once a trial has become paid; None where none will."""
    return row.next_plan_at if row.state == "trialing" else None


def _by_cycles(grant: Grant, row: SubscriptionRow | None) -> Iterator[Grant]:
    """A grant that outlives a trial: by billing cycles of the trial, and then by others."""
    anchor = _anchor_after_trial(row) if row is not None else None
    cyclic = any(limit.window.unit is WindowUnit.BILLING_CYCLE for limit in grant.limits)
    if anchor is None or not cyclic:
        yield grant
        return
    if grant.since is None or grant.since < anchor:
        until = anchor if grant.until is None else min(grant.until, anchor)
        yield msgspec.structs.replace(grant, until=until)
    if grant.until is None or anchor < grant.until:
        since = anchor if grant.since is None else max(grant.since, anchor)
        limits = tuple(_counted_from(limit, anchor) for limit in grant.limits)
        yield msgspec.structs.replace(grant, since=since, limits=limits)


def _counted_from(limit: Limit, anchor: datetime) -> Limit:
    if limit.window.unit is not WindowUnit.BILLING_CYCLE:
        return limit
    return msgspec.structs.replace(limit, window=msgspec.structs.replace(limit.window, anchor=anchor))


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
        yield from _by_cycles(_grant(row, provenance, entitlement, entry.quantity, row.anchor), row)


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


def _overrides(row: OverrideRow, held: Holdings) -> Iterator[Grant]:
    beside = _beside(row.feature, held)
    grant = _override(row, beside.anchor if beside is not None else None)
    yield from [grant] if _is_replaced(row, held) else _by_cycles(grant, beside)


def _beside(feature: str, held: Holdings) -> SubscriptionRow | None:
    """The subscription with which an override counts: of those that go on the one that grants the feature.

    Where none does it is the oldest one, so that buying another product begins no new count.
    """
    ordered = sorted(held.subscriptions, key=lambda row: (not row.open, row.created_at, row.id))
    granting = (row for row in ordered if feature in _granted_by(row))
    return next(granting, ordered[0] if ordered else None)


def _granted_by(row: SubscriptionRow) -> set[str]:
    sold = [plan_of(row.plan).entitlements, *(add_on_of(entry.add_on).entitlements for entry in row.add_ons)]
    return {entitlement.feature for entitlements in sold for entitlement in entitlements}


def _is_replaced(row: OverrideRow, held: Holdings) -> bool:
    """Whether another override that sets the feature begins after it: which began last must stay the last."""
    return row.effect == "set" and any(
        other.effect == "set" and other.feature == row.feature and other.since > row.since
        for other in held.overrides
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
