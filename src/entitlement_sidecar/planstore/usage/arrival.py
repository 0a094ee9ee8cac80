"""An event on its way into the ledger, before and after it was judged."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from entitlement_sidecar.domain.ruling import Ruling
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.planstore.usage.slots import Slot
from entitlement_sidecar.wire.codec import event_to_proto
from entitlement_sidecar.wire.fields import MAX_NAME, MAX_REASON, MAX_REQUEST_ID
from entitlement_sidecar.wire.v1 import usage_pb2

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(3000, 1, 1, tzinfo=UTC)
"""Instants outside are mistakes, and have no windows."""

LONGEST = (
    ("id", MAX_REQUEST_ID),
    ("unit", MAX_NAME),
    ("actor_id", MAX_NAME),
    ("correlation_id", MAX_NAME),
    ("emitter", MAX_NAME),
    ("subject", MAX_NAME),
    ("recorded_by", MAX_NAME),
    ("consumption_id", MAX_REQUEST_ID),
    ("feature", MAX_NAME),
    ("lease_id", MAX_NAME),
    ("corrects", MAX_REQUEST_ID),
    ("reason", MAX_REASON),
)
"""Texts of an event, and how many characters each may have, by whichever way it comes."""

Identity = tuple[str, str]
"""Tenant and id of an event (S0.5)."""

COUNTING = frozenset({UsageOutcome.ACCEPTED, UsageOutcome.LATE_ACCEPTED})
"""Outcomes of events that are in the ledger from now on."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """An event as it arrived: who kept it, and where it stood in that sidecar's outbox.

    `message` is the one that it was read from, which the ledger may write into: who stores it has it again
    without making another. `digest` is that of what was sent, where the event says more by now.
    """

    event: UsageEvent
    instance: str = ""
    epoch: int = 0
    sequence: int = 0
    message: usage_pb2.UsageEvent | None = None
    digest: bytes = b""

    def having(self, event: UsageEvent) -> Arrival:
        """The same arrival of an event that says more."""
        return Arrival(event, self.instance, self.epoch, self.sequence, self.message, self.digest)

    def payload(self) -> bytes:
        """The event as it is stored: all that was sent, and what the registry decided."""
        message, event = self.message, self.event
        if message is None or event.corrects or event.settles:
            return event_to_proto(event).SerializeToString()
        message.unit, message.rule = event.unit, event.rule
        number: Any = int(event.classification or 0)
        message.classification = number
        message.registry_version = event.registry_version
        return message.SerializeToString()


class Judged(msgspec.Struct, frozen=True, gc=False):
    """An arrival whose event says what the registry decided, the ruling itself, and where it counts.

    `digest` is that of the event as it was sent: what the registry or an original adds is no part of it.
    """

    arrival: Arrival
    ruling: Ruling
    digest: bytes
    registry_version: int
    slot: Slot | None = None

    @property
    def event(self) -> UsageEvent:
        """The event, as it counts."""
        return self.arrival.event

    @property
    def identity(self) -> Identity:
        """What it is told apart by."""
        return self.arrival.event.tenant_id, self.arrival.event.id

    def told(self, outcome: UsageOutcome | None = None, rule: str = "", reason: str = "") -> UsageResult:
        """What the sender is told: the ruling, or another outcome with a rule of its own."""
        event, ruling = self.arrival.event, self.ruling
        if outcome is not None:
            return UsageResult(event.id, outcome, reason, rule=rule, registry_version=self.registry_version)
        return UsageResult(
            event.id,
            ruling.outcome,
            ruling.reason,
            rule=ruling.rule,
            registry_version=self.registry_version,
            classification=ruling.classification,
        )
