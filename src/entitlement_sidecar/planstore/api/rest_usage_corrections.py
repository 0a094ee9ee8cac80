"""Corrections of usage by operators: an event is voided, or its value amended (DESIGN 8)."""

from __future__ import annotations

from datetime import datetime

import uuid6
from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.errors import (
    ConflictError,
    IdempotencyConflictError,
    InvalidInputError,
    NotFoundError,
)
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult, correction_event_id
from entitlement_sidecar.planstore.access import current_principal
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import MAY_BE_ABSENT, ORGANIZATION, TEXT, Body, Tenant
from entitlement_sidecar.planstore.api.usage_forms import OutcomeView
from entitlement_sidecar.planstore.db import UsageEventRow
from entitlement_sidecar.planstore.subscriptions import find_organization
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.wire.fields import MAX_REQUEST_ID


class CorrectionBody(Body):
    """What an event should have been."""

    event_id: str = Field(
        min_length=1, max_length=MAX_REQUEST_ID, pattern=TEXT, description="The original.", examples=["e-17"]
    )
    value: int | None = Field(
        None,
        ge=0,
        le=MAX_QUANTITY,
        description="What it should have had; voided where left out.",
        examples=[2],
    )
    reason: str = Field(
        min_length=1, max_length=200, pattern=TEXT, description="Why.", examples=["counted twice"]
    )
    request_id: str = Field(
        "", max_length=MAX_REQUEST_ID, description="The same for the same event again is the same correction."
    )


def usage_corrections(dependencies: ApiDependencies) -> APIRouter:
    """The route of corrections."""
    router = APIRouter(tags=["usage"])

    @router.post(f"{ORGANIZATION}/usage/corrections", responses=MAY_BE_ABSENT)
    def post_correction(tenant_id: Tenant, body: CorrectionBody) -> OutcomeView:
        """Voids an event or amends its value; of several corrections of one event the last holds."""
        now = dependencies.clock.now()
        with dependencies.database.writing() as session:
            find_organization(session, tenant_id)
            _require_original(session, tenant_id, body.event_id)
            correction = Arrival(_event(tenant_id, body, now))
            (result,) = dependencies.ledger.append(session, [correction], now)
            _require_counted(result)
        return OutcomeView.of(result)

    return router


def _event(tenant_id: str, body: CorrectionBody, now: datetime) -> UsageEvent:
    principal = current_principal()
    return UsageEvent(
        id=correction_event_id(tenant_id, body.event_id, body.request_id or str(uuid6.uuid7())),
        tenant_id=tenant_id,
        metric="",
        value=body.value or 0,
        unit="",
        occurred_at=now,
        recorded_at=now,
        actor_id=principal.name if principal else "",
        corrects=body.event_id,
        voids=body.value is None,
        reason=body.reason,
    )


def _require_original(session: Session, tenant_id: str, event_id: str) -> None:
    """A correction by an operator is about what is there; nothing waits for an original that may come.

    Raises:
        NotFoundError: The tenant has no such event.
    """
    row = UsageEventRow
    query = select(row.id).where(row.tenant_id == tenant_id, row.event_id == event_id).limit(1)
    if session.scalar(query) is None:
        raise NotFoundError(
            f"{tenant_id!r} has no event {event_id!r} in the ledger; what is older than its retention can "
            "not be corrected"
        )


def _require_counted(result: UsageResult) -> None:
    """Takes the transaction back where the correction does not count.

    Raises:
        IdempotencyConflictError: The request id came before with another correction of the event.
        InvalidInputError: The event is a correction itself.
        ConflictError: The event's window is closed for corrections.
    """
    match result.outcome:
        case UsageOutcome.CONFLICT:
            raise IdempotencyConflictError(f"request_id: {result.reason}")
        case UsageOutcome.INVALID:
            raise InvalidInputError.of("event_id", result.reason)
        case UsageOutcome.LATE_REFUSED | UsageOutcome.QUARANTINED:
            raise ConflictError(result.reason)
        case _:
            return
