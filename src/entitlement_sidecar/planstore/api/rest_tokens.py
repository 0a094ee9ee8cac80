"""Tokens: who may call this plan store, as what, for which tenants. A secret is answered once.

The answer with a secret is `no-store`: it is not kept for repeated requests either. A request to make a token
that is repeated makes no second one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from entitlement_sidecar.planstore.access import (
    NewToken,
    Role,
    create_token,
    list_tokens,
    revoke_token,
    state_of,
    tenants_of,
)
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import Body, View
from entitlement_sidecar.planstore.db import ApiTokenRow
from entitlement_sidecar.planstore.db.unit_of_work import after_commit

MAX_PAGE = 1000
_PATH = "/api/billing/tokens"
_MAX_SECONDS = 3650 * 86400
_EXAMPLE_ID = "tok_019c3f2a7b10a1b2c3d4"


class TokenBody(Body):
    """The token that is wanted."""

    name: str = Field(
        max_length=80, description="Who or what will use it; unique for ever.", examples=["ada"]
    )
    role: Role = Field(strict=False, description="What it may.", examples=["operator"])
    tenants: list[str] = Field(
        default_factory=list,
        max_length=1000,
        description="Only these; none: every tenant.",
        examples=[["acme"]],
    )
    expires_in: int | None = Field(
        None, ge=1, le=_MAX_SECONDS, description="Seconds; left out: until it is revoked.", examples=[7776000]
    )


class TokenView(View):
    """A token, without what could be used."""

    id: str = Field(examples=[_EXAMPLE_ID])
    name: str = Field(examples=["ada"])
    role: str = Field(examples=["operator"])
    tenants: list[str] = Field(description="Empty: every tenant.")
    state: str = Field(description="active, revoked or expired, now.", examples=["active"])
    created_at: datetime
    created_by: str = Field(examples=["bootstrap"])
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To about a minute.")


class CreatedTokenView(TokenView):
    """A new token, with its secret: this once."""

    secret: str = Field(description="Nobody can tell it again.", examples=["ent_…"])


class TokensView(View):
    """A page of tokens, the oldest first; null `next_cursor`: there are no more."""

    tokens: list[TokenView]
    next_cursor: str | None


def tokens(dependencies: ApiDependencies) -> APIRouter:
    """Routes of tokens."""
    router = APIRouter(tags=["tokens"])
    database, clock = dependencies.database, dependencies.clock

    @router.post(_PATH, status_code=201)
    def post_token(body: TokenBody, response: Response) -> CreatedTokenView:
        """Makes a token. Its secret is in this answer, and nowhere else."""
        life = None if body.expires_in is None else timedelta(seconds=body.expires_in)
        wanted = NewToken(name=body.name, role=body.role, tenants=body.tenants, life=life)
        with database.writing() as session:
            row, secret = create_token(session, wanted, clock.now())
        response.headers["Cache-Control"] = "no-store"
        return CreatedTokenView(**_members(row, clock.now()), secret=secret)

    @router.get(_PATH)
    def get_tokens(
        ended: Annotated[bool, Query(description="Also revoked and expired ones.")] = False,  # noqa: FBT002 - a query parameter
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        cursor: Annotated[str, Query(max_length=64, description="`next_cursor` of the page before.")] = "",
    ) -> TokensView:
        """Tokens, without their secrets."""
        now = clock.now()
        with database.reading() as session:
            rows = list_tokens(session, now, ended=ended, after=cursor, limit=limit + 1)
        page = rows[:limit]
        views = [TokenView(**_members(row, now)) for row in page]
        return TokensView(tokens=views, next_cursor=page[-1].id if len(rows) > limit else None)

    @router.post(f"{_PATH}/{{token_id}}/revoke")
    def post_revoke(token_id: str) -> TokenView:
        """Ends a token for good. It is refused at once here, and by other replicas within 5 seconds."""
        with database.writing() as session:
            row = revoke_token(session, token_id, clock.now())
            # Until then others still find it good.
            after_commit(session, partial(dependencies.gate.forget, token_id))
        return TokenView(**_members(row, clock.now()))

    return router


def _members(row: ApiTokenRow, now: datetime) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "tenants": tenants_of(row),
        "state": state_of(row, now),
        "created_at": row.created_at,
        "created_by": row.created_by,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_used_at": row.last_used_at,
    }
