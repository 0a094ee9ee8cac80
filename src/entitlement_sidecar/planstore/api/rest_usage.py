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
from entitlement_sidecar.wire.fields import KEY_FORM, expected, is_key

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
    """One event."""

    event_id: str
    metric: str
    feature: str
    value: int
    unit: str
    occurred_at: datetime
    recorded_at: datetime
    received_at: datetime
    subject: str
    actor_id: str
    correlation_id: str
    emitter: str
    classification: str


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
            return EventsView(events=[_event(row) for row in page], next_cursor=more)

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


def _event(row: UsageEventRow) -> EventView:
    return EventView(
        event_id=row.event_id,
        metric=row.metric,
        feature=row.feature,
        value=row.value,
        unit=row.unit,
        occurred_at=row.occurred_at,
        recorded_at=row.recorded_at,
        received_at=row.received_at,
        subject=row.subject,
        actor_id=row.actor_id,
        correlation_id=row.correlation_id,
        emitter=row.emitter,
        classification=_classification(row.classification),
    )
