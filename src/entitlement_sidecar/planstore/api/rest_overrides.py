"""Overrides of organizations: something beside the plan, for a reason (DESIGN 5)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.etags import IfMatch, expected_version
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, TEXT, Body, Tenant, View
from entitlement_sidecar.planstore.api.pages import Cursor, PageSize, name_cursor, page_of
from entitlement_sidecar.planstore.api.rest_subscriptions import ExpectedBody
from entitlement_sidecar.planstore.db import OverrideRow
from entitlement_sidecar.planstore.subscriptions import find_organization
from entitlement_sidecar.planstore.subscriptions.overrides import content_of_override, find_override
from entitlement_sidecar.planstore.subscriptions.queries import overrides_of

_PATH = f"{ORGANIZATION}/overrides"
_INSTANT = "2026-07-01T00:00:00Z"


class OverrideBody(Body):
    """What is granted or denied. Which members apply depends on the feature's kind, as in a plan."""

    feature: str = Field(max_length=64, examples=["sso"])
    effect: Literal["deny", "set", "add"] = Field(
        description="deny takes it away; set replaces what plans grant; add adds to it.", examples=["set"]
    )
    reason: str = Field(
        min_length=1, max_length=200, pattern=TEXT, description="Why.", examples=["pilot until July"]
    )
    since: str | None = Field(None, description="RFC 3339; now where it is left out.", examples=[None])
    until: str | None = Field(None, description="RFC 3339; open-ended where left out.", examples=[_INSTANT])
    enabled: bool | None = Field(None, description="Boolean features.", examples=[True])
    value: Any = Field(None, description="Config features.", examples=[None])
    limits: list[dict[str, Any]] | None = Field(
        None,
        max_length=16,
        description="Metered features, as in a plan; none is unlimited.",
        examples=[None],
    )
    seats: int | str | None = Field(None, description="Seats: how many, or `unlimited`.", examples=[None])
    credits: int | str | None = Field(None, description="Credits: how many.", examples=[None])
    window: Any = Field(None, description="Window of seats or credits.", examples=[None])
    priority: int | None = Field(None, examples=[None])

    def entry(self) -> dict[str, Any]:
        """As snapshot files write it."""
        return self.model_dump(exclude_none=True)


class OverrideView(View):
    """One override. It applies from `since` until `until`, or until it was revoked."""

    tenant_id: str = Field(examples=["acme"])
    id: str
    feature: str = Field(examples=["sso"])
    effect: str = Field(examples=["set"])
    enabled: bool
    value: Any
    limits: list[dict[str, Any]]
    reason: str = Field(examples=["pilot until July"])
    since: datetime
    until: datetime | None
    revoked_at: datetime | None
    version: int = Field(description="For `expected_version`.", examples=[1])
    created_at: datetime
    updated_at: datetime


class ChangedOverrideView(OverrideView):
    """An override, and the snapshot version that carries it to sidecars."""

    snapshot_version: int = Field(description="For `min_snapshot_version` of a check.", examples=[2])


class OverridesView(View):
    """A page of overrides, the newest first; null `next_cursor`: there are no more."""

    overrides: list[OverrideView]
    next_cursor: str | None


def overrides(dependencies: ApiDependencies) -> APIRouter:
    """Routes of overrides."""
    router = APIRouter(tags=["overrides"])
    database, changes = dependencies.database, dependencies.overrides

    @router.get(_PATH)
    def list_overrides(tenant_id: Tenant, limit: PageSize = 100, cursor: Cursor = "") -> OverridesView:
        """The tenant's overrides, also those that are over or were revoked."""
        with database.reading() as session:
            find_organization(session, tenant_id)
            rows = overrides_of(session, tenant_id, name_cursor(cursor), limit + 1)
            page, last = page_of(rows, limit)
            return OverridesView(
                overrides=[OverrideView(**_members(row)) for row in page],
                next_cursor=last.id if last else None,
            )

    @router.post(_PATH, status_code=201)
    def create_override(tenant_id: Tenant, body: OverrideBody, response: Response) -> ChangedOverrideView:
        """Grants or denies the tenant a feature beside its plan."""
        with database.writing() as session:
            change = changes.create(session, tenant_id, body.entry())
        dependencies.changed()
        response.status_code = 201
        return ChangedOverrideView(**_members(change.row), snapshot_version=change.snapshot_version)

    @router.get(f"{_PATH}/{{override_id}}")
    def get_override(tenant_id: Tenant, override_id: str) -> OverrideView:
        """One override."""
        with database.reading() as session:
            find_organization(session, tenant_id)
            return OverrideView(**_members(find_override(session, tenant_id, override_id)))

    @router.post(f"{_PATH}/{{override_id}}/revoke")
    def revoke_override(
        tenant_id: Tenant, override_id: str, if_match: IfMatch = None, body: ExpectedBody | None = None
    ) -> ChangedOverrideView:
        """Ends an override at once."""
        expected_at = expected_version(if_match, body)
        with database.writing() as session:
            change = changes.revoke(session, tenant_id, override_id, expected_at)
        dependencies.changed()
        return ChangedOverrideView(**_members(change.row), snapshot_version=change.snapshot_version)

    return router


def _members(row: OverrideRow) -> dict[str, Any]:
    return {
        "tenant_id": row.tenant_id,
        "id": row.id,
        **content_of_override(row),
        "version": row.version,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
