"""Leases of organizations: who holds how much, and what lost holders had taken back by hand."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, TEXT, Body, Tenant, View
from entitlement_sidecar.planstore.api.pages import Cursor, PageSize, cursor_of, page_of, place_of
from entitlement_sidecar.planstore.audit import because
from entitlement_sidecar.planstore.db import QuotaAccountRow
from entitlement_sidecar.planstore.leases.strictness import strict_features
from entitlement_sidecar.planstore.subscriptions import find_organization
from entitlement_sidecar.planstore.usage.account_rows import AccountId, account_of
from entitlement_sidecar.planstore.usage.leases_held import LeaseQuery, leases_held, release_forfeited
from entitlement_sidecar.wire.fields import KEY_FORM, expected, is_key

_Feature = Annotated[str, Query(max_length=64, description="Only of this feature.", examples=["requests"])]
_Forfeited = Annotated[bool, Query(description="Only those whose holder was lost.")]


class LeaseView(View):
    """What one holder has, in totals since it was granted first."""

    id: str = Field(examples=["lease:5d41402abc4b2a76b9719d911017c592"])
    kind: str = Field(description="`lease` of a sidecar, or `block` in Redis.", examples=["lease"])
    feature: str = Field(examples=["requests"])
    holder: str = Field(description="Instance and epoch of the sidecar.", examples=["edge-1:7"])
    granted: int = Field(examples=[100])
    used: int = Field(description="As far as the holder has told.", examples=[40])
    returned: int = Field(examples=[0])
    outstanding: int = Field(description="What the holder may be using.", examples=[60])
    state: str = Field(
        description="`open`, or `forfeited`: its holder is lost, and this stays spent.", examples=["open"]
    )
    strict: bool = Field(
        description="So much of the limit was lost with its holders that it grants no leases now.",
        examples=[False],
    )
    opened_at: datetime
    expires_at: datetime
    ends_at: datetime | None = Field(description="End of the shortest window; null: it has none.")


class LeasesView(View):
    """A page of leases by id; null `next_cursor`: there are no more."""

    leases: list[LeaseView]
    next_cursor: str | None


class ReleaseBody(Body):
    """What is taken back, and why."""

    feature: str = Field(
        "", max_length=64, description="Only of this feature; of all where left out.", examples=["requests"]
    )
    reason: str = Field(
        min_length=1, max_length=200, pattern=TEXT, description="Why.", examples=["edge-1 was scrapped"]
    )


class ReleasedLeasesView(View):
    """What was taken back."""

    leases: int = Field(examples=[1])
    tokens: int = Field(examples=[60])


def leases(dependencies: ApiDependencies) -> APIRouter:
    """Routes of leases."""
    router = APIRouter(tags=["leases"])
    database = dependencies.database

    @router.get(f"{ORGANIZATION}/leases")
    def list_leases(
        tenant_id: Tenant,
        feature: _Feature = "",
        *,
        forfeited: _Forfeited = False,
        limit: PageSize = 100,
        cursor: Cursor = "",
    ) -> LeasesView:
        """Leases and blocks that still have tokens."""
        wanted = LeaseQuery(tenant_id, _checked(feature), forfeited)
        after = place_of(cursor, AccountId)
        with database.reading() as session:
            find_organization(session, tenant_id)
            found = leases_held(session, wanted, after.id if after else "", limit + 1)
            page, last = page_of(found, limit)
            features = [row.feature for row in page]
            strict = strict_features(session, tenant_id, features, dependencies.clock.now())
        return LeasesView(
            leases=[_view(row, strict) for row in page],
            next_cursor=cursor_of(AccountId(last.id)) if last is not None else None,
        )

    @router.post(f"{ORGANIZATION}/leases/release-forfeited")
    def release_forfeited_leases(tenant_id: Tenant, body: ReleaseBody) -> ReleasedLeasesView:
        """Takes back what lost holders had. Only where none of them can still be using it: it is not known.

        What one of them tells later is counted as usage that nobody admitted, and may pass the limit.
        """
        wanted = LeaseQuery(tenant_id, _checked(body.feature))
        with because(body.reason), database.writing() as session:
            find_organization(session, tenant_id)
            released = release_forfeited(session, dependencies.accounts, wanted, dependencies.clock.now())
        return ReleasedLeasesView(leases=released.leases, tokens=released.tokens)

    return router


def _checked(feature: str) -> str:
    if feature and not is_key(feature):
        raise InvalidInputError.of("feature", expected(KEY_FORM, feature))
    return feature


def _view(row: QuotaAccountRow, strict: Collection[str]) -> LeaseView:
    return LeaseView(
        id=row.id,
        kind="block" if row.run_id else "lease",
        feature=row.feature,
        holder=row.holder,
        granted=row.granted,
        used=row.used,
        returned=row.returned,
        outstanding=account_of(row).outstanding,
        state="forfeited" if row.closed else "open",
        strict=row.feature in strict,
        opened_at=row.opened_at,
        expires_at=row.expires_at,
        ends_at=row.ends_at,
    )
