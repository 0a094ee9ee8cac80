"""Reservations: an amount that a caller holds until it knows what it used.

    reserve ──▶ open ──settle──▶ settled ◀──settle, late── released | expired ◀──release | time── open

Its settlement is one usage event, ever, whose identity follows from the reservation's.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from entitlement_sidecar.domain.decision import Decision
from entitlement_sidecar.domain.errors import IdempotencyConflictError
from entitlement_sidecar.domain.usage import RESERVED, UsageEvent, UsageResult, settlement_event_id

USUAL_TTL = 60.0
"""Seconds that a reservation lasts where nobody says how long."""

SHORTEST_TTL = 1.0
LONGEST_TTL = 3600.0
"""Seconds that a reservation may last."""


class State(StrEnum):
    """What became of a reservation."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


class Reserving(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked to be held; `ttl` in seconds."""

    tenant_id: str
    feature: str
    reservation_id: str
    quantity: int
    ttl: float = USUAL_TTL
    subject: str = ""
    correlation_id: str = ""

    @property
    def event_id(self) -> str:
        """Identity of the event that will settle it."""
        return settlement_event_id(self.tenant_id, self.reservation_id)


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What was really used of a reservation: `quantity` is 0 or more, also more than was held."""

    tenant_id: str
    reservation_id: str
    quantity: int
    dimensions: dict[str, str] = {}

    @property
    def event_id(self) -> str:
        """Identity of its event."""
        return settlement_event_id(self.tenant_id, self.reservation_id)

    def conflict(self) -> IdempotencyConflictError:
        """What is said to who settles it again with other content."""
        return IdempotencyConflictError(
            f"reservation {self.reservation_id!r} was settled with other content: "
            f"correct its event {self.event_id!r} instead"
        )

    def event(self, now: datetime, recorded_by: str) -> UsageEvent:
        """Its event: wherever it is made, the same content has the same digest."""
        return UsageEvent(
            id=self.event_id,
            tenant_id=self.tenant_id,
            metric="",
            value=self.quantity,
            unit="",
            occurred_at=now,
            recorded_at=now,
            dimensions=self.dimensions,
            recorded_by=recorded_by,
            lease_id=f"{RESERVED}{self.event_id}",
        )


class Reserved(msgspec.Struct, frozen=True):
    """An answer to who reserves; `expires_at` None: nothing is held."""

    decision: Decision
    expires_at: datetime | None = None


class Settled(msgspec.Struct, frozen=True):
    """What a settlement has come to: what came back to the limits, and what nobody had admitted.

    `pending`: the plan store could not be asked, so that neither is known yet.
    """

    result: UsageResult
    returned: int = 0
    overage: int = 0
    pending: bool = False
