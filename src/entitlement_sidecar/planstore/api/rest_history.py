"""What became of an organization's subscriptions, version by version (S1.11)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, Tenant, View
from entitlement_sidecar.planstore.api.pages import Cursor, PageSize, number_cursor, page_of
from entitlement_sidecar.planstore.db import SubscriptionHistoryRow
from entitlement_sidecar.planstore.subscriptions import find_organization
from entitlement_sidecar.planstore.subscriptions.queries import history_of


class HistoryView(View):
    """One version of a subscription, and what led to it."""

    subscription_id: str
    version: int = Field(examples=[2])
    action: str = Field(examples=["changed"])
    status: str = Field(description="Right after it.", examples=["active"])
    plan: str = Field(examples=["starter@1"])
    actor: str = Field(description="Who; `planstore` is time itself.", examples=["ada"])
    at: datetime
    content: dict[str, Any] = Field(description="The subscription right after it.")


class HistoriesView(View):
    """A page of history, the newest first; null `next_cursor`: there is no more."""

    history: list[HistoryView]
    next_cursor: str | None


def history(dependencies: ApiDependencies) -> APIRouter:
    """The route of history."""
    router = APIRouter(tags=["subscriptions"])

    @router.get(f"{ORGANIZATION}/history")
    def list_history(tenant_id: Tenant, limit: PageSize = 100, cursor: Cursor = "") -> HistoriesView:
        """What became of the tenant's subscriptions."""
        with dependencies.database.reading() as session:
            find_organization(session, tenant_id)
            rows = history_of(session, tenant_id, number_cursor(cursor), limit + 1)
            page, last = page_of(rows, limit)
            return HistoriesView(
                history=[_view(row) for row in page], next_cursor=str(last.id) if last else None
            )

    return router


def _view(row: SubscriptionHistoryRow) -> HistoryView:
    return HistoryView(
        subscription_id=row.subscription_id,
        version=row.version,
        action=row.action,
        status=row.state,
        plan=row.plan,
        actor=row.actor,
        at=row.at,
        content=json.loads(row.body),
    )
