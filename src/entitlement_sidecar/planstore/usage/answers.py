"""First answers: a CONSUME tried again is told what it was told, whatever changed since (DESIGN 4)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from entitlement_sidecar.domain.decision import CheckRequest, Decision
from entitlement_sidecar.domain.errors import IdempotencyConflictError
from entitlement_sidecar.planstore.db import ConsumptionRow
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.wire.codec import decision_from_proto, decision_to_proto
from entitlement_sidecar.wire.v1 import decision_pb2


def first_answer(session: Session, request: CheckRequest, event_id: str) -> Decision | None:
    """What the consumption was answered when it was allowed; None when it never was.

    Raises:
        IdempotencyConflictError: It was allowed another quantity.
    """
    row = session.get(ConsumptionRow, (request.tenant_id, event_id))
    if row is None:
        return None
    if row.quantity != request.quantity:
        raise IdempotencyConflictError(
            f"request_id {request.request_id!r} was used for quantity {row.quantity}, "
            f"not {request.quantity}: use a new request_id for another consumption"
        )
    return decision_from_proto(decision_pb2.Decision.FromString(row.answer))


def keep_answer(session: Session, request: CheckRequest, answer: Decision, now: datetime) -> None:
    """Keeps an allowed answer with its usage. Of two at once, the first one stays."""
    insert = insert_for(session, ConsumptionRow).values(
        tenant_id=request.tenant_id,
        event_id=answer.consumption_id,
        quantity=request.quantity,
        answered_at=now,
        answer=decision_to_proto(answer).SerializeToString(),
    )
    session.execute(insert.on_conflict_do_nothing())
