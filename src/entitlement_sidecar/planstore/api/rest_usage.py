"""What the ledger holds of an organization (S0.2, S3.5)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from entitlement_sidecar.domain.catalogue import Classification
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, Tenant, View
from entitlement_sidecar.planstore.api.pages import (
    Cursor,
    PageSize,
    cursor_of,
    number_cursor,
    page_of,
    place_of,
)
from entitlement_sidecar.planstore.db import UsageEventRow, UsageLedgerRow
from entitlement_sidecar.planstore.subscriptions import find_organization
from entitlement_sidecar.planstore.usage.queries import Place, usage_events, usage_summary
from entitlement_sidecar.planstore.usage.verdicts import Verdict, verdicts
from entitlement_sidecar.wire.fields import KEY_FORM, expected, is_key
from entitlement_sidecar.wire.v1 import usage_pb2

Metric = Annotated[str, Query(description="Only this metric.")]


class AggregateView(View):
    """What the events of one metric add up to in one window."""

    metric: str = Field(examples=["requests"])
    unit: str
    window: str = Field(examples=["month"])
    window_start: datetime
    window_end: datetime | None
    value: int
    event_count: int
    first_event_at: datetime
    last_event_at: datetime
    classification: str = Field(examples=["billable"])
    state: str = Field(examples=["open"])
    subscription_id: str


class SummaryView(View):
    """A page of aggregates, the newest windows first; null `next_cursor`: there are no more."""

    usage: list[AggregateView]
    next_cursor: str | None


class EventView(View):
    """One event, with what it counts as now; a correction is an event of its own, beside its original."""

    event_id: str
    metric: str
    feature: str
    value: int = Field(description="As it came; a correction has the amended value.")
    unit: str
    count: int = Field(description="Of a rollup: how many events it stands for.", examples=[1])
    occurred_at: datetime
    recorded_at: datetime
    received_at: datetime
    subject: str
    actor_id: str
    correlation_id: str
    emitter: str
    dimensions: dict[str, str] = Field(examples=[{"project": "p1"}])
    classification: str = Field(description="In force: by the last word on it.", examples=["billable"])
    rule: str = Field(
        description="What decided the classification, by name; empty: nothing stood against it.",
        examples=["usage:terminal"],
    )
    registry_version: int = Field(description="Of the catalogue that it was judged by.", examples=[1])
    corrects: str = Field(description="Of a correction: id of its original.", examples=[""])
    voids: bool = Field(description="Of a correction: the original counts no more.")
    reason: str = Field(description="Of a correction: why.", examples=[""])
    consumption_id: str
    lease_id: str
    recorded_by: str = Field(description="The sidecar that has taken it down; empty: none.")
    schema_version: int = Field(examples=[1])


class EventsView(View):
    """A page of events, the newest arrival first; null `next_cursor`: there are no more."""

    events: list[EventView]
    next_cursor: str | None


def usage(dependencies: ApiDependencies) -> APIRouter:
    """Routes of usage."""
    router = APIRouter(tags=["usage"])

    @router.get(f"{ORGANIZATION}/usage")
    def get_summary(
        tenant_id: Tenant, metric: Metric = "", limit: PageSize = 100, cursor: Cursor = ""
    ) -> SummaryView:
        """Sums per metric and window, by page."""
        _check_metric(metric)
        after = place_of(cursor, Place)
        with dependencies.database.reading() as session:
            find_organization(session, tenant_id)
            page, last = page_of(usage_summary(session, tenant_id, metric, after, limit + 1), limit)
            more = cursor_of(Place.of(last)) if last is not None else None
            return SummaryView(usage=[_aggregate(row) for row in page], next_cursor=more)

    @router.get(f"{ORGANIZATION}/usage/events")
    def get_events(
        tenant_id: Tenant,
        metric: Metric = "",
        limit: PageSize = 100,
        cursor: Cursor = "",
    ) -> EventsView:
        """The events themselves, by page."""
        _check_metric(metric)
        before = number_cursor(cursor)
        with dependencies.database.reading() as session:
            find_organization(session, tenant_id)
            page, last = page_of(usage_events(session, tenant_id, metric, before, limit + 1), limit)
            more = str(last.id) if last is not None else None
            told = zip(page, verdicts(session, tenant_id, page), strict=True)
            return EventsView(events=[_event(row, verdict) for row, verdict in told], next_cursor=more)

    return router


def _check_metric(metric: str) -> None:
    if metric and not is_key(metric):
        raise InvalidInputError.of("metric", expected(KEY_FORM, metric))


def _classification(number: int) -> str:
    return Classification(number).name.lower() if number else ""


def _aggregate(row: UsageLedgerRow) -> AggregateView:
    return AggregateView(
        metric=row.metric,
        unit=row.unit,
        window=row.window_kind,
        window_start=row.window_start,
        window_end=row.window_end,
        value=row.value,
        event_count=row.event_count,
        first_event_at=row.first_event_at,
        last_event_at=row.last_event_at,
        classification=_classification(row.classification),
        state=row.state,
        subscription_id=row.subscription_id,
    )


_STORED = (
    "event_id",
    "metric",
    "feature",
    "value",
    "unit",
    "count",
    "occurred_at",
    "recorded_at",
    "received_at",
    "subject",
    "actor_id",
    "correlation_id",
    "emitter",
    "dimensions",
    "corrects",
    "voids",
    "lease_id",
)
"""Fields that are columns of an event; the others of them who sent it are in its message."""


def _event(row: UsageEventRow, verdict: Verdict) -> EventView:
    sent = usage_pb2.UsageEvent.FromString(row.payload)
    return EventView(
        **{name: getattr(row, name) for name in _STORED},
        classification=_classification(verdict.classification),
        rule=verdict.rule,
        registry_version=verdict.registry_version,
        reason=sent.reason,
        consumption_id=sent.consumption_id,
        recorded_by=sent.recorded_by,
        schema_version=sent.schema_version,
    )
