"""Reports of usage: by subject, actor, emitter, metric, day or a dimension (S3.5)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, Instant, Tenant, View
from entitlement_sidecar.planstore.api.pages import Cursor, PageSize, cursor_of, page_of, place_of
from entitlement_sidecar.planstore.subscriptions import find_organization
from entitlement_sidecar.planstore.usage.reports import DIMENSION, By, Line, ReportAsk, Sum, usage_report
from entitlement_sidecar.wire.fields import KEY_FORM, MAX_DIMENSION_KEY, expected, is_key

USUAL = timedelta(days=31)
"""How far a report goes back where nobody says since when."""

LONGEST = timedelta(days=400)
"""How much time a report is about at most: it reads every event of it."""

_BY_FORM = f"one of {', '.join(By)}, or {DIMENSION}NAME"

Metric = Annotated[str, Query(description="Only this metric.")]
Since = Annotated[Instant | None, Query(description="From this instant on; 31 days before `until`.")]
Until = Annotated[Instant | None, Query(description="Before this instant; now.")]


class SumView(View):
    """What the events of one line add up to, as their metric does: sum, max, last, or unique subjects."""

    key: str = Field(description="Of what the report is by; empty: of events without.", examples=["user-7"])
    metric: str = Field(examples=["requests"])
    unit: str = Field(examples=["request"])
    classification: str = Field(examples=["billable"])
    value: int = Field(examples=[42])
    event_count: int = Field(description="Events, without those that are voided.", examples=[42])
    first_event_at: datetime
    last_event_at: datetime


class ReportView(View):
    """A page of a report, by key and metric; null `next_cursor`: there are no more."""

    by: str = Field(examples=["subject"])
    since: datetime
    until: datetime
    lines: list[SumView]
    next_cursor: str | None


def usage_reports(dependencies: ApiDependencies) -> APIRouter:
    """Routes of reports."""
    router = APIRouter(tags=["usage"])

    def answer(asked: ReportAsk, limit: int, cursor: str) -> ReportView:
        after = place_of(cursor, Line)
        with dependencies.database.reading() as session:
            find_organization(session, asked.tenant_id)
            page, last = page_of(usage_report(session, asked, after, limit + 1), limit)
        return ReportView(
            by=asked.by,
            since=asked.since,
            until=asked.until,
            lines=[_view(one) for one in page],
            next_cursor=cursor_of(last.line) if last is not None else None,
        )

    @router.get(f"{ORGANIZATION}/usage/report")
    def get_report(  # noqa: PLR0913 - each is a parameter of the query
        *,
        tenant_id: Tenant,
        by: Annotated[str, Query(description=f"{_BY_FORM}.", examples=["subject"])] = By.SUBJECT,
        metric: Metric = "",
        since: Since = None,
        until: Until = None,
        limit: PageSize = 100,
        cursor: Cursor = "",
    ) -> ReportView:
        """Usage by subject, actor, emitter, metric, day or a dimension, with corrections applied."""
        return answer(_asked(tenant_id, by, metric, _span(since, until, dependencies.clock)), limit, cursor)

    @router.get(f"{ORGANIZATION}/usage/daily")
    def get_daily(  # noqa: PLR0913 - each is a parameter of the query
        *,
        tenant_id: Tenant,
        metric: Metric = "",
        since: Since = None,
        until: Until = None,
        limit: PageSize = 100,
        cursor: Cursor = "",
    ) -> ReportView:
        """Usage by day (UTC), with corrections applied."""
        span = _span(since, until, dependencies.clock)
        return answer(_asked(tenant_id, By.DAY, metric, span), limit, cursor)

    return router


def _asked(tenant_id: str, by: str, metric: str, span: tuple[datetime, datetime]) -> ReportAsk:
    if metric and not is_key(metric):
        raise InvalidInputError.of("metric", expected(KEY_FORM, metric))
    name = by.removeprefix(DIMENSION)
    if by not in {*By} and not (by != name and 0 < len(name) <= MAX_DIMENSION_KEY and name.isprintable()):
        raise InvalidInputError.of("by", expected(_BY_FORM, by))
    return ReportAsk(tenant_id=tenant_id, by=by, metric=metric, since=span[0], until=span[1])


def _span(since: datetime | None, until: datetime | None, clock: Clock) -> tuple[datetime, datetime]:
    end = until or clock.now()
    try:
        start = since or end - USUAL
    except OverflowError:
        raise InvalidInputError.of("until", "expected an instant of this millennium") from None
    if not timedelta() < end - start <= LONGEST:
        raise InvalidInputError.of("since", f"expected an instant at most {LONGEST.days} days before `until`")
    return start, end


def _view(one: Sum) -> SumView:
    return SumView(
        key=one.key,
        metric=one.metric,
        unit=one.unit,
        classification=one.classification.name.lower() if one.classification else "",
        value=one.value,
        event_count=one.event_count,
        first_event_at=one.first_event_at,
        last_event_at=one.last_event_at,
    )
