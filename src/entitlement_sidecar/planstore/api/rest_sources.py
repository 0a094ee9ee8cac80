"""Where usage comes from, and what of it never came (DESIGN 8)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import View
from entitlement_sidecar.planstore.api.pages import Cursor, PageSize, cursor_of, page_of, place_of
from entitlement_sidecar.planstore.usage.sources import COUNTS, Source, SourceKey, SourceQuery, sources


class MissingView(View):
    """Sequences, both ends included."""

    first: int = Field(examples=[17])
    last: int = Field(examples=[18])


class SourceView(View):
    """One start of one sidecar. What has come is the sum of the six counts."""

    instance: str = Field(examples=["i-1"])
    epoch: int = Field(description="Which start of it.", examples=[3])
    accepted_total: int = Field(description="Accepted there, as it last said.", examples=[1200])
    dead_total: int = Field(description="Dead letters there, as it last said.", examples=[0])
    stored: int = Field(examples=[1190])
    duplicates: int = Field(examples=[5])
    conflicts: int = Field(examples=[0])
    quarantined: int = Field(examples=[3])
    refused: int = Field(examples=[0])
    declared: int = Field(description="The sidecar said that these will not come.", examples=[0])
    outstanding: int = Field(description="Accepted there, and not here yet.", examples=[2])
    missing: list[MissingView] = Field(description="Of these later ones have come; at most 100 ranges.")
    silent: bool = Field(
        description="Something is outstanding, and nothing came for 15 minutes.", examples=[False]
    )
    first_seen_at: datetime
    last_seen_at: datetime


class SourcesView(View):
    """A page of sources by name; null `next_cursor`: there are no more."""

    sources: list[SourceView]
    next_cursor: str | None


def usage_sources(dependencies: ApiDependencies) -> APIRouter:
    """Routes of sources."""
    router = APIRouter(tags=["usage"])

    @router.get("/api/billing/usage/sources")
    def list_sources(
        instance: Annotated[str, Query(max_length=128, description="Only this sidecar.")] = "",
        silent: Annotated[bool, Query(description="Only those that somebody has to look at.")] = False,  # noqa: FBT002 - a query parameter
        limit: PageSize = 100,
        cursor: Cursor = "",
    ) -> SourcesView:
        """What came from each start of each sidecar, and what of it never came."""
        after = place_of(cursor, SourceKey)
        if "\0" in instance or (after is not None and "\0" in after.instance):
            raise InvalidInputError.of("instance", "expected no NUL")
        query = SourceQuery(instance, silent, after, limit + 1)
        with dependencies.database.reading() as session:
            page, last = page_of(sources(session, query, dependencies.clock.now()), limit)
        more = None if last is None else cursor_of(SourceKey(last.row.instance, last.row.epoch))
        return SourcesView(sources=[_view(one) for one in page], next_cursor=more)

    return router


def _view(source: Source) -> SourceView:
    row = source.row
    kept = ("instance", "epoch", "accepted_total", "dead_total", "first_seen_at", "last_seen_at", *COUNTS)
    return SourceView(
        **{name: getattr(row, name) for name in kept},
        outstanding=source.outstanding,
        missing=[MissingView(first=first, last=last) for first, last in source.missing],
        silent=source.silent,
    )
