"""Moving subscribers from one plan version to another, page by page."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from pydantic import Field

from entitlement_sidecar.domain.errors import InvalidInputError, Violation
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import MAY_BE_ABSENT, Body, View
from entitlement_sidecar.planstore.api.idempotency import repeatable
from entitlement_sidecar.planstore.api.plan_moves import (
    Denied,
    Move,
    Moved,
    label_of,
    move_of,
    move_page,
    subscribers,
)
from entitlement_sidecar.planstore.snapshots.bulk import Pace
from entitlement_sidecar.wire.fields import KEY_FORM, TENANT_FORM, expected, is_key, is_tenant

MAX_PAGE = 500
_VERSION_DIGITS = 9


class MigrationBody(Body):
    """Who is to be moved where."""

    source: str = Field(
        alias="from",
        max_length=80,
        description="The version to leave: `code@version`.",
        examples=["starter@1"],
    )
    target: str = Field(
        alias="to",
        max_length=80,
        description="Where to: `code@version`, or `code` for the version on sale.",
        examples=["starter@2"],
    )
    tenants: Annotated[list[str], Field(max_length=MAX_PAGE)] = Field(
        [], description="Only these; none is everybody.", examples=[["acme"]]
    )
    at_period_end: bool = Field(default=False, description="Each when its running period or trial ends.")
    dry_run: bool = Field(default=False, description="Move nobody, and say who would be denied what.")
    limit: int = Field(100, ge=1, le=MAX_PAGE, description="Tenants that this call looks at.")
    cursor: str = Field("", description="`next_cursor` of the page before.")


class SkippedView(View):
    """A tenant that stays where it is."""

    tenant_id: str = Field(examples=["globex"])
    reason: str = Field(
        description="Its status; `scheduled`: has a next plan; `changed`: meanwhile; `refused`: see detail.",
        examples=["suspended"],
    )
    detail: str


class DeniedView(View):
    """Something that a tenant has today, and would be denied. Null amounts are unlimited."""

    feature: str = Field(examples=["requests"])
    what: str = Field(description="feature, value, limit or credits.", examples=["limit"])
    limit: str = Field(description="Which limit, by its window.", examples=["month"])
    before: Any = Field(examples=[100000])
    after: Any = Field(examples=[50000])
    used: int | None = Field(description="Counted by then.", examples=[61234])


class LoserView(View):
    """A tenant that would be denied something."""

    tenant_id: str = Field(examples=["acme"])
    denied: list[DeniedView]


class MigrationView(View):
    """What became of one page of tenants; null `next_cursor`: there are no more."""

    source: str = Field(alias="from", examples=["starter@1"])
    target: str = Field(alias="to", examples=["starter@2"])
    dry_run: bool
    subscribers: int | None = Field(description="On the version to leave; first page only.", examples=[1])
    moved: int = Field(description="In a dry run: who would be.", examples=[1])
    skipped: list[SkippedView]
    denied: list[LoserView] = Field(description="Dry run: who would be denied what.")
    next_cursor: str | None = Field(examples=["acme"])


def plan_migrations(dependencies: ApiDependencies) -> APIRouter:
    """The route that moves subscribers."""
    router = APIRouter(tags=["catalogue"])
    to_redis = dependencies.published_to is not None

    @router.post("/api/billing/plans/migrations", responses=MAY_BE_ABSENT)
    @repeatable
    def migrate_tenants(body: MigrationBody) -> MigrationView:
        """Moves the next subscribers of a plan version to another one, each in a transaction of its own.

        Who has been moved is not on the old version any more: after an error, begin again. A dry run does it
        all and takes it back.
        """
        _validate(body)
        with dependencies.database.reading() as session:
            move = msgspec.structs.replace(
                move_of(session, body.source, body.target),
                tenants=frozenset(body.tenants),
                at_period_end=body.at_period_end,
                dry_run=body.dry_run,
            )
            total = None if body.cursor else subscribers(session, move)
        pace = Pace(dependencies.database, dependencies.clock, to_redis=to_redis)
        found = move_page(dependencies, move, body.cursor, body.limit, pace)
        if found.moved and not move.dry_run:
            dependencies.changed()
        return _view(move, found, total)

    return router


def _validate(body: MigrationBody) -> None:
    wrong = [*_plan_problems("from", body.source), *_plan_problems("to", body.target)]
    wrong += [Violation("tenants", expected(TENANT_FORM, one)) for one in body.tenants if not is_tenant(one)]
    if body.cursor and not is_tenant(body.cursor):
        form = f"the `next_cursor` of a page: {TENANT_FORM}"
        wrong.append(Violation("cursor", expected(form, body.cursor)))
    if wrong:
        raise InvalidInputError(wrong)


def _plan_problems(field: str, name: str) -> list[Violation]:
    code, at, version = name.partition("@")
    numbered = version.isascii() and version.isdigit() and len(version) <= _VERSION_DIGITS
    if is_key(code) and (numbered or not at):
        return []
    return [Violation(field, expected(f"CODE@VERSION such as starter@1, a code being {KEY_FORM}", name))]


def _view(move: Move, found: Moved, total: int | None) -> MigrationView:
    return MigrationView(
        **{"from": label_of(move.source), "to": label_of(move.target)},
        dry_run=move.dry_run,
        subscribers=total,
        moved=found.moved,
        skipped=[
            SkippedView(tenant_id=one.tenant_id, reason=one.reason, detail=one.detail)
            for one in found.skipped
        ],
        denied=[
            LoserView(tenant_id=one.tenant_id, denied=[_denied(item) for item in one.denied])
            for one in found.losers
        ],
        next_cursor=found.last,
    )


def _denied(one: Denied) -> DeniedView:
    return DeniedView(
        feature=one.feature,
        what=one.lost.what,
        limit=one.lost.limit,
        before=one.lost.before,
        after=one.lost.after,
        used=one.used,
    )
