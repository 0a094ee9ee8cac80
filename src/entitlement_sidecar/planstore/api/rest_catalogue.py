"""The catalogue in force, what another one would change, and putting that one into force (S1.2)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import PlainTextResponse
from pydantic import Field

from entitlement_sidecar.domain.catalogue import Catalogue, Feature
from entitlement_sidecar.domain.errors import CatalogueError, CatalogueProblem, InvalidInputError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import MAY_BE_ABSENT, View
from entitlement_sidecar.planstore.catalogue import (
    Affected,
    Difference,
    Effect,
    apply_catalogue,
    catalogue_of,
    preview,
    refuse_losses,
)
from entitlement_sidecar.planstore.usage.quarantine import held_of_metrics
from entitlement_sidecar.wire.catalogue_dump import dump_catalogue
from entitlement_sidecar.wire.catalogue_file import parse_catalogue
from entitlement_sidecar.wire.fields import KEY_FORM, expected, is_key

MAX_PAGE = 1000

YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})
SOURCE = "catalogue"
"""What messages call a catalogue that came in a request."""


_EXAMPLE = """catalogue: my-product
features:
  sso: {kind: boolean}
plans:
  starter:
    title: Starter
    price: {amount: "299.00", currency: USD}
    billing_period: month
    entitlements: {sso: true}
"""
_YAML_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/yaml": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    }
}
_EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "A catalogue file", "content": {"application/yaml": {"example": _EXAMPLE}}},
    **MAY_BE_ABSENT,
}


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
    granularity: str = Field(description="event or rollup.", examples=["event"])
    terminal: bool = Field(description="Ends the work of its correlation id.", examples=[False])
    counts_to_quota: bool = Field(description="Also where it is not billable.", examples=[False])
    when_full: str = Field(
        description="At a sidecar without room: refuse, block or allow_unmetered.", examples=["refuse"]
    )
    max_age: float = Field(description="Seconds that usage may be late.", examples=[3024000])
    max_future: float = Field(description="Seconds that usage may be ahead.", examples=[300])
    close_after: float = Field(description="Seconds from its end until a window closes.", examples=[259200])
    after_close: str = Field(description="adjust or refuse what comes later.", examples=["adjust"])


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
    held_usage: dict[str, int] = Field(
        description="Events in quarantine by metrics that this catalogue has: replay them.", examples=[{}]
    )


class FeaturesView(View):
    """A page of features in the order of their keys; null `next_cursor`: there are no more."""

    features: list[FeatureView]
    next_cursor: str | None = Field(examples=["requests"])


class FieldChangeView(View):
    """One field, as the file writes it; null: it is not there."""

    path: str = Field(examples=["entitlements.requests.limits[month].amount"])
    old: Any = Field(examples=[100000])
    new: Any = Field(examples=[50000])


class DifferenceView(View):
    """One feature, metric, plan or add-on that changes."""

    section: str = Field(examples=["plans"])
    key: str = Field(examples=["starter"])
    change: str = Field(description="added, changed or retired.", examples=["changed"])
    becomes: str | None = Field(description="The version that it gets, if any.", examples=["starter@2"])
    fields: list[FieldChangeView] = Field(description="Of what is changed.")


class TenantEffectView(View):
    """What one tenant would lose or gain."""

    tenant_id: str = Field(examples=["acme"])
    what: list[str] = Field(examples=[["all of it"]])


class AffectedView(View):
    """How many tenants, and the first hundred of them."""

    tenants: int = Field(examples=[1])
    first: list[TenantEffectView]


class EffectView(View):
    """What a change of a feature or metric does to tenants."""

    section: str = Field(examples=["features"])
    key: str = Field(examples=["sso"])
    change: str = Field(examples=["retired"])
    lost: AffectedView
    gained: AffectedView


class DiffView(View):
    """What a catalogue would change. Plans alone touch nobody: subscribers keep the versions they bought."""

    version: int = Field(description="What it was compared with; 0: there is none.", examples=[1])
    changed: bool
    differences: list[DifferenceView]
    effects: list[EffectView] = Field(description="Only what touches somebody.")


def catalogue(dependencies: ApiDependencies) -> APIRouter:
    """Routes of the catalogue."""
    router = APIRouter(tags=["catalogue"])
    database = dependencies.database

    @router.get("/api/billing/catalogue", responses=MAY_BE_ABSENT)
    def get_catalogue() -> CatalogueView:
        """The catalogue in force."""
        with database.reading() as session:
            row, found = catalogue_of(session)
        return _catalogue(row.version, found)

    @router.get("/api/billing/catalogue/export", responses=_EXPORTED, response_class=PlainTextResponse)
    def export_catalogue(
        version: Annotated[
            int | None, Query(ge=1, le=2**53 - 1, description="One that was applied; the newest by default.")
        ] = None,
    ) -> PlainTextResponse:
        """A catalogue as the file that `apply` accepts and that reads as the same catalogue."""
        with database.reading() as session:
            row, found = catalogue_of(session, version)
        head = (
            f"# Version {row.version} of the catalogue, in force from {row.applied_at:%Y-%m-%dT%H:%M:%SZ}.\n"
        )
        return PlainTextResponse(head + dump_catalogue(found), media_type="application/yaml")

    @router.get("/api/billing/features")
    def get_features(
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        cursor: Annotated[str, Query(description="`next_cursor` of the page before.")] = "",
    ) -> FeaturesView:
        """The features of the catalogue in force, by page."""
        if cursor and not is_key(cursor):
            raise InvalidInputError.of("cursor", expected(f"the `next_cursor` of a page: {KEY_FORM}", cursor))
        with database.reading() as session:
            _, found = catalogue_of(session)
        keys = sorted(key for key in found.features if key > cursor)
        page = [_feature(found.features[key]) for key in keys[:limit]]
        return FeaturesView(features=page, next_cursor=page[-1].key if len(keys) > limit else None)

    _changes(router, dependencies)
    return router


def _changes(router: APIRouter, dependencies: ApiDependencies) -> None:
    database, clock = dependencies.database, dependencies.clock

    @router.post("/api/billing/catalogue/diff", openapi_extra=_YAML_BODY)
    def diff_catalogue(text: Annotated[str, Depends(_yaml)]) -> DiffView:
        """What a catalogue would change, field by field, and whom it would touch. Changes nothing."""
        wanted = parse_catalogue(text, SOURCE)
        with database.reading() as session:
            found = preview(session, wanted, clock.now())
        return DiffView(
            version=found.version,
            changed=bool(found.differences) or found.version == 0,
            differences=[_difference(one) for one in found.differences],
            effects=[_effect(one) for one in found.effects],
        )

    @router.post("/api/billing/catalogue", openapi_extra=_YAML_BODY)
    def post_catalogue(
        text: Annotated[str, Depends(_yaml)],
        accept_losses: Annotated[bool, Query(description="Also take from tenants what they have.")] = False,  # noqa: FBT002 - a query parameter
    ) -> AppliedView:
        """Puts a catalogue into force. Safe to repeat; subscribers keep the versions that they bought.

        What takes something in use from tenants is refused (409, TAKES_FROM_TENANTS, `losses`) unless it is
        accepted.
        """
        wanted, now = parse_catalogue(text, SOURCE), clock.now()
        with database.writing() as session:
            if not accept_losses:
                refuse_losses(session, wanted, now)
            result = apply_catalogue(session, wanted, dependencies.key, now, dependencies.feed_shards)
            held = held_of_metrics(session, sorted(wanted.metrics))
        dependencies.changed()
        return AppliedView(
            version=result.version,
            changed=result.changed,
            plans=list(result.plans),
            add_ons=list(result.add_ons),
            retired=list(result.retired),
            held_usage=held,
        )


async def _yaml(request: Request) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in YAML_TYPES:
        raise HTTPException(415, "expected a body of type application/yaml")
    try:
        return (await request.body()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogueError(SOURCE, [CatalogueProblem(1, 1, "", "not UTF-8")]) from error


def _catalogue(version: int, catalogue: Catalogue) -> CatalogueView:
    features = [_feature(one) for one in catalogue.features.values()]
    metrics = [
        MetricView(
            key=m.key,
            domain=m.domain,
            unit=m.unit,
            aggregation=m.aggregation.name.lower(),
            window=m.window.key,
            classification=m.classification.name.lower(),
            feature=m.feature,
            granularity=m.granularity.name.lower(),
            terminal=m.terminal,
            counts_to_quota=m.counts_to_quota,
            when_full=m.when_full.name.lower(),
            max_age=m.max_age,
            max_future=m.max_future,
            close_after=m.close_after,
            after_close=m.after_close.name.lower(),
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


def _feature(feature: Feature) -> FeatureView:
    return FeatureView(
        key=feature.key, kind=feature.kind.name.lower(), title=feature.title, metric=feature.metric
    )


def _difference(one: Difference) -> DifferenceView:
    return DifferenceView(
        section=one.section,
        key=one.key,
        change=one.change,
        becomes=one.label or None,
        fields=[FieldChangeView(path=f.path, old=f.old, new=f.new) for f in one.fields],
    )


def _effect(one: Effect) -> EffectView:
    return EffectView(
        section=one.section,
        key=one.key,
        change=one.change,
        lost=_affected(one.lost),
        gained=_affected(one.gained),
    )


def _affected(affected: Affected) -> AffectedView:
    first = [TenantEffectView(tenant_id=one.tenant_id, what=list(one.what)) for one in affected.tenants]
    return AffectedView(tenants=affected.count, first=first)
