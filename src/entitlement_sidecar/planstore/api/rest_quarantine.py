"""Usage in quarantine: to see, to judge again, to discard (S0.7)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import Body, View
from entitlement_sidecar.planstore.api.idempotency import repeatable
from entitlement_sidecar.planstore.api.pages import Cursor, PageSize, cursor_of, page_of, place_of
from entitlement_sidecar.planstore.db import UsageQuarantineRow
from entitlement_sidecar.planstore.usage.quarantine import (
    Quarantine,
    QuarantineFilter,
    QuarantinePage,
    QuarantinePlace,
    QuarantineQuery,
    place_of_row,
    quarantined,
)
from entitlement_sidecar.wire.fields import KEY_FORM, TENANT_FORM, expected, is_key, is_tenant

_PATH = "/api/billing/usage/quarantine"
_MAX_IDS = 1000

State = Literal["held", "released", "discarded"]
_Text = Annotated[str, Query(max_length=128)]


class QuarantineBody(Body):
    """Which held events are meant: some filter, or in so many words all of them."""

    tenant_id: str = Field("", max_length=128, description="Of this tenant.", examples=["acme"])
    metric: str = Field("", max_length=64, description="Of this metric.", examples=["faxes"])
    rule: str = Field("", max_length=128, description="Kept by this rule.", examples=["usage:metric"])
    event_ids: list[str] = Field(
        default_factory=list, max_length=_MAX_IDS, description="These events, of one tenant.", examples=[[]]
    )
    everything: bool = Field(default=False, description="All that are held, instead.", examples=[False])
    limit: int = Field(500, ge=1, le=1000, description="Most events of one call.", examples=[500])
    cursor: str = Field("", max_length=1000, description="`next_cursor` of the call before.", examples=[""])

    def wanted(self) -> QuarantineFilter:
        """The filter.

        Raises:
            InvalidInputError: It names nothing, or everything and something; or ids without a tenant.
        """
        wanted = QuarantineFilter(self.tenant_id, self.metric, self.rule, tuple(self.event_ids))
        if self.everything is (wanted != QuarantineFilter()):
            problem = "expected tenant_id, metric, rule or event_ids, or else everything: true"
            raise InvalidInputError.of("everything", problem)
        if wanted.event_ids and not wanted.tenant_id:
            raise InvalidInputError.of("tenant_id", "required with event_ids: ids are those of a tenant")
        _check(wanted)
        return wanted

    def query(self) -> QuarantineQuery:
        """The page that is meant.

        Raises:
            InvalidInputError: Filter or cursor are malformed.
        """
        return QuarantineQuery(self.wanted(), place_of(self.cursor, QuarantinePlace), self.limit)


class QuarantinedView(View):
    """One event. `rule` and `reason` say why it does not count, by the registry of that version."""

    tenant_id: str = Field(examples=["acme"])
    event_id: str = Field(examples=["d-5f2c"])
    metric: str = Field(examples=["faxes"])
    emitter: str = Field(examples=["crm"])
    rule: str = Field(examples=["usage:metric"])
    reason: str
    registry_version: int = Field(examples=[3])
    occurred_at: datetime
    received_at: datetime
    instance: str = Field(description="The sidecar that kept it.", examples=["i-1"])
    state: str = Field(description="held, released or discarded.", examples=["held"])
    resolved_at: datetime | None
    resolved_by: str = Field(description="Empty while it is held.", examples=[""])


class QuarantineView(View):
    """A page of events, the oldest arrival first; null `next_cursor`: there are no more."""

    quarantine: list[QuarantinedView]
    next_cursor: str | None


class ReplayedView(View):
    """What a page has come to; null `next_cursor`: there are no more."""

    looked_at: int = Field(examples=[12])
    released: int = Field(description="They count now.", examples=[12])
    still_held: int = Field(description="Their rule and reason are those of now.", examples=[0])
    next_cursor: str | None


class DiscardedView(View):
    """What a page has come to; null `next_cursor`: there are no more."""

    discarded: int = Field(description="Without those that count by now.", examples=[12])
    next_cursor: str | None


def quarantine(dependencies: ApiDependencies) -> APIRouter:
    """Routes of usage in quarantine."""
    router = APIRouter(tags=["usage"])
    database, clock = dependencies.database, dependencies.clock
    held = Quarantine(dependencies.ledger)

    @router.get(_PATH)
    def list_quarantine(  # noqa: PLR0913, PLR0917 - query parameters
        tenant_id: Annotated[_Text, Query(description="Of this tenant.")] = "",
        metric: Annotated[_Text, Query(description="Of this metric.")] = "",
        rule: Annotated[_Text, Query(description="Kept by this rule.")] = "",
        state: State = "held",
        limit: PageSize = 100,
        cursor: Cursor = "",
    ) -> QuarantineView:
        """Usage that is kept and does not count, by page."""
        wanted, after = QuarantineFilter(tenant_id, metric, rule), place_of(cursor, QuarantinePlace)
        _check(wanted)
        with database.reading() as session:
            page, last = page_of(
                quarantined(session, QuarantineQuery(wanted, after, limit + 1), state), limit
            )
            more = None if last is None else cursor_of(place_of_row(last))
            return QuarantineView(quarantine=[_view(row) for row in page], next_cursor=more)

    @router.post(f"{_PATH}/replay")
    @repeatable
    def replay_quarantine(body: QuarantineBody) -> ReplayedView:
        """Judges held events again, by the catalogue in force. Call it until `next_cursor` is null."""
        with database.writing() as session:
            page = held.replay(session, body.query(), clock.now())
        return ReplayedView(
            looked_at=page.looked_at,
            released=page.resolved,
            still_held=page.looked_at - page.resolved,
            next_cursor=_more(page),
        )

    @router.post(f"{_PATH}/discard")
    @repeatable
    def discard_quarantine(body: QuarantineBody) -> DiscardedView:
        """Gives held events up: they will never count. Call it until `next_cursor` is null."""
        with database.writing() as session:
            page = held.discard(session, body.query(), clock.now())
        return DiscardedView(discarded=page.resolved, next_cursor=_more(page))

    return router


def _check(wanted: QuarantineFilter) -> None:
    if wanted.tenant_id and not is_tenant(wanted.tenant_id):
        raise InvalidInputError.of("tenant_id", expected(TENANT_FORM, wanted.tenant_id))
    if wanted.metric and not is_key(wanted.metric):
        raise InvalidInputError.of("metric", expected(KEY_FORM, wanted.metric))
    for field, text in (("rule", wanted.rule), *(("event_ids", one) for one in wanted.event_ids)):
        if "\0" in text:
            raise InvalidInputError.of(field, "expected no NUL")


def _more(page: QuarantinePage) -> str | None:
    return None if page.last is None else cursor_of(page.last)


def _view(row: UsageQuarantineRow) -> QuarantinedView:
    return QuarantinedView(**{name: getattr(row, name) for name in QuarantinedView.model_fields})
