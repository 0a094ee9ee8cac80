"""Credits given to organizations, and what is left of them (S1.8)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.etags import IfMatch, expected_version
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, TEXT, Body, Instant, Tenant, View
from entitlement_sidecar.planstore.api.pages import Cursor, PageSize, name_cursor, page_of
from entitlement_sidecar.planstore.api.rest_subscriptions import ExpectedBody
from entitlement_sidecar.planstore.db import CreditGrantRow
from entitlement_sidecar.planstore.subscriptions import CreditRequest, find_organization
from entitlement_sidecar.planstore.subscriptions.credits import content_of_credits, find_credit_grant
from entitlement_sidecar.planstore.subscriptions.queries import credit_grants_of

_PATH = f"{ORGANIZATION}/credits"
_PRIORITY = 2**31 - 1


class CreditBody(Body):
    """Credits to give, once."""

    feature: str = Field(max_length=64, description="A credits feature.", examples=["tokens"])
    amount: int = Field(ge=1, le=MAX_QUANTITY, examples=[5000])
    reason: str = Field(min_length=1, max_length=200, pattern=TEXT, description="Why.", examples=["welcome"])
    priority: int = Field(0, ge=-_PRIORITY, le=_PRIORITY, description="Smaller burns first.")
    since: Instant | None = Field(
        None, strict=False, description="RFC 3339; now where it is left out.", examples=[None]
    )
    until: Instant | None = Field(
        None, strict=False, description="RFC 3339; never expires where left out.", examples=[None]
    )


class CreditGrantView(View):
    """One credit grant. `entitlements` of the tenant and every check say what is left of it."""

    tenant_id: str = Field(examples=["acme"])
    id: str
    feature: str = Field(examples=["tokens"])
    amount: int = Field(examples=[5000])
    priority: int
    reason: str = Field(examples=["welcome"])
    since: datetime
    until: datetime | None
    voided_at: datetime | None
    version: int = Field(description="For `expected_version`.", examples=[1])
    created_at: datetime
    updated_at: datetime


class ChangedCreditGrantView(CreditGrantView):
    """A credit grant, and the snapshot version that carries it to sidecars."""

    snapshot_version: int = Field(description="For `min_snapshot_version` of a check.", examples=[2])


class CreditGrantsView(View):
    """A page of credit grants, the newest first; null `next_cursor`: there are no more."""

    credits: list[CreditGrantView]
    next_cursor: str | None


def credit_grants(dependencies: ApiDependencies) -> APIRouter:
    """Routes of credits."""
    router = APIRouter(tags=["credits"])
    database, changes = dependencies.database, dependencies.credits

    @router.get(_PATH)
    def list_credits(tenant_id: Tenant, limit: PageSize = 100, cursor: Cursor = "") -> CreditGrantsView:
        """The tenant's credit grants, also those that are over or were voided."""
        with database.reading() as session:
            find_organization(session, tenant_id)
            rows = credit_grants_of(session, tenant_id, name_cursor(cursor), limit + 1)
            page, last = page_of(rows, limit)
            return CreditGrantsView(
                credits=[CreditGrantView(**_members(row)) for row in page],
                next_cursor=last.id if last else None,
            )

    @router.post(_PATH, status_code=201)
    def grant_credits(tenant_id: Tenant, body: CreditBody, response: Response) -> ChangedCreditGrantView:
        """Gives the tenant credits, once."""
        request = CreditRequest(**body.model_dump())
        with database.writing() as session:
            change = changes.grant(session, tenant_id, request)
        dependencies.changed()
        response.status_code = 201
        return ChangedCreditGrantView(**_members(change.row), snapshot_version=change.snapshot_version)

    @router.get(f"{_PATH}/{{grant_id}}")
    def get_credit_grant(tenant_id: Tenant, grant_id: str) -> CreditGrantView:
        """One credit grant."""
        with database.reading() as session:
            find_organization(session, tenant_id)
            return CreditGrantView(**_members(find_credit_grant(session, tenant_id, grant_id)))

    @router.post(f"{_PATH}/{{grant_id}}/void")
    def void_credit_grant(
        tenant_id: Tenant, grant_id: str, if_match: IfMatch = None, body: ExpectedBody | None = None
    ) -> ChangedCreditGrantView:
        """Takes back what is left of a grant; what was burnt stays burnt."""
        expected_at = expected_version(if_match, body)
        with database.writing() as session:
            change = changes.void(session, tenant_id, grant_id, expected_at)
        dependencies.changed()
        return ChangedCreditGrantView(**_members(change.row), snapshot_version=change.snapshot_version)

    return router


def _members(row: CreditGrantRow) -> dict[str, Any]:
    return {
        "tenant_id": row.tenant_id,
        "id": row.id,
        **content_of_credits(row),
        "version": row.version,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
