"""All organizations, by page (S4.5)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import View
from entitlement_sidecar.planstore.subscriptions.listing import Listed, ListedTenant, Wanted, list_tenants
from entitlement_sidecar.wire.fields import KEY_FORM, TENANT_FORM, expected, is_key, is_tenant

MAX_PAGE = 1000

Status = Literal["trialing", "active", "past_due", "unpaid", "suspended", "cancelled", "ended"]


class ListedSubscriptionView(View):
    """The newest subscription of a product."""

    id: str
    product: str = Field(examples=["default"])
    plan: str = Field(examples=["starter"])
    plan_version: int = Field(examples=[1])
    status: str = Field(description="What it is worth now.", examples=["active"])


class OrganizationView(View):
    """One organization."""

    tenant_id: str = Field(examples=["acme"])
    snapshot_version: int = Field(examples=[1])
    created_at: datetime
    subscriptions: list[ListedSubscriptionView] = Field(description="The newest one of each product.")


class OrganizationsView(View):
    """A page of organizations in the order of their ids; null `next_cursor`: there are no more."""

    organizations: list[OrganizationView]
    next_cursor: str | None = Field(examples=["acme"])


def organizations(dependencies: ApiDependencies) -> APIRouter:
    """The route of all organizations."""
    router = APIRouter(tags=["organizations"])

    @router.get("/api/billing/organizations")
    def list_organizations(
        plan: Annotated[str, Query(description="Only those with a subscription to this plan.")] = "",
        status: Annotated[Status | None, Query(description="Only those with one of this status now.")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        cursor: Annotated[str, Query(description="`next_cursor` of the page before.")] = "",
    ) -> OrganizationsView:
        """Every organization, by page. With a filter a page may hold fewer than `limit`, and more follow."""
        if plan and not is_key(plan):
            raise InvalidInputError.of("plan", expected(KEY_FORM, plan))
        if cursor and not is_tenant(cursor):
            raise InvalidInputError.of(
                "cursor", expected(f"the `next_cursor` of a page: {TENANT_FORM}", cursor)
            )
        wanted = Wanted(cursor, plan, status or "", limit)
        with dependencies.database.reading() as session:
            page = list_tenants(session, wanted, dependencies.clock.now())
            return OrganizationsView(
                organizations=[_organization(one) for one in page.tenants], next_cursor=page.after
            )

    return router


def _organization(one: ListedTenant) -> OrganizationView:
    return OrganizationView(
        tenant_id=one.organization.tenant_id,
        snapshot_version=one.organization.snapshot_version,
        created_at=one.organization.created_at,
        subscriptions=[_subscription(each) for each in one.subscriptions],
    )


def _subscription(listed: Listed) -> ListedSubscriptionView:
    row = listed.row
    return ListedSubscriptionView(
        id=row.id,
        product=row.product,
        plan=row.plan.code,
        plan_version=row.plan.version,
        status=listed.status,
    )
