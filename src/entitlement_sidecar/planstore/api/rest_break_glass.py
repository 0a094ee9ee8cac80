"""Break-glass: what an operator does in an emergency, for a while and on record (DESIGN 6)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from entitlement_sidecar.domain.break_glass import DEFAULT_LIFE, MAX_LIFE, BreakGlassAction
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import TEXT, Body, View
from entitlement_sidecar.planstore.api.pages import Cursor, PageSize, name_cursor, page_of
from entitlement_sidecar.planstore.catalogue.break_glass import Wanted, begin, content_of, end
from entitlement_sidecar.planstore.catalogue.measures import list_measures, state_of
from entitlement_sidecar.planstore.db import BreakGlassRow
from entitlement_sidecar.wire.fields import KEY_FORM, TENANT_FORM, expected, is_key, is_tenant

_PATH = "/api/billing/break-glass"
_ID = "bg_019c3f2a7b1070d0a1b2c3d4e5f60718"


class BreakGlassBody(Body):
    """The measure that is wanted: for one tenant, or in so many words for all."""

    action: Literal["open", "freeze"] = Field(
        description="open allows a feature; freeze has sidecars keep what they hold.", examples=["open"]
    )
    feature: str = Field("", max_length=64, description="What to open.", examples=["sso"])
    tenant_id: str = Field("", max_length=128, description="For this tenant.", examples=["acme"])
    all_tenants: bool = Field(
        default=False, description="For every tenant, instead of one.", examples=[False]
    )
    expires_in: int = Field(
        int(DEFAULT_LIFE.total_seconds()),
        ge=1,
        le=int(MAX_LIFE.total_seconds()),
        description="Seconds after which it ends by itself.",
        examples=[7200],
    )
    reason: str = Field(
        min_length=1, max_length=200, pattern=TEXT, description="Why.", examples=["incident 4711"]
    )

    def wanted(self) -> Wanted:
        """The measure.

        Raises:
            InvalidInputError: It is for nobody, or both for one and for all; or a name is malformed.
        """
        if self.all_tenants is bool(self.tenant_id):
            raise InvalidInputError.of("tenant_id", "expected a tenant, or else all_tenants: true")
        if self.tenant_id and not is_tenant(self.tenant_id):
            raise InvalidInputError.of("tenant_id", expected(TENANT_FORM, self.tenant_id))
        if self.feature and not is_key(self.feature):
            raise InvalidInputError.of("feature", expected(KEY_FORM, self.feature))
        life = timedelta(seconds=self.expires_in)
        action = BreakGlassAction[self.action.upper()]
        return Wanted(action, self.reason, self.feature, self.tenant_id, life)


class BreakGlassView(View):
    """One measure. It applies from `since` until `until`, or until somebody ended it."""

    id: str = Field(examples=[_ID])
    action: str = Field(examples=["open"])
    feature: str = Field(description="Empty for a freeze.", examples=["sso"])
    tenant_id: str = Field(description="Empty: every tenant.", examples=["acme"])
    state: str = Field(description="active, ended (by somebody) or expired, now.", examples=["active"])
    reason: str = Field(examples=["incident 4711"])
    since: datetime
    until: datetime
    created_by: str = Field(examples=["ada"])
    ended_at: datetime | None
    ended_by: str = Field(description="Empty: nobody did.", examples=[""])


class BreakGlassesView(View):
    """A page of measures, the newest first; null `next_cursor`: there are no more."""

    break_glass: list[BreakGlassView]
    next_cursor: str | None


def break_glass(dependencies: ApiDependencies) -> APIRouter:
    """Routes of break-glass."""
    router = APIRouter(tags=["break-glass"])
    database, clock = dependencies.database, dependencies.clock

    @router.post(_PATH, status_code=201)
    def break_glass(body: BreakGlassBody) -> BreakGlassView:
        """Opens a feature, or freezes snapshots. Sidecars know it within a second or so."""
        with database.writing() as session:
            row = begin(session, body.wanted(), dependencies.key, clock.now())
        dependencies.changed()
        return _view(row, clock.now())

    @router.get(_PATH)
    def list_break_glass(
        ended: Annotated[bool, Query(description="Also those that are over.")] = False,  # noqa: FBT002 - a query parameter
        limit: PageSize = 100,
        cursor: Cursor = "",
    ) -> BreakGlassesView:
        """The measures that are in force."""
        before, now = name_cursor(cursor), clock.now()
        with database.reading() as session:
            rows = list_measures(session, now, ended=ended, before=before, limit=limit + 1)
        page, last = page_of(rows, limit)
        return BreakGlassesView(
            break_glass=[_view(row, now) for row in page], next_cursor=last.id if last else None
        )

    @router.post(f"{_PATH}/{{break_glass_id}}/end")
    def end_break_glass(break_glass_id: str) -> BreakGlassView:
        """Ends a measure at once; one that is over stays as it is."""
        with database.writing() as session:
            row = end(session, break_glass_id, dependencies.key, clock.now())
        dependencies.changed()
        return _view(row, clock.now())

    return router


def _view(row: BreakGlassRow, now: datetime) -> BreakGlassView:
    members: dict[str, Any] = {
        **content_of(row),
        "id": row.id,
        "state": state_of(row, now),
        "created_by": row.created_by,
        "ended_by": row.ended_by,
    }
    return BreakGlassView(**members)
