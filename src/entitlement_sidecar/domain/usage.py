"""Usage: immutable facts, their identity and their digest (S0.1, S0.5).

Identity is (tenant, event id). The digest says whether two events of one identity are the same fact: it
leaves out what a second delivery may legitimately change (when and by whom it was recorded) and what the
registry decides (unit and classification).
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from enum import IntEnum

import msgspec

from entitlement_sidecar.domain.catalogue import Classification

SCHEMA_VERSION = 1
"""Version of the usage event's schema."""

RESERVED = "reservation:"
"""What the `lease_id` of a settlement begins with; the id of its event follows."""


class UsageOutcome(IntEnum):
    """What became of a reported event. Values are those of the contract."""

    ACCEPTED = 1
    DUPLICATE = 2
    CONFLICT = 3
    LATE_ACCEPTED = 4
    LATE_REFUSED = 5
    UNKNOWN_METRIC = 6
    QUARANTINED = 7
    INVALID = 8


class UsageResult(msgspec.Struct, frozen=True, gc=False):
    """Outcome of one event; `reason` is for people, `retriable` and `rule` for programs.

    `rule` names what decided, empty where nothing stood against it; `registry_version` is that of the
    catalogue it was judged by; `classification` is what it counts as.
    """

    id: str
    outcome: UsageOutcome
    reason: str = ""
    retriable: bool = False
    rule: str = ""
    registry_version: int = 0
    classification: Classification | None = None


class UsageEvent(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One immutable fact: something was used. `value` is in the metric's smallest unit.

    A correction names in `corrects` the event that it voids, or whose value it amends. A rollup stands for
    `count` events, whose sum is its value. `rule` is what decided the classification.
    """

    id: str
    tenant_id: str
    metric: str
    value: int
    unit: str
    occurred_at: datetime
    recorded_at: datetime
    actor_id: str = ""
    correlation_id: str = ""
    emitter: str = ""
    subject: str = ""
    classification: Classification | None = None
    dimensions: dict[str, str] = {}
    schema_version: int = SCHEMA_VERSION
    registry_version: int = 0
    recorded_by: str = ""
    consumption_id: str = ""
    feature: str = ""
    lease_id: str = ""
    id_generated: bool = False
    corrects: str = ""
    voids: bool = False
    reason: str = ""
    count: int = 1
    rule: str = ""

    @property
    def settles(self) -> bool:
        """It ends a reservation, which says the rest of what it is: metric, feature, subject, correlation."""
        return self.lease_id.startswith(RESERVED)

    def digest(self) -> bytes:
        """32 bytes that are equal for equal facts (S0.5)."""
        correction = (self.corrects, self.voids) if self.corrects else ()
        return _hash(
            self.metric,
            self.value,
            # An event without a time of its own happened when it was recorded, each time it is sent.
            "" if self.occurred_at == self.recorded_at else self.occurred_at.isoformat(),
            self.actor_id,
            self.correlation_id,
            self.emitter,
            self.subject,
            self.dimensions,
            self.consumption_id,
            self.feature,
            *correction,
        )


def derived_event_id(  # noqa: PLR0913 - what identity consists of
    *,
    tenant_id: str,
    metric: str,
    correlation_id: str,
    occurred_at: datetime,
    subject: str,
    emitter: str,
    dimensions: dict[str, str],
    ordinal: int = 0,
) -> str:
    """Identity of an event that its caller did not name; equal facts get equal ids (S0.5)."""
    digest = _hash(
        tenant_id, metric, correlation_id, occurred_at.isoformat(), subject, emitter, dimensions, ordinal
    )
    return f"d-{digest.hex()[:32]}"


def consumption_event_id(tenant_id: str, feature: str, request_id: str) -> str:
    """Identity of a CONSUME's event: the same request again is the same consumption."""
    return f"c-{_hash(tenant_id, feature, request_id).hex()[:32]}"


def task_event_id(tenant_id: str, task_id: str, part: str) -> str:
    """Identity of one part of a task: the same task again is the same events (S3.5)."""
    return f"t-{_hash(tenant_id, task_id, part).hex()[:32]}"


def correction_event_id(tenant_id: str, original_id: str, request_id: str) -> str:
    """Identity of a correction: the same request again is the same correction of the same event."""
    return f"k-{_hash(tenant_id, original_id, request_id).hex()[:32]}"


def settlement_event_id(tenant_id: str, reservation_id: str) -> str:
    """Identity of the event that settles a reservation: there is one, ever."""
    return f"s-{_hash(tenant_id, reservation_id).hex()[:32]}"


# What is hashed: JSON without spaces, keys sorted, everything beyond printable ASCII escaped.
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_quick = msgspec.json.Encoder(order="sorted").encode


def _hash(*parts: object) -> bytes:
    text = _quick(parts)
    # Ten times as fast, and the same where there is nothing to escape.
    if not text.isascii() or b"\x7f" in text:
        text = _canonical(parts).encode()
    return hashlib.sha256(text).digest()
