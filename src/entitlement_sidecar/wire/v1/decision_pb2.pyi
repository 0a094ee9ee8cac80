import datetime

from entitlement_sidecar.wire.v1 import types_pb2 as _types_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CheckMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHECK_MODE_UNSPECIFIED: _ClassVar[CheckMode]
    CHECK_MODE_PEEK: _ClassVar[CheckMode]
    CHECK_MODE_CONSUME: _ClassVar[CheckMode]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_ENABLED: _ClassVar[Reason]
    REASON_WITHIN_LIMIT: _ClassVar[Reason]
    REASON_UNLIMITED: _ClassVar[Reason]
    REASON_OVER_SOFT_LIMIT: _ClassVar[Reason]
    REASON_TENANT_UNKNOWN: _ClassVar[Reason]
    REASON_SUBSCRIPTION_MISSING: _ClassVar[Reason]
    REASON_SUBSCRIPTION_SUSPENDED: _ClassVar[Reason]
    REASON_SUBSCRIPTION_ENDED: _ClassVar[Reason]
    REASON_FEATURE_UNKNOWN: _ClassVar[Reason]
    REASON_NOT_IN_PLAN: _ClassVar[Reason]
    REASON_DENIED_BY_OVERRIDE: _ClassVar[Reason]
    REASON_VALUE_NOT_ALLOWED: _ClassVar[Reason]
    REASON_QUOTA_EXCEEDED: _ClassVar[Reason]
    REASON_EXCEEDS_LIMIT: _ClassVar[Reason]
    REASON_SEATS_EXHAUSTED: _ClassVar[Reason]
    REASON_CREDITS_EXHAUSTED: _ClassVar[Reason]
    REASON_UNDETERMINED: _ClassVar[Reason]

class Degradation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADATION_UNSPECIFIED: _ClassVar[Degradation]
    DEGRADATION_NONE: _ClassVar[Degradation]
    DEGRADATION_STALE: _ClassVar[Degradation]
    DEGRADATION_OFFLINE_ALLOWANCE: _ClassVar[Degradation]
    DEGRADATION_FAIL_OPEN: _ClassVar[Degradation]
    DEGRADATION_FAIL_CLOSED: _ClassVar[Degradation]

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_MEMORY: _ClassVar[Source]
    SOURCE_REDIS: _ClassVar[Source]
    SOURCE_PLAN_STORE: _ClassVar[Source]
    SOURCE_DISK: _ClassVar[Source]
    SOURCE_FALLBACK: _ClassVar[Source]

class WarningKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WARNING_KIND_UNSPECIFIED: _ClassVar[WarningKind]
    WARNING_KIND_NEAR_LIMIT_80: _ClassVar[WarningKind]
    WARNING_KIND_NEAR_LIMIT_90: _ClassVar[WarningKind]
    WARNING_KIND_ENDS_SOON: _ClassVar[WarningKind]
    WARNING_KIND_DEPRECATED_FEATURE: _ClassVar[WarningKind]
    WARNING_KIND_BREAK_GLASS: _ClassVar[WarningKind]
    WARNING_KIND_USAGE_UNMETERED: _ClassVar[WarningKind]
CHECK_MODE_UNSPECIFIED: CheckMode
CHECK_MODE_PEEK: CheckMode
CHECK_MODE_CONSUME: CheckMode
REASON_UNSPECIFIED: Reason
REASON_ENABLED: Reason
REASON_WITHIN_LIMIT: Reason
REASON_UNLIMITED: Reason
REASON_OVER_SOFT_LIMIT: Reason
REASON_TENANT_UNKNOWN: Reason
REASON_SUBSCRIPTION_MISSING: Reason
REASON_SUBSCRIPTION_SUSPENDED: Reason
REASON_SUBSCRIPTION_ENDED: Reason
REASON_FEATURE_UNKNOWN: Reason
REASON_NOT_IN_PLAN: Reason
REASON_DENIED_BY_OVERRIDE: Reason
REASON_VALUE_NOT_ALLOWED: Reason
REASON_QUOTA_EXCEEDED: Reason
REASON_EXCEEDS_LIMIT: Reason
REASON_SEATS_EXHAUSTED: Reason
REASON_CREDITS_EXHAUSTED: Reason
REASON_UNDETERMINED: Reason
DEGRADATION_UNSPECIFIED: Degradation
DEGRADATION_NONE: Degradation
DEGRADATION_STALE: Degradation
DEGRADATION_OFFLINE_ALLOWANCE: Degradation
DEGRADATION_FAIL_OPEN: Degradation
DEGRADATION_FAIL_CLOSED: Degradation
SOURCE_UNSPECIFIED: Source
SOURCE_MEMORY: Source
SOURCE_REDIS: Source
SOURCE_PLAN_STORE: Source
SOURCE_DISK: Source
SOURCE_FALLBACK: Source
WARNING_KIND_UNSPECIFIED: WarningKind
WARNING_KIND_NEAR_LIMIT_80: WarningKind
WARNING_KIND_NEAR_LIMIT_90: WarningKind
WARNING_KIND_ENDS_SOON: WarningKind
WARNING_KIND_DEPRECATED_FEATURE: WarningKind
WARNING_KIND_BREAK_GLASS: WarningKind
WARNING_KIND_USAGE_UNMETERED: WarningKind

class CheckEntitlementRequest(_message.Message):
    __slots__ = ("tenant_id", "feature", "subject", "quantity", "mode", "request_id", "correlation_id", "requested_value_json", "max_staleness", "min_snapshot_version", "dimensions")
    class DimensionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_FIELD_NUMBER: _ClassVar[int]
    MIN_SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    feature: str
    subject: str
    quantity: int
    mode: CheckMode
    request_id: str
    correlation_id: str
    requested_value_json: str
    max_staleness: _duration_pb2.Duration
    min_snapshot_version: int
    dimensions: _containers.ScalarMap[str, str]
    def __init__(self, tenant_id: _Optional[str] = ..., feature: _Optional[str] = ..., subject: _Optional[str] = ..., quantity: _Optional[int] = ..., mode: _Optional[_Union[CheckMode, int, str]] = ..., request_id: _Optional[str] = ..., correlation_id: _Optional[str] = ..., requested_value_json: _Optional[str] = ..., max_staleness: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., min_snapshot_version: _Optional[int] = ..., dimensions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CheckEntitlementResponse(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class Warning(_message.Message):
    __slots__ = ("kind", "detail")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: WarningKind
    detail: str
    def __init__(self, kind: _Optional[_Union[WarningKind, int, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("allowed", "reason", "kind", "value_json", "limit", "used", "remaining", "window_start", "reset_at", "usage_as_of", "held", "pending", "soft", "overage", "provenance", "degradation", "snapshot_version", "as_of", "source", "overshoot_bound", "retry_after", "consumption_id", "warnings", "obligations", "notes", "credits")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    WINDOW_START_FIELD_NUMBER: _ClassVar[int]
    RESET_AT_FIELD_NUMBER: _ClassVar[int]
    USAGE_AS_OF_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    DEGRADATION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OVERSHOOT_BOUND_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    CONSUMPTION_ID_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    OBLIGATIONS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    reason: Reason
    kind: _types_pb2.FeatureKind
    value_json: str
    limit: int
    used: int
    remaining: int
    window_start: _timestamp_pb2.Timestamp
    reset_at: _timestamp_pb2.Timestamp
    usage_as_of: _timestamp_pb2.Timestamp
    held: int
    pending: int
    soft: bool
    overage: int
    provenance: _containers.RepeatedCompositeFieldContainer[_types_pb2.Provenance]
    degradation: Degradation
    snapshot_version: int
    as_of: _timestamp_pb2.Timestamp
    source: Source
    overshoot_bound: int
    retry_after: _duration_pb2.Duration
    consumption_id: str
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    obligations: _types_pb2.Obligations
    notes: _containers.RepeatedScalarFieldContainer[str]
    credits: _containers.RepeatedCompositeFieldContainer[CreditUse]
    def __init__(self, allowed: _Optional[bool] = ..., reason: _Optional[_Union[Reason, int, str]] = ..., kind: _Optional[_Union[_types_pb2.FeatureKind, int, str]] = ..., value_json: _Optional[str] = ..., limit: _Optional[int] = ..., used: _Optional[int] = ..., remaining: _Optional[int] = ..., window_start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reset_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., usage_as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., held: _Optional[int] = ..., pending: _Optional[int] = ..., soft: _Optional[bool] = ..., overage: _Optional[int] = ..., provenance: _Optional[_Iterable[_Union[_types_pb2.Provenance, _Mapping]]] = ..., degradation: _Optional[_Union[Degradation, int, str]] = ..., snapshot_version: _Optional[int] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source: _Optional[_Union[Source, int, str]] = ..., overshoot_bound: _Optional[int] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., consumption_id: _Optional[str] = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ..., obligations: _Optional[_Union[_types_pb2.Obligations, _Mapping]] = ..., notes: _Optional[_Iterable[str]] = ..., credits: _Optional[_Iterable[_Union[CreditUse, _Mapping]]] = ...) -> None: ...

class CreditUse(_message.Message):
    __slots__ = ("grant", "amount", "used", "burnt", "expires_at", "outstanding")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    BURNT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    grant: str
    amount: int
    used: int
    burnt: int
    expires_at: _timestamp_pb2.Timestamp
    outstanding: int
    def __init__(self, grant: _Optional[str] = ..., amount: _Optional[int] = ..., used: _Optional[int] = ..., burnt: _Optional[int] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., outstanding: _Optional[int] = ...) -> None: ...

class BatchCheckEntitlementsRequest(_message.Message):
    __slots__ = ("checks", "atomic")
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    ATOMIC_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[CheckEntitlementRequest]
    atomic: bool
    def __init__(self, checks: _Optional[_Iterable[_Union[CheckEntitlementRequest, _Mapping]]] = ..., atomic: _Optional[bool] = ...) -> None: ...

class BatchCheckResult(_message.Message):
    __slots__ = ("decision", "error")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    error: CheckError
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., error: _Optional[_Union[CheckError, _Mapping]] = ...) -> None: ...

class CheckError(_message.Message):
    __slots__ = ("code", "reason", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class BatchCheckEntitlementsResponse(_message.Message):
    __slots__ = ("results", "consumed")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    CONSUMED_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchCheckResult]
    consumed: bool
    def __init__(self, results: _Optional[_Iterable[_Union[BatchCheckResult, _Mapping]]] = ..., consumed: _Optional[bool] = ...) -> None: ...

class ListEntitlementsRequest(_message.Message):
    __slots__ = ("tenant_id", "with_usage")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    WITH_USAGE_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    with_usage: bool
    def __init__(self, tenant_id: _Optional[str] = ..., with_usage: _Optional[bool] = ...) -> None: ...

class Entitlement(_message.Message):
    __slots__ = ("feature", "decision")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    feature: str
    decision: Decision
    def __init__(self, feature: _Optional[str] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class ListEntitlementsResponse(_message.Message):
    __slots__ = ("entitlements", "snapshot_version")
    ENTITLEMENTS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    entitlements: _containers.RepeatedCompositeFieldContainer[Entitlement]
    snapshot_version: int
    def __init__(self, entitlements: _Optional[_Iterable[_Union[Entitlement, _Mapping]]] = ..., snapshot_version: _Optional[int] = ...) -> None: ...

class ExplainEntitlementRequest(_message.Message):
    __slots__ = ("check",)
    CHECK_FIELD_NUMBER: _ClassVar[int]
    check: CheckEntitlementRequest
    def __init__(self, check: _Optional[_Union[CheckEntitlementRequest, _Mapping]] = ...) -> None: ...

class ResolutionStep(_message.Message):
    __slots__ = ("rule", "provenance", "outcome", "applied", "decisive")
    RULE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    DECISIVE_FIELD_NUMBER: _ClassVar[int]
    rule: str
    provenance: _types_pb2.Provenance
    outcome: str
    applied: bool
    decisive: bool
    def __init__(self, rule: _Optional[str] = ..., provenance: _Optional[_Union[_types_pb2.Provenance, _Mapping]] = ..., outcome: _Optional[str] = ..., applied: _Optional[bool] = ..., decisive: _Optional[bool] = ...) -> None: ...

class ExplainEntitlementResponse(_message.Message):
    __slots__ = ("decision", "steps")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    steps: _containers.RepeatedCompositeFieldContainer[ResolutionStep]
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[ResolutionStep, _Mapping]]] = ...) -> None: ...

class WatchEntitlementsRequest(_message.Message):
    __slots__ = ("tenant_id", "after_version")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    after_version: int
    def __init__(self, tenant_id: _Optional[str] = ..., after_version: _Optional[int] = ...) -> None: ...

class WatchEntitlementsResponse(_message.Message):
    __slots__ = ("snapshot_version", "entitlements")
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENTITLEMENTS_FIELD_NUMBER: _ClassVar[int]
    snapshot_version: int
    entitlements: _containers.RepeatedCompositeFieldContainer[Entitlement]
    def __init__(self, snapshot_version: _Optional[int] = ..., entitlements: _Optional[_Iterable[_Union[Entitlement, _Mapping]]] = ...) -> None: ...
