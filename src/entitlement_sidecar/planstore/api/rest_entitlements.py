"""Everything that an organization has, and how much of it is left (S1.14)."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import Field

from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, Tenant, View
from entitlement_sidecar.planstore.api.rest_quotas import DecisionView, decision_view


class EntitlementView(View):
    """One feature, and what a check of it answers now."""

    feature: str = Field(examples=["requests"])
    decision: DecisionView


class EntitlementsView(View):
    """Every feature of the catalogue in force, by name."""

    tenant_id: str = Field(examples=["acme"])
    entitlements: list[EntitlementView]


def entitlements(dependencies: ApiDependencies) -> APIRouter:
    """The route of entitlements."""
    router = APIRouter(tags=["organizations"])

    @router.get(f"{ORGANIZATION}/entitlements")
    def list_entitlements(tenant_id: Tenant) -> EntitlementsView:
        """What the tenant has of every feature, and how much of it is used."""
        with dependencies.database.reading() as session:
            found = dependencies.checks.entitlements(session, tenant_id)
        return EntitlementsView(
            tenant_id=tenant_id,
            entitlements=[
                EntitlementView(feature=key, decision=decision_view(one)) for key, one in found.items()
            ],
        )

    return router
