"""What sidecars get of organizations: to see, to verify, to compile anew."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.errors import InvalidInputError, TenantUnknownError
from entitlement_sidecar.domain.snapshot import Grant, Snapshot, Subscription
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, Body, Tenant, View
from entitlement_sidecar.planstore.api.idempotency import repeatable
from entitlement_sidecar.planstore.db import TenantSnapshotRow
from entitlement_sidecar.planstore.snapshots import SignedSnapshots, newest_snapshot
from entitlement_sidecar.planstore.snapshots.bulk import Cursor, Republisher
from entitlement_sidecar.planstore.snapshots.verification import Fault, Verification, Verified
from entitlement_sidecar.planstore.subscriptions import find_organization
from entitlement_sidecar.wire.fields import TENANT_FORM, expected, is_tenant
from entitlement_sidecar.wire.signing import KeyRing, signer_of

MAX_PAGE = 1000

_SNAPSHOTS = "/api/billing/snapshots"


class PhaseView(View):
    """One interval of a subscription's life."""

    state: str = Field(examples=["active"])
    since: datetime
    until: datetime | None


class SubscriptionPhasesView(View):
    """A subscription as its snapshot has it."""

    id: str
    plan: str = Field(examples=["starter"])
    plan_version: int = Field(examples=[1])
    phases: list[PhaseView]


class LimitView(View):
    """An amount per window; null is unlimited."""

    amount: int | None = Field(examples=[1000])
    window: str = Field(examples=["month"])
    soft: bool
    carry_over_cap: int
    overage_price: str
    mode: str | None = Field(
        examples=["leased"],
        description="Null: as the limit that this one adds to or replaces, else leased.",
    )
    on_holder_loss: str | None = Field(
        examples=["forfeit"],
        description="Null: as the limit that this one adds to or replaces, else reclaim where it is soft.",
    )


class GrantView(View):
    """Something that grants, or denies, one feature."""

    feature: str = Field(examples=["requests"])
    provenance: str = Field(examples=["plan"])
    source: str = Field(description="Which plan version, add-on or override.", examples=["starter@1"])
    effect: str = Field(examples=["add"])
    subscription_id: str
    since: datetime | None
    until: datetime | None
    enabled: bool
    value: Any = Field(description="Of config features.")
    limits: list[LimitView]
    priority: int
    reason: str


class SnapshotView(View):
    """A tenant's newest snapshot."""

    tenant_id: str = Field(examples=["acme"])
    version: int = Field(examples=[3])
    compiled_at: datetime
    catalogue_version: int
    key_id: str = Field(description="The key that signed it.")
    subscriptions: list[SubscriptionPhasesView]
    grants: list[GrantView]


class FaultView(View):
    """Something that does not fit; an empty `tenant_id` is the catalogue."""

    tenant_id: str = Field(examples=["acme"])
    where: str = Field(description="database or redis.", examples=["redis"])
    cause: str = Field(examples=["version"])
    detail: str = Field(examples=["Redis holds 2, the database has 3"])


class VerifiedView(View):
    """A page of what was looked at; null `next_cursor`: there are no more."""

    checked: int
    waiting: int = Field(description="Tenants whose newest change is on its way to Redis.")
    redis: bool = Field(description="Whether Redis was looked at.")
    faults: list[FaultView]
    next_cursor: str | None


class RepublishBody(Body):
    """How many tenants, and where to go on."""

    cursor: str = Field("", max_length=1000, description="`next_cursor` of the call before.")
    limit: int = Field(500, ge=1, le=MAX_PAGE, description="About how many tenants; whole batches are done.")


class RepublishedView(View):
    """A tenant's new version."""

    tenant_id: str = Field(examples=["acme"])
    snapshot_version: int = Field(examples=[4])


class RepublishedPageView(View):
    """New versions; null `next_cursor`: all tenants are done."""

    republished: list[RepublishedView]
    next_cursor: str | None


def snapshots(dependencies: ApiDependencies) -> APIRouter:
    """Routes of snapshots."""
    router = APIRouter(tags=["snapshots"])
    _add_reads(router, dependencies)
    _add_republishing(router, dependencies)
    return router


def _add_reads(router: APIRouter, dependencies: ApiDependencies) -> None:
    database, key = dependencies.database, dependencies.key
    trusted = dependencies.trusted or KeyRing({key.key_id: key.public_bytes})
    verification = Verification(database, trusted, dependencies.published_to)

    @router.get(f"{ORGANIZATION}/snapshot")
    def get_snapshot(tenant_id: Tenant) -> SnapshotView:
        """What sidecars get of the tenant: intervals, grants and limits, as they were signed."""
        with database.reading() as session:
            find_organization(session, tenant_id)
            snapshot = newest_snapshot(session, tenant_id)
            if snapshot is None:
                raise TenantUnknownError(tenant_id)
            envelope = session.get_one(TenantSnapshotRow, tenant_id).envelope
        return _snapshot(snapshot, signer_of(envelope))

    @router.get(f"{_SNAPSHOTS}/verify")
    def verify(
        tenant_id: Annotated[str, Query(description="Only this tenant.")] = "",
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 500,
        cursor: Annotated[str, Query(description="`next_cursor` of the page before.")] = "",
    ) -> VerifiedView:
        """Verifies signatures in the database and, where there is one, what Redis holds, by page."""
        redis = dependencies.published_to is not None
        if tenant_id:
            _require_tenant(tenant_id, "tenant_id")
            with database.reading() as session:
                find_organization(session, tenant_id)
            return _verified(verification.these([tenant_id]), (), (), redis=redis)
        if cursor:
            _require_tenant(cursor, "cursor")
        found = verification.tenants(cursor, limit)
        document = () if cursor else verification.catalogue()
        more = found.checked[-1:] if len(found.checked) == limit else ()
        return _verified(found, more, document, redis=redis)


def _add_republishing(router: APIRouter, dependencies: ApiDependencies) -> None:
    republisher = Republisher(
        dependencies.database,
        SignedSnapshots(dependencies.key, dependencies.clock),
        dependencies.clock,
        to_redis=dependencies.published_to is not None,
    )

    @router.post(f"{ORGANIZATION}/snapshot/republish")
    def republish(tenant_id: Tenant) -> RepublishedView:
        """Compiles the tenant anew, signs it and sends it out, though nothing of it has changed."""
        with dependencies.database.writing() as session:
            version = republisher.one(session, tenant_id)
        dependencies.changed()
        return RepublishedView(tenant_id=tenant_id, snapshot_version=version)

    @router.post(f"{_SNAPSHOTS}/republish")
    @repeatable
    def republish_all(body: RepublishBody | None = None) -> RepublishedPageView:
        """Compiles the next tenants anew, those in use first, as fast as they can be published.

        Call it with `next_cursor` until that is null. Who changed meanwhile is compiled anew already.
        """
        wanted = body or RepublishBody(cursor="", limit=500)
        try:
            done = republisher.some(Cursor.decode(wanted.cursor) if wanted.cursor else None, wanted.limit)
        finally:
            dependencies.changed()
        return RepublishedPageView(
            republished=[
                RepublishedView(tenant_id=tenant, snapshot_version=version)
                for tenant, version in done.versions.items()
            ],
            next_cursor=done.cursor.encode() if done.cursor else None,
        )


def _require_tenant(text: str, field: str) -> None:
    if not is_tenant(text):
        raise InvalidInputError.of(field, expected(TENANT_FORM, text))


def _verified(
    found: Verified, more: Sequence[str], document: Sequence[Fault], *, redis: bool
) -> VerifiedView:
    return VerifiedView(
        checked=len(found.checked),
        waiting=len(found.waiting),
        redis=redis,
        faults=[
            FaultView(tenant_id=one.tenant_id, where=one.where, cause=one.cause, detail=one.detail)
            for one in (*document, *found.faults)
        ],
        next_cursor=more[-1] if more else None,
    )


def _snapshot(snapshot: Snapshot, key_id: str) -> SnapshotView:
    return SnapshotView(
        tenant_id=snapshot.tenant_id,
        version=snapshot.version,
        compiled_at=snapshot.compiled_at,
        catalogue_version=snapshot.catalogue_version,
        key_id=key_id,
        subscriptions=[_subscription(one) for one in snapshot.subscriptions],
        grants=[_grant(one) for one in snapshot.grants],
    )


def _subscription(subscription: Subscription) -> SubscriptionPhasesView:
    return SubscriptionPhasesView(
        id=subscription.id,
        plan=subscription.plan,
        plan_version=subscription.plan_version,
        phases=[
            PhaseView(state=phase.state.name.lower(), since=phase.since, until=phase.until)
            for phase in subscription.phases
        ],
    )


def _grant(grant: Grant) -> GrantView:
    return GrantView(
        feature=grant.feature,
        provenance=grant.provenance.kind.name.lower(),
        source=grant.provenance.id,
        effect=grant.effect.name.lower(),
        subscription_id=grant.subscription_id,
        since=grant.since,
        until=grant.until,
        enabled=grant.enabled,
        value=grant.value,
        limits=[_limit(one) for one in grant.limits],
        priority=grant.priority,
        reason=grant.reason,
    )


def _limit(limit: Limit) -> LimitView:
    return LimitView(
        amount=limit.amount,
        window=limit.window.key,
        soft=limit.soft,
        carry_over_cap=limit.carry_over_cap,
        overage_price=limit.overage_price,
        mode=None if limit.mode is None else limit.mode.name.lower(),
        on_holder_loss=None if limit.on_holder_loss is None else limit.on_holder_loss.name.lower(),
    )
