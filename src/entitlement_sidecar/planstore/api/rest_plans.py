"""What is sold: plans for sale (S1.2, S4.5). The catalogue that they come from is in `rest_catalogue`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from entitlement_sidecar.domain.catalogue import BillingModel
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import View
from entitlement_sidecar.planstore.catalogue import list_plans
from entitlement_sidecar.planstore.db import PlanEntitlementRow, PlanRow


class EntitlementView(View):
    """What a plan grants of one feature; the limit is its first."""

    feature: str = Field(examples=["requests"])
    limit: int | None = Field(description="Null: unlimited, or not limited by amount.", examples=[100000])
    reset_cadence: str | None = Field(examples=["month"])


class PlanView(View):
    """One plan version."""

    code: str = Field(examples=["starter"])
    version: int = Field(examples=[1])
    product: str = Field(
        description="A tenant has one open subscription of each product.", examples=["default"]
    )
    title: str = Field(examples=["Starter"])
    price: str = Field(description="Exact amount and currency.", examples=["299.00 USD"])
    price_amount: str = Field(examples=["299.00"])
    price_currency: str = Field(examples=["USD"])
    billing_period: str = Field(examples=["month"])
    billing_model: str = Field(examples=["hybrid"])
    trial_days: int = Field(examples=[0])
    active: bool
    entitlements: list[EntitlementView]


class PlansView(View):
    """Plans."""

    plans: list[PlanView]


def plans(dependencies: ApiDependencies) -> APIRouter:
    """Routes of plans."""
    router = APIRouter(tags=["catalogue"])

    @router.get("/api/billing/plans")
    def get_plans(
        every_version: Annotated[bool, Query(description="Also what is no longer for sale.")] = False,  # noqa: FBT002 - a query parameter
    ) -> PlansView:
        """The plans that can be subscribed to."""
        with dependencies.database.reading() as session:
            return PlansView(plans=[_plan(row) for row in list_plans(session, active_only=not every_version)])

    return router


def _plan(row: PlanRow) -> PlanView:
    amount = format(row.price_amount, "f")
    return PlanView(
        code=row.code,
        version=row.version,
        product=row.product,
        title=row.title,
        price=f"{amount} {row.price_currency}",
        price_amount=amount,
        price_currency=row.price_currency,
        billing_period=row.billing_period,
        billing_model=BillingModel(row.billing_model).name.lower(),
        trial_days=row.trial_days,
        active=row.active,
        entitlements=[_entitlement(entry) for entry in row.entitlements],
    )


def _entitlement(row: PlanEntitlementRow) -> EntitlementView:
    return EntitlementView(feature=row.feature, limit=row.limit_amount, reset_cadence=row.reset_cadence)
