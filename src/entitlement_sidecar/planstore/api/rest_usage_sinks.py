"""How far sinks of accepted usage have got."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import Field

from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import View
from entitlement_sidecar.planstore.usage.sinks import SinkState, sink_states


class SinkView(View):
    """One sink that accepted events go to."""

    name: str = Field(examples=["jsonl:/var/lib/entitlements/usage.jsonl"])
    cursor: int = Field(description="Of the last event written: `cursor` of its line.", examples=[4711])
    events: int = Field(description="Written so far; some may have been written twice.", examples=[4711])
    behind: int = Field(description="Most events that are still to be written.")
    updated_at: datetime


class SinksView(View):
    """Every sink that was ever fed, by name."""

    sinks: list[SinkView]


def usage_sinks(dependencies: ApiDependencies) -> APIRouter:
    """The route of sinks."""
    router = APIRouter(tags=["usage"])

    @router.get("/api/billing/usage/sinks")
    def list_sinks() -> SinksView:
        """Sinks of accepted usage, and how far each has got."""
        with dependencies.database.reading() as session:
            return SinksView(sinks=[_view(one) for one in sink_states(session)])

    return router


def _view(state: SinkState) -> SinkView:
    row = state.row
    return SinkView(
        name=row.name,
        cursor=int(row.cursor),
        events=row.events,
        behind=state.behind,
        updated_at=row.updated_at,
    )
