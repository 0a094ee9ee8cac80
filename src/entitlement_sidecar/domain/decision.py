"""The question and the answer, as values."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Any

import msgspec


class CheckMode(IntEnum):
    """PEEK looks, CONSUME uses. Values are those of the contract."""

    PEEK = 1
    CONSUME = 2


class Reason(IntEnum):
    """Why a decision is as it is. Stable; values are those of the contract."""

    ENABLED = 1
    WITHIN_LIMIT = 2
    UNLIMITED = 3
    OVER_SOFT_LIMIT = 4
    TENANT_UNKNOWN = 5
    SUBSCRIPTION_MISSING = 6
    SUBSCRIPTION_SUSPENDED = 7
    SUBSCRIPTION_ENDED = 8
    FEATURE_UNKNOWN = 9
    NOT_IN_PLAN = 10
    DENIED_BY_OVERRIDE = 11
    VALUE_NOT_ALLOWED = 12
    QUOTA_EXCEEDED = 13
    EXCEEDS_LIMIT = 14
    SEATS_EXHAUSTED = 15
    CREDITS_EXHAUSTED = 16
    UNDETERMINED = 17


class Degradation(IntEnum):
    """How an answer is less than the plan store's own."""

    NONE = 1
    STALE = 2
    OFFLINE_ALLOWANCE = 3
    FAIL_OPEN = 4
    FAIL_CLOSED = 5


class Source(IntEnum):
    """Where the snapshot behind an answer came from."""

    MEMORY = 1
    REDIS = 2
    PLAN_STORE = 3
    DISK = 4
    FALLBACK = 5


class ProvenanceKind(IntEnum):
    """What granted or denied."""

    UNKNOWN = 0
    PLAN = 1
    ADD_ON = 2
    OVERRIDE = 3
    TRIAL = 4
    GRACE = 5
    CREDIT_GRANT = 6
    BREAK_GLASS = 7


class WarningKind(IntEnum):
    """What may hurt soon."""

    NEAR_LIMIT_80 = 1
    NEAR_LIMIT_90 = 2
    ENDS_SOON = 3
    DEPRECATED_FEATURE = 4
    BREAK_GLASS = 5
    USAGE_UNMETERED = 6


class Provenance(msgspec.Struct, frozen=True, gc=False):
    """One contributor, for example plan `pro@3`."""

    kind: ProvenanceKind
    id: str


class DecisionWarning(msgspec.Struct, frozen=True, gc=False):
    """One warning; `detail` names a limit, a metric or an instant."""

    kind: WarningKind
    detail: str = ""


class CreditUse(msgspec.Struct, frozen=True, gc=False):
    """One credit grant in the order in which credits burn. `burnt` is what this call took of it.

    `outstanding` is what others hold of it and have not used yet.
    """

    grant: str
    amount: int
    used: int
    burnt: int = 0
    expires_at: datetime | None = None
    outstanding: int = 0

    @property
    def remaining(self) -> int:
        """What is left of it, 0 or more."""
        return max(0, self.amount - self.used - self.outstanding)


class CheckRequest(msgspec.Struct, frozen=True, gc=False):
    """One question, validated. `max_staleness` is in seconds; None accepts any age.

    `requested_value` is compared only when `has_requested_value` is set: JSON null is a value too.
    """

    tenant_id: str
    feature: str
    mode: CheckMode = CheckMode.PEEK
    quantity: int = 1
    subject: str = ""
    request_id: str = ""
    correlation_id: str = ""
    requested_value: Any = None
    has_requested_value: bool = False
    max_staleness: float | None = None
    min_snapshot_version: int = 0
    dimensions: dict[str, str] = {}


class Decision(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One answer. A denial is an answer too, never an error.

    `kind` is a FeatureKind's number, 0 where the feature is not known. Numbers of metered features and
    seats describe the tightest limit, those of credits all grants together, which `credits` lists in burn
    order. `retry_after` is in seconds.
    """

    allowed: bool
    reason: Reason
    kind: int = 0
    value: Any = None
    limit: int | None = None
    used: int | None = None
    remaining: int | None = None
    window_start: datetime | None = None
    reset_at: datetime | None = None
    usage_as_of: datetime | None = None
    held: int = 0
    pending: int = 0
    soft: bool = False
    overage: int = 0
    provenance: tuple[Provenance, ...] = ()
    degradation: Degradation = Degradation.NONE
    snapshot_version: int = 0
    as_of: datetime | None = None
    source: Source = Source.FALLBACK
    overshoot_bound: int = 0
    retry_after: float | None = None
    consumption_id: str = ""
    warnings: tuple[DecisionWarning, ...] = ()
    evaluation_required: bool = False
    governance_required: bool = False
    notes: tuple[str, ...] = ()
    credits: tuple[CreditUse, ...] = ()
