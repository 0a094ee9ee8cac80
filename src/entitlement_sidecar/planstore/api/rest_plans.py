"""What is sold: plans for sale, and the catalogue that they come from (S1.2, S4.5)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import Field

from entitlement_sidecar.domain.catalogue import BillingModel, Catalogue
from entitlement_sidecar.domain.errors import CatalogueError, CatalogueProblem, NotFoundError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import View
from entitlement_sidecar.planstore.catalogue import apply_catalogue, current_catalogue, list_plans
from entitlement_sidecar.planstore.db import PlanEntitlementRow, PlanRow
from entitlement_sidecar.wire.catalogue_file import parse_catalogue

YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})
SOURCE = "catalogue"
"""What messages call a catalogue that came in a request."""


_EXAMPLE = "catalogue: my-product\nfeatures:\n  sso: {kind: boolean}\n"
_YAML_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/yaml": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    }
}


class EntitlementView(View):
    """What a plan grants of one feature; the limit is its first."""

    feature: str = Field(examples=["requests"])
    limit: int | None = Field(description="Null: unlimited, or not limited by amount.", examples=[100000])
    reset_cadence: str | None = Field(examples=["month"])


class PlanView(View):
    """One plan version."""

    code: str = Field(examples=["starter"])
    version: int = Field(examples=[1])
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


class FeatureView(View):
    """One feature."""

    key: str = Field(examples=["requests"])
    kind: str = Field(examples=["metered"])
    title: str
    metric: str


class MetricView(View):
    """One metric."""

    key: str
    domain: str
    unit: str
    aggregation: str
    window: str
    classification: str
    feature: str


class CatalogueView(View):
    """The catalogue in force."""

    version: int = Field(examples=[1])
    name: str
    features: list[FeatureView]
    metrics: list[MetricView]
    plans: list[str]
    add_ons: list[str]


class AppliedView(View):
    """What applying a catalogue did: new versions as `code@version`, and what is no longer for sale."""

    version: int = Field(examples=[2])
    changed: bool
    plans: list[str] = Field(examples=[["starter@2"]])
    add_ons: list[str]
    retired: list[str]


def plans(dependencies: ApiDependencies) -> APIRouter:
    """Routes of plans and catalogue."""
    router = APIRouter(tags=["catalogue"])

    @router.get("/api/billing/plans")
    def get_plans(
        every_version: Annotated[bool, Query(description="Also what is no longer for sale.")] = False,  # noqa: FBT002 - a query parameter
    ) -> PlansView:
        """The plans that can be subscribed to."""
        with dependencies.database.reading() as session:
            return PlansView(plans=[_plan(row) for row in list_plans(session, active_only=not every_version)])

    @router.get("/api/billing/catalogue")
    def get_catalogue() -> CatalogueView:
        """The catalogue in force."""
        with dependencies.database.reading() as session:
            found = current_catalogue(session)
        if found is None:
            raise NotFoundError("no catalogue yet: apply one")
        return _catalogue(*found)

    @router.post("/api/billing/catalogue", openapi_extra=_YAML_BODY)
    def post_catalogue(text: Annotated[str, Depends(_yaml)]) -> AppliedView:
        """Puts a catalogue into force. Safe to repeat; subscribers keep the versions that they bought."""
        catalogue = parse_catalogue(text, SOURCE)
        with dependencies.database.writing() as session:
            result = apply_catalogue(
                session, catalogue, dependencies.key, dependencies.clock.now(), dependencies.feed_shards
            )
        dependencies.changed()
        return AppliedView(
            version=result.version,
            changed=result.changed,
            plans=list(result.plans),
            add_ons=list(result.add_ons),
            retired=list(result.retired),
        )

    return router


async def _yaml(request: Request) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in YAML_TYPES:
        raise HTTPException(415, "expected a body of type application/yaml")
    try:
        return (await request.body()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogueError(SOURCE, [CatalogueProblem(1, 1, "", "not UTF-8")]) from error


def _plan(row: PlanRow) -> PlanView:
    amount = format(row.price_amount, "f")
    return PlanView(
        code=row.code,
        version=row.version,
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


def _catalogue(version: int, catalogue: Catalogue) -> CatalogueView:
    features = [
        FeatureView(key=f.key, kind=f.kind.name.lower(), title=f.title, metric=f.metric)
        for f in catalogue.features.values()
    ]
    metrics = [
        MetricView(
            key=m.key,
            domain=m.domain,
            unit=m.unit,
            aggregation=m.aggregation.name.lower(),
            window=m.window.key,
            classification=m.classification.name.lower(),
            feature=m.feature,
        )
        for m in catalogue.metrics.values()
    ]
    return CatalogueView(
        version=version,
        name=catalogue.name,
        features=features,
        metrics=metrics,
        plans=list(catalogue.plans),
        add_ons=list(catalogue.add_ons),
    )
