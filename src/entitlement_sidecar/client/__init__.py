"""What an application imports: one client, synchronous or asynchronous, for the sidecar beside it.

    with EntitlementsClient(if_unreachable=Answer.ALLOW) as entitlements:
        decision = entitlements.check("acme", "tasks", consume=True)
        if not decision.allowed:
            ...  # decision.reason says why, decision.reset_at when it will be different

A denial is a `Decision`, never an exception. Exceptions are for questions that could not be judged. What
to do when no sidecar answers is declared by the caller: allow, deny or raise.
"""

from entitlement_sidecar.client.base import Answer
from entitlement_sidecar.client.client import AsyncEntitlementsClient, EntitlementsClient
from entitlement_sidecar.client.credentials import Credentials
from entitlement_sidecar.client.messages import (
    CheckOptions,
    CorrectionOptions,
    Explanation,
    TaskParts,
    TenantState,
    Usage,
)
from entitlement_sidecar.client.reservations import Reservation, ReserveOptions, Settlement
from entitlement_sidecar.domain.decision import Decision, Degradation, Reason
from entitlement_sidecar.domain.errors import (
    ConflictError,
    EntitlementsError,
    ForbiddenError,
    IdempotencyConflictError,
    InvalidInputError,
    NotFoundError,
    RetryableError,
    UnauthenticatedError,
)
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult

__all__ = [
    "Answer",
    "AsyncEntitlementsClient",
    "CheckOptions",
    "ConflictError",
    "CorrectionOptions",
    "Credentials",
    "Decision",
    "Degradation",
    "EntitlementsClient",
    "EntitlementsError",
    "Explanation",
    "ForbiddenError",
    "IdempotencyConflictError",
    "InvalidInputError",
    "NotFoundError",
    "Reason",
    "Reservation",
    "ReserveOptions",
    "RetryableError",
    "Settlement",
    "TaskParts",
    "TenantState",
    "UnauthenticatedError",
    "Usage",
    "UsageOutcome",
    "UsageResult",
]
