"""Subscriptions of organizations (S1.5, S4.4, S4.5). Every change answers the snapshot version to ask for."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from entitlement_sidecar.domain.errors import InvalidInputError, NotFoundError, Violation
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.etags import IfMatch, expected_version
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, Body, Tenant, View
from entitlement_sidecar.planstore.subscriptions import (
    DEFAULT_GRACE_DAYS,
    MAX_GRACE_DAYS,
    SubscriptionChange,
    SubscriptionRequest,
    Target,
    find_organization,
    latest_subscription,
    latest_subscriptions,
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
    at_period_end: bool = Field(
        default=False, description="The plan changes when the running period or trial ends, not now."
    )


class CancelBody(ExpectedBody):
    """How a subscription ends."""

    at_period_end: bool = Field(default=False, description="When the running period or trial ends, not now.")


class PastDueBody(ExpectedBody):
    """How long a failed payment takes nothing away."""

    grace_days: int = Field(DEFAULT_GRACE_DAYS, ge=0, le=MAX_GRACE_DAYS, description="Days of grace.")


class SubscriptionView(View):
    """A subscription, and the snapshot version that carries it to sidecars."""

    tenant_id: str = Field(examples=["acme"])
    id: str
    product: str = Field(examples=["default"])
    plan: str = Field(examples=["starter"])
    plan_version: int = Field(examples=[1])
    status: str = Field(
        description="trialing, active, past_due, unpaid, suspended, cancelled or ended, now.",
        examples=["active"],
    )
    auto_renew: bool
    add_ons: dict[str, int]
    trial_start: datetime | None
    trial_end: datetime | None
    current_period_start: datetime
    current_period_end: datetime | None
    cancel_at: datetime | None
    grace_until: datetime | None = Field(description="When what is past due is taken away.")
    next_plan: str | None = Field(description="What it changes to at `next_plan_at`.", examples=["free@1"])
    next_plan_at: datetime | None
    version: int = Field(description="For `expected_version`.", examples=[1])
    snapshot_version: int = Field(description="For `min_snapshot_version` of a check.", examples=[1])
    created_at: datetime
    updated_at: datetime


class SubscriptionsView(View):
    """Subscriptions of one organization, by product."""

    subscriptions: list[SubscriptionView]


def _product(
    product: Annotated[
        str | None,
        Query(max_length=64, description="Which of several subscriptions.", examples=["default"]),
    ] = None,
) -> str | None:
    if product is not None and not is_key(product):
        raise InvalidInputError.of("product", expected(KEY_FORM, product))
    return product


Product = Annotated[str | None, Depends(_product)]
"""The product of the subscription that is meant; it may be left out where there is one."""


def subscriptions(dependencies: ApiDependencies) -> APIRouter:
    """Routes of subscriptions."""
    router = APIRouter(tags=["subscriptions"])
    _add_reading(router, dependencies)
    _add_upsert(router, dependencies)
    _add_payments(router, dependencies)
    _add_ends(router, dependencies)
    return router


def _add_reading(router: APIRouter, dependencies: ApiDependencies) -> None:
    database, clock = dependencies.database, dependencies.clock

    @router.get(_PATH)
    def get_subscription(tenant_id: Tenant, product: Product = None) -> SubscriptionView:
        """The tenant's latest subscription, whatever became of it."""
        with database.reading() as session:
            organization = find_organization(session, tenant_id)
            row = latest_subscription(session, tenant_id, product)
            if row is None:
                raise NotFoundError(f"{tenant_id!r} has no such subscription: create one")
            return view_of(SubscriptionChange(row, organization.snapshot_version), clock.now())

    @router.get(f"{ORGANIZATION}/subscriptions")
    def list_subscriptions(tenant_id: Tenant) -> SubscriptionsView:
        """The tenant's latest subscription of each product, whatever became of it."""
        with database.reading() as session:
            at = find_organization(session, tenant_id).snapshot_version
            found = [SubscriptionChange(row, at) for row in latest_subscriptions(session, tenant_id)]
            return SubscriptionsView(subscriptions=[view_of(one, clock.now()) for one in found])


def _add_upsert(router: APIRouter, dependencies: ApiDependencies) -> None:
    @router.post(_PATH, responses={201: {"model": SubscriptionView, "description": "Created"}})
    def post_subscription(
        tenant_id: Tenant, body: SubscribeBody, response: Response, if_match: IfMatch = None
    ) -> SubscriptionView:
        """Subscribes a tenant, or changes what it has. Asking for what is there changes nothing."""
        request = _request(body, expected_version(if_match, body))
        with dependencies.database.writing() as session:
            change = dependencies.subscriptions.upsert(session, tenant_id, request)
        response.status_code = 201 if change.created else 200
        return _changed(dependencies, change)


def _add_payments(router: APIRouter, dependencies: ApiDependencies) -> None:
    database, changes = dependencies.database, dependencies.subscriptions

    @router.post(f"{_PATH}/activate")
    def activate_subscription(
        tenant_id: Tenant, product: Product = None, if_match: IfMatch = None, body: ExpectedBody | None = None
    ) -> SubscriptionView:
        """Begins to charge for a trial, or ends the grace of one that was paid after all."""
        target = _target(tenant_id, product, if_match, body)
        with database.writing() as session:
            change = changes.activate(session, target)
        return _changed(dependencies, change)

    @router.post(f"{_PATH}/renew")
    def renew_subscription(
        tenant_id: Tenant, product: Product = None, if_match: IfMatch = None, body: ExpectedBody | None = None
    ) -> SubscriptionView:
        """Adds a period to a fixed term; says that what was due is paid. Others renew by themselves."""
        target = _target(tenant_id, product, if_match, body)
        with database.writing() as session:
            change = changes.renew(session, target)
        return _changed(dependencies, change)

    @router.post(f"{_PATH}/past-due")
    def mark_subscription_past_due(
        tenant_id: Tenant, product: Product = None, if_match: IfMatch = None, body: PastDueBody | None = None
    ) -> SubscriptionView:
        """A payment failed: nothing is taken away until the grace is over, and then everything."""
        target = _target(tenant_id, product, if_match, body)
        grace = body.grace_days if body else DEFAULT_GRACE_DAYS
        with database.writing() as session:
            change = changes.past_due(session, target, grace)
        return _changed(dependencies, change)


def _add_ends(router: APIRouter, dependencies: ApiDependencies) -> None:
    database, changes = dependencies.database, dependencies.subscriptions

    @router.post(f"{_PATH}/suspend")
    def suspend_subscription(
        tenant_id: Tenant, product: Product = None, if_match: IfMatch = None, body: ExpectedBody | None = None
    ) -> SubscriptionView:
        """Takes everything away until it is resumed."""
        target = _target(tenant_id, product, if_match, body)
        with database.writing() as session:
            change = changes.suspend(session, target)
        return _changed(dependencies, change)

    @router.post(f"{_PATH}/resume")
    def resume_subscription(
        tenant_id: Tenant, product: Product = None, if_match: IfMatch = None, body: ExpectedBody | None = None
    ) -> SubscriptionView:
        """Ends a suspension; without one, takes back a cancellation or a plan that is scheduled."""
        target = _target(tenant_id, product, if_match, body)
        with database.writing() as session:
            change = changes.resume(session, target)
        return _changed(dependencies, change)

    @router.post(f"{_PATH}/cancel")
    def cancel_subscription(
        tenant_id: Tenant, product: Product = None, if_match: IfMatch = None, body: CancelBody | None = None
    ) -> SubscriptionView:
        """Ends it, now or with the running period or trial."""
        target = _target(tenant_id, product, if_match, body)
        later = body.at_period_end if body else False
        with database.writing() as session:
            change = changes.cancel(session, target, at_period_end=later)
        return _changed(dependencies, change)


def _changed(dependencies: ApiDependencies, change: SubscriptionChange) -> SubscriptionView:
    dependencies.changed()
    return view_of(change, dependencies.clock.now())


def _target(tenant_id: str, product: str | None, if_match: int | None, body: ExpectedBody | None) -> Target:
    return Target(tenant_id=tenant_id, product=product, expected_version=expected_version(if_match, body))


def _request(body: SubscribeBody, expected_at: int | None) -> SubscriptionRequest:
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
        at_period_end=body.at_period_end,
        expected_version=expected_at,
    )


def view_of(change: SubscriptionChange, now: datetime) -> SubscriptionView:
    """A subscription as it is at an instant."""
    row = change.row
    period_start, period_end = running_period(row, now)
    return SubscriptionView(
        tenant_id=row.tenant_id,
        id=row.id,
        product=row.product,
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
        grace_until=row.grace_until,
        next_plan=f"{row.next_plan.code}@{row.next_plan.version}" if row.next_plan else None,
        next_plan_at=row.next_plan_at,
        version=row.version,
        snapshot_version=change.snapshot_version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
