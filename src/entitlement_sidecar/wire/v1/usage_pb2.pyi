import datetime

from entitlement_sidecar.wire.v1 import decision_pb2 as _decision_pb2
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

class UsageOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USAGE_OUTCOME_UNSPECIFIED: _ClassVar[UsageOutcome]
    USAGE_OUTCOME_ACCEPTED: _ClassVar[UsageOutcome]
    USAGE_OUTCOME_DUPLICATE: _ClassVar[UsageOutcome]
    USAGE_OUTCOME_CONFLICT: _ClassVar[UsageOutcome]
    USAGE_OUTCOME_LATE_ACCEPTED: _ClassVar[UsageOutcome]
    USAGE_OUTCOME_LATE_REFUSED: _ClassVar[UsageOutcome]
    USAGE_OUTCOME_UNKNOWN_METRIC: _ClassVar[UsageOutcome]
    USAGE_OUTCOME_QUARANTINED: _ClassVar[UsageOutcome]
    USAGE_OUTCOME_INVALID: _ClassVar[UsageOutcome]
USAGE_OUTCOME_UNSPECIFIED: UsageOutcome
USAGE_OUTCOME_ACCEPTED: UsageOutcome
USAGE_OUTCOME_DUPLICATE: UsageOutcome
USAGE_OUTCOME_CONFLICT: UsageOutcome
USAGE_OUTCOME_LATE_ACCEPTED: UsageOutcome
USAGE_OUTCOME_LATE_REFUSED: UsageOutcome
USAGE_OUTCOME_UNKNOWN_METRIC: UsageOutcome
USAGE_OUTCOME_QUARANTINED: UsageOutcome
USAGE_OUTCOME_INVALID: UsageOutcome

class UsageEvent(_message.Message):
    __slots__ = ("id", "tenant_id", "metric", "value", "unit", "occurred_at", "recorded_at", "actor_id", "correlation_id", "emitter", "subject", "classification", "dimensions", "schema_version", "registry_version", "recorded_by", "consumption_id", "feature", "lease_id", "id_generated", "corrects", "voids", "reason", "count", "rule")
    class DimensionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    EMITTER_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    RECORDED_BY_FIELD_NUMBER: _ClassVar[int]
    CONSUMPTION_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    ID_GENERATED_FIELD_NUMBER: _ClassVar[int]
    CORRECTS_FIELD_NUMBER: _ClassVar[int]
    VOIDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant_id: str
    metric: str
    value: int
    unit: str
    occurred_at: _timestamp_pb2.Timestamp
    recorded_at: _timestamp_pb2.Timestamp
    actor_id: str
    correlation_id: str
    emitter: str
    subject: str
    classification: _types_pb2.Classification
    dimensions: _containers.ScalarMap[str, str]
    schema_version: int
    registry_version: int
    recorded_by: str
    consumption_id: str
    feature: str
    lease_id: str
    id_generated: bool
    corrects: str
    voids: bool
    reason: str
    count: int
    rule: str
    def __init__(self, id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., metric: _Optional[str] = ..., value: _Optional[int] = ..., unit: _Optional[str] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., recorded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor_id: _Optional[str] = ..., correlation_id: _Optional[str] = ..., emitter: _Optional[str] = ..., subject: _Optional[str] = ..., classification: _Optional[_Union[_types_pb2.Classification, int, str]] = ..., dimensions: _Optional[_Mapping[str, str]] = ..., schema_version: _Optional[int] = ..., registry_version: _Optional[int] = ..., recorded_by: _Optional[str] = ..., consumption_id: _Optional[str] = ..., feature: _Optional[str] = ..., lease_id: _Optional[str] = ..., id_generated: _Optional[bool] = ..., corrects: _Optional[str] = ..., voids: _Optional[bool] = ..., reason: _Optional[str] = ..., count: _Optional[int] = ..., rule: _Optional[str] = ...) -> None: ...

class UsageResult(_message.Message):
    __slots__ = ("id", "outcome", "reason", "retriable", "rule", "registry_version", "classification")
    ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRIABLE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    id: str
    outcome: UsageOutcome
    reason: str
    retriable: bool
    rule: str
    registry_version: int
    classification: _types_pb2.Classification
    def __init__(self, id: _Optional[str] = ..., outcome: _Optional[_Union[UsageOutcome, int, str]] = ..., reason: _Optional[str] = ..., retriable: _Optional[bool] = ..., rule: _Optional[str] = ..., registry_version: _Optional[int] = ..., classification: _Optional[_Union[_types_pb2.Classification, int, str]] = ...) -> None: ...

class ReportUsageRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[UsageEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[UsageEvent, _Mapping]]] = ...) -> None: ...

class ReportUsageResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[UsageResult]
    def __init__(self, results: _Optional[_Iterable[_Union[UsageResult, _Mapping]]] = ...) -> None: ...

class RecordTaskRequest(_message.Message):
    __slots__ = ("tenant_id", "task_id", "subject", "input_tokens", "output_tokens", "compute_ms", "occurred_at", "emitter", "actor_id", "dimensions")
    class DimensionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    EMITTER_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    task_id: str
    subject: str
    input_tokens: int
    output_tokens: int
    compute_ms: int
    occurred_at: _timestamp_pb2.Timestamp
    emitter: str
    actor_id: str
    dimensions: _containers.ScalarMap[str, str]
    def __init__(self, tenant_id: _Optional[str] = ..., task_id: _Optional[str] = ..., subject: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., compute_ms: _Optional[int] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., emitter: _Optional[str] = ..., actor_id: _Optional[str] = ..., dimensions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class RecordTaskResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[UsageResult]
    def __init__(self, results: _Optional[_Iterable[_Union[UsageResult, _Mapping]]] = ...) -> None: ...

class CorrectUsageRequest(_message.Message):
    __slots__ = ("tenant_id", "original_id", "value", "reason", "request_id", "actor_id", "emitter")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    EMITTER_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    original_id: str
    value: int
    reason: str
    request_id: str
    actor_id: str
    emitter: str
    def __init__(self, tenant_id: _Optional[str] = ..., original_id: _Optional[str] = ..., value: _Optional[int] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., actor_id: _Optional[str] = ..., emitter: _Optional[str] = ...) -> None: ...

class CorrectUsageResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: UsageResult
    def __init__(self, result: _Optional[_Union[UsageResult, _Mapping]] = ...) -> None: ...

class ReserveRequest(_message.Message):
    __slots__ = ("tenant_id", "feature", "reservation_id", "quantity", "ttl", "subject", "correlation_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    feature: str
    reservation_id: str
    quantity: int
    ttl: _duration_pb2.Duration
    subject: str
    correlation_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., feature: _Optional[str] = ..., reservation_id: _Optional[str] = ..., quantity: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., subject: _Optional[str] = ..., correlation_id: _Optional[str] = ...) -> None: ...

class ReserveResponse(_message.Message):
    __slots__ = ("held", "expires_at", "remaining", "decision")
    HELD_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    held: bool
    expires_at: _timestamp_pb2.Timestamp
    remaining: int
    decision: _decision_pb2.Decision
    def __init__(self, held: _Optional[bool] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., remaining: _Optional[int] = ..., decision: _Optional[_Union[_decision_pb2.Decision, _Mapping]] = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("tenant_id", "reservation_id", "quantity", "dimensions")
    class DimensionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    reservation_id: str
    quantity: int
    dimensions: _containers.ScalarMap[str, str]
    def __init__(self, tenant_id: _Optional[str] = ..., reservation_id: _Optional[str] = ..., quantity: _Optional[int] = ..., dimensions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SettleResponse(_message.Message):
    __slots__ = ("result", "returned", "overage", "pending")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    result: UsageResult
    returned: int
    overage: int
    pending: bool
    def __init__(self, result: _Optional[_Union[UsageResult, _Mapping]] = ..., returned: _Optional[int] = ..., overage: _Optional[int] = ..., pending: _Optional[bool] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("tenant_id", "reservation_id", "consumption_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    CONSUMPTION_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    reservation_id: str
    consumption_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., reservation_id: _Optional[str] = ..., consumption_id: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("returned",)
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    returned: int
    def __init__(self, returned: _Optional[int] = ...) -> None: ...

class IngestBatchRequest(_message.Message):
    __slots__ = ("instance", "epoch", "batch_id", "events", "accepted_total", "dead_total", "declared")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DEAD_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DECLARED_FIELD_NUMBER: _ClassVar[int]
    instance: str
    epoch: int
    batch_id: int
    events: _containers.RepeatedCompositeFieldContainer[SequencedEvent]
    accepted_total: int
    dead_total: int
    declared: _containers.RepeatedCompositeFieldContainer[SequenceRange]
    def __init__(self, instance: _Optional[str] = ..., epoch: _Optional[int] = ..., batch_id: _Optional[int] = ..., events: _Optional[_Iterable[_Union[SequencedEvent, _Mapping]]] = ..., accepted_total: _Optional[int] = ..., dead_total: _Optional[int] = ..., declared: _Optional[_Iterable[_Union[SequenceRange, _Mapping]]] = ...) -> None: ...

class SequenceRange(_message.Message):
    __slots__ = ("first", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class SequencedEvent(_message.Message):
    __slots__ = ("sequence", "event")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    event: UsageEvent
    def __init__(self, sequence: _Optional[int] = ..., event: _Optional[_Union[UsageEvent, _Mapping]] = ...) -> None: ...

class IngestBatchResponse(_message.Message):
    __slots__ = ("results", "slow_down", "missing")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SLOW_DOWN_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[UsageResult]
    slow_down: _duration_pb2.Duration
    missing: _containers.RepeatedCompositeFieldContainer[SequenceRange]
    def __init__(self, results: _Optional[_Iterable[_Union[UsageResult, _Mapping]]] = ..., slow_down: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., missing: _Optional[_Iterable[_Union[SequenceRange, _Mapping]]] = ...) -> None: ...
