"""Subscriptions of organizations (S1.5, S4.4, S4.5). Every change answers the snapshot version to ask for."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Response
from pydantic import Field

from entitlement_sidecar.domain.errors import InvalidInputError, NotFoundError, Violation
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, Body, Tenant, View
from entitlement_sidecar.planstore.subscriptions import (
    SubscriptionChange,
    SubscriptionRequest,
    Target,
    find_organization,
    latest_subscription,
    running_period,
    status_of,
)
from entitlement_sidecar.wire.fields import KEY_FORM, expected, is_key

MAX_ADD_ONS = 100
_PATH = f"{ORGANIZATION}/subscription"


class ExpectedBody(Body):
    """A change that may name the version that it is about."""

    expected_version: int | None = Field(
        None, ge=0, description="Change it only if this is still its version; 0: only if there is none."
    )


class SubscribeBody(ExpectedBody):
    """What a tenant should be subscribed to. What is left out stays as it is."""

    plan: str = Field(max_length=80, description="`CODE`, or `CODE@VERSION`.", examples=["starter"])
    trial_days: int | None = Field(None, ge=0, le=3650, description="0 ends a trial and begins to charge.")
    add_ons: dict[str, int] | None = Field(
        None,
        max_length=MAX_ADD_ONS,
        description="All add-ons with their quantities; 0 is none.",
        examples=[{"extra-requests": 2}],
    )
    auto_renew: bool | None = Field(None, description="False: it ends with its period.")


class CancelBody(ExpectedBody):
    """How a subscription ends."""

    at_period_end: bool = Field(default=False, description="When the running period or trial ends, not now.")


class SubscriptionView(View):
    """A subscription, and the snapshot version that carries it to sidecars."""

    tenant_id: str = Field(examples=["acme"])
    id: str
    plan: str = Field(examples=["starter"])
    plan_version: int = Field(examples=[1])
    status: str = Field(
        description="trialing, active, suspended, cancelled or ended, now.", examples=["active"]
    )
    auto_renew: bool
    add_ons: dict[str, int]
    trial_start: datetime | None
    trial_end: datetime | None
    current_period_start: datetime
    current_period_end: datetime | None
    cancel_at: datetime | None
    version: int = Field(description="For `expected_version`.", examples=[1])
    snapshot_version: int = Field(description="For `min_snapshot_version` of a check.", examples=[1])
    created_at: datetime
    updated_at: datetime


def subscriptions(dependencies: ApiDependencies) -> APIRouter:
    """Routes of subscriptions."""
    router = APIRouter(tags=["subscriptions"])
    database, changes = dependencies.database, dependencies.subscriptions

    def view(tenant_id: str, change: SubscriptionChange) -> SubscriptionView:
        dependencies.changed()
        return _view(tenant_id, change, dependencies.clock.now())

    @router.get(_PATH)
    def get_subscription(tenant_id: Tenant) -> SubscriptionView:
        """The tenant's latest subscription, whatever became of it."""
        with database.reading() as session:
            organization = find_organization(session, tenant_id)
            row = latest_subscription(session, tenant_id)
            if row is None:
                raise NotFoundError(f"{tenant_id!r} has no subscription: create one")
            found = SubscriptionChange(row, organization.snapshot_version, changed=False)
            return _view(tenant_id, found, dependencies.clock.now())

    @router.post(_PATH, responses={201: {"model": SubscriptionView, "description": "Created"}})
    def post_subscription(tenant_id: Tenant, body: SubscribeBody, response: Response) -> SubscriptionView:
        """Subscribes a tenant, or changes at once what it has. Asking for what is there changes nothing."""
        request = _request(body)
        with database.writing() as session:
            change = changes.upsert(session, tenant_id, request)
        response.status_code = 201 if change.created else 200
        return view(tenant_id, change)

    @router.post(f"{_PATH}/suspend")
    def suspend(tenant_id: Tenant, body: ExpectedBody | None = None) -> SubscriptionView:
        """Takes everything away until it is resumed."""
        with database.writing() as session:
            change = changes.suspend(session, _target(tenant_id, body))
        return view(tenant_id, change)

    @router.post(f"{_PATH}/resume")
    def resume(tenant_id: Tenant, body: ExpectedBody | None = None) -> SubscriptionView:
        """Ends a suspension; without one, takes back a cancellation that has not taken effect."""
        with database.writing() as session:
            change = changes.resume(session, _target(tenant_id, body))
        return view(tenant_id, change)

    @router.post(f"{_PATH}/cancel")
    def cancel(tenant_id: Tenant, body: CancelBody | None = None) -> SubscriptionView:
        """Ends it, now or with the running period."""
        wanted = body or CancelBody(expected_version=None)
        with database.writing() as session:
            change = changes.cancel(session, _target(tenant_id, body), at_period_end=wanted.at_period_end)
        return view(tenant_id, change)

    return router


def _target(tenant_id: str, body: ExpectedBody | None) -> Target:
    return Target(tenant_id=tenant_id, expected_version=body.expected_version if body else None)


def _request(body: SubscribeBody) -> SubscriptionRequest:
    code, at, version = body.plan.partition("@")
    wrong = [] if is_key(code) else [Violation("plan", expected(KEY_FORM, code))]
    if at and not (version.isascii() and version.isdigit()):
        wrong.append(Violation("plan", expected("CODE@VERSION with a number", body.plan)))
    wrong += [Violation("add_ons", expected(KEY_FORM, key)) for key in body.add_ons or {} if not is_key(key)]
    if wrong:
        raise InvalidInputError(wrong)
    return SubscriptionRequest(
        plan=body.plan,
        trial_days=body.trial_days,
        add_ons=None if body.add_ons is None else {k: n for k, n in body.add_ons.items() if n},
        auto_renew=body.auto_renew,
        expected_version=body.expected_version,
    )


def _view(tenant_id: str, change: SubscriptionChange, now: datetime) -> SubscriptionView:
    row = change.row
    period_start, period_end = running_period(row, now)
    return SubscriptionView(
        tenant_id=tenant_id,
        id=row.id,
        plan=row.plan.code,
        plan_version=row.plan.version,
        status=status_of(row, now),
        auto_renew=row.auto_renew,
        add_ons={entry.add_on.code: entry.quantity for entry in row.add_ons},
        trial_start=row.trial_start,
        trial_end=row.trial_end,
        current_period_start=period_start,
        current_period_end=period_end,
        cancel_at=row.cancel_at,
        version=row.version,
        snapshot_version=change.snapshot_version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
