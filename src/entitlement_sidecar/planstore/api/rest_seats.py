"""Seats of organizations: who has one, taking one for somebody, giving it back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field
from sqlalchemy.orm import Session
from uuid6 import uuid7

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest
from entitlement_sidecar.domain.errors import InvalidInputError, NotFoundError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, Body, Tenant, View
from entitlement_sidecar.planstore.api.pages import PageSize, page_of
from entitlement_sidecar.planstore.api.rest_quotas import DecisionView, decision_view
from entitlement_sidecar.planstore.audit import Change, record
from entitlement_sidecar.planstore.snapshots.in_force import in_force
from entitlement_sidecar.planstore.usage.authority import Admission
from entitlement_sidecar.planstore.usage.seats import SeatQuery, seat_holders
from entitlement_sidecar.wire.fields import KEY_FORM, MAX_NAME, expected, is_key

_PATH = f"{ORGANIZATION}/seats/{{feature}}"
_FeatureKey = Annotated[str, Path(max_length=64, description="A seats feature.", examples=["editors"])]

_SubjectCursor = Annotated[
    str,
    Query(
        max_length=MAX_NAME, pattern=r"^[^\x00-\x1f\x7f]*$", description="`next_cursor` of the page before."
    ),
]


class SubjectBody(Body):
    """Who."""

    subject: str = Field(
        min_length=1, max_length=MAX_NAME, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["user-7"]
    )


class SeatView(View):
    """Who has a seat, since when."""

    subject: str = Field(examples=["user-7"])
    taken_at: datetime


class SeatsView(View):
    """A page of seats by subject; null `next_cursor`: there are no more."""

    seats: list[SeatView]
    next_cursor: str | None


class ReleasedView(View):
    """Whether there was a seat to give back."""

    released: bool


def seats(dependencies: ApiDependencies) -> APIRouter:
    """Routes of seats."""
    router = APIRouter(tags=["seats"])
    database, clock = dependencies.database, dependencies.clock

    @router.get(_PATH)
    def list_seats(
        tenant_id: Tenant,
        feature: _FeatureKey,
        limit: PageSize = 100,
        cursor: _SubjectCursor = "",
    ) -> SeatsView:
        """Who has a seat of the windows that run now."""
        with database.reading() as session:
            admission = _admission(dependencies, session, tenant_id, feature)
            query = SeatQuery(tenant_id, feature, admission.limits, cursor, limit + 1)
            page, last = page_of(seat_holders(session, query, clock.now()), limit)
        return SeatsView(
            seats=[SeatView(subject=one.subject, taken_at=one.taken_at) for one in page],
            next_cursor=last.subject if last else None,
        )

    @router.post(f"{_PATH}/assign")
    def assign_seat(tenant_id: Tenant, feature: _FeatureKey, body: SubjectBody) -> DecisionView:
        """Takes a seat for a subject, where there is one. Who has one keeps it, and takes no second one."""
        with database.writing() as session:
            admission = _admission(dependencies, session, tenant_id, feature, body.subject)
            request = CheckRequest(
                tenant_id,
                feature,
                mode=CheckMode.CONSUME,
                quantity=1,
                subject=body.subject,
                request_id=uuid7().hex,
            )
            had = dependencies.authority.admit(session, admission.view()).holds
            decision = dependencies.checks.consume(session, request)
            if decision.allowed and admission.limits and not had:
                _note(dependencies, session, "seat.assigned", (tenant_id, feature, body.subject))
        return decision_view(decision)

    @router.post(f"{_PATH}/release")
    def release_seat(tenant_id: Tenant, feature: _FeatureKey, body: SubjectBody) -> ReleasedView:
        """Gives a subject's seat back."""
        with database.writing() as session:
            admission = _admission(dependencies, session, tenant_id, feature, body.subject)
            released = dependencies.authority.release_seat(session, admission)
            if released:
                _note(dependencies, session, "seat.released", (tenant_id, feature, body.subject))
        return ReleasedView(released=released)

    return router


def _admission(
    dependencies: ApiDependencies, session: Session, tenant_id: str, feature: str, subject: str = ""
) -> Admission:
    """What the tenant has of the seats now.

    Raises:
        TenantUnknownError, NotFoundError: There is no such tenant, or it has no such seats.
        InvalidInputError: It is no seats feature.
    """
    if not is_key(feature):
        raise InvalidInputError.of("feature", expected(KEY_FORM, feature))
    held = in_force(session, tenant_id, feature, dependencies.clock.now())
    if held.feature is not None and held.feature.kind is not FeatureKind.SEATS:
        raise InvalidInputError.of("feature", f"{feature!r} is {held.feature.kind.name.lower()}, not seats")
    if held.feature is None or held.resolution is None:
        raise NotFoundError(f"{tenant_id!r} has no seats of {feature!r} now")
    return Admission(tenant_id, feature, 1, "", held.resolution.limits, subject=subject, seats=True)


def _note(dependencies: ApiDependencies, session: Session, action: str, seat: tuple[str, str, str]) -> None:
    tenant_id, feature, subject = seat
    content = {"feature": feature, "subject": subject}
    before, after = (None, content) if action == "seat.assigned" else (content, None)
    change = Change(action, f"seat/{tenant_id}/{feature}", tenant_id, before, after)
    record(session, change, dependencies.clock.now())
