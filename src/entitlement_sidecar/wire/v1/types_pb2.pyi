import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FeatureKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_KIND_UNSPECIFIED: _ClassVar[FeatureKind]
    FEATURE_KIND_BOOLEAN: _ClassVar[FeatureKind]
    FEATURE_KIND_CONFIG: _ClassVar[FeatureKind]
    FEATURE_KIND_METERED: _ClassVar[FeatureKind]
    FEATURE_KIND_SEATS: _ClassVar[FeatureKind]
    FEATURE_KIND_CREDITS: _ClassVar[FeatureKind]

class WindowUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WINDOW_UNIT_UNSPECIFIED: _ClassVar[WindowUnit]
    WINDOW_UNIT_MINUTE: _ClassVar[WindowUnit]
    WINDOW_UNIT_HOUR: _ClassVar[WindowUnit]
    WINDOW_UNIT_DAY: _ClassVar[WindowUnit]
    WINDOW_UNIT_WEEK: _ClassVar[WindowUnit]
    WINDOW_UNIT_MONTH: _ClassVar[WindowUnit]
    WINDOW_UNIT_QUARTER: _ClassVar[WindowUnit]
    WINDOW_UNIT_YEAR: _ClassVar[WindowUnit]
    WINDOW_UNIT_BILLING_CYCLE: _ClassVar[WindowUnit]
    WINDOW_UNIT_LIFETIME: _ClassVar[WindowUnit]

class LimitMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_MODE_UNSPECIFIED: _ClassVar[LimitMode]
    LIMIT_MODE_STRICT: _ClassVar[LimitMode]
    LIMIT_MODE_LEASED: _ClassVar[LimitMode]
    LIMIT_MODE_LOCAL_DENY: _ClassVar[LimitMode]
    LIMIT_MODE_OPTIMISTIC: _ClassVar[LimitMode]

class OnHolderLoss(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_HOLDER_LOSS_UNSPECIFIED: _ClassVar[OnHolderLoss]
    ON_HOLDER_LOSS_FORFEIT: _ClassVar[OnHolderLoss]
    ON_HOLDER_LOSS_RECLAIM: _ClassVar[OnHolderLoss]

class ProvenanceKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROVENANCE_KIND_UNSPECIFIED: _ClassVar[ProvenanceKind]
    PROVENANCE_KIND_PLAN: _ClassVar[ProvenanceKind]
    PROVENANCE_KIND_ADD_ON: _ClassVar[ProvenanceKind]
    PROVENANCE_KIND_OVERRIDE: _ClassVar[ProvenanceKind]
    PROVENANCE_KIND_TRIAL: _ClassVar[ProvenanceKind]
    PROVENANCE_KIND_GRACE: _ClassVar[ProvenanceKind]
    PROVENANCE_KIND_CREDIT_GRANT: _ClassVar[ProvenanceKind]
    PROVENANCE_KIND_BREAK_GLASS: _ClassVar[ProvenanceKind]

class WhenUnknown(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WHEN_UNKNOWN_UNSPECIFIED: _ClassVar[WhenUnknown]
    WHEN_UNKNOWN_ALLOW: _ClassVar[WhenUnknown]
    WHEN_UNKNOWN_DENY: _ClassVar[WhenUnknown]
    WHEN_UNKNOWN_ALLOWANCE: _ClassVar[WhenUnknown]
    WHEN_UNKNOWN_VALUE: _ClassVar[WhenUnknown]

class AfterStale(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AFTER_STALE_UNSPECIFIED: _ClassVar[AfterStale]
    AFTER_STALE_LAST_KNOWN: _ClassVar[AfterStale]
    AFTER_STALE_DENY: _ClassVar[AfterStale]

class Aggregation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGGREGATION_UNSPECIFIED: _ClassVar[Aggregation]
    AGGREGATION_SUM: _ClassVar[Aggregation]
    AGGREGATION_MAX: _ClassVar[Aggregation]
    AGGREGATION_LAST: _ClassVar[Aggregation]
    AGGREGATION_UNIQUE_COUNT: _ClassVar[Aggregation]

class Classification(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLASSIFICATION_UNSPECIFIED: _ClassVar[Classification]
    CLASSIFICATION_BILLABLE: _ClassVar[Classification]
    CLASSIFICATION_NON_BILLABLE: _ClassVar[Classification]
    CLASSIFICATION_INFORMATIONAL: _ClassVar[Classification]

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_DURABLE: _ClassVar[Durability]
    DURABILITY_BUFFERED: _ClassVar[Durability]

class Granularity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRANULARITY_UNSPECIFIED: _ClassVar[Granularity]
    GRANULARITY_EVENT: _ClassVar[Granularity]
    GRANULARITY_ROLLUP: _ClassVar[Granularity]

class WhenFull(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WHEN_FULL_UNSPECIFIED: _ClassVar[WhenFull]
    WHEN_FULL_REFUSE: _ClassVar[WhenFull]
    WHEN_FULL_BLOCK: _ClassVar[WhenFull]
    WHEN_FULL_ALLOW_UNMETERED: _ClassVar[WhenFull]

class AfterClose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AFTER_CLOSE_UNSPECIFIED: _ClassVar[AfterClose]
    AFTER_CLOSE_ADJUST: _ClassVar[AfterClose]
    AFTER_CLOSE_REFUSE: _ClassVar[AfterClose]

class RuleEffect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RULE_EFFECT_UNSPECIFIED: _ClassVar[RuleEffect]
    RULE_EFFECT_NON_BILLABLE: _ClassVar[RuleEffect]
    RULE_EFFECT_REFUSE: _ClassVar[RuleEffect]
FEATURE_KIND_UNSPECIFIED: FeatureKind
FEATURE_KIND_BOOLEAN: FeatureKind
FEATURE_KIND_CONFIG: FeatureKind
FEATURE_KIND_METERED: FeatureKind
FEATURE_KIND_SEATS: FeatureKind
FEATURE_KIND_CREDITS: FeatureKind
WINDOW_UNIT_UNSPECIFIED: WindowUnit
WINDOW_UNIT_MINUTE: WindowUnit
WINDOW_UNIT_HOUR: WindowUnit
WINDOW_UNIT_DAY: WindowUnit
WINDOW_UNIT_WEEK: WindowUnit
WINDOW_UNIT_MONTH: WindowUnit
WINDOW_UNIT_QUARTER: WindowUnit
WINDOW_UNIT_YEAR: WindowUnit
WINDOW_UNIT_BILLING_CYCLE: WindowUnit
WINDOW_UNIT_LIFETIME: WindowUnit
LIMIT_MODE_UNSPECIFIED: LimitMode
LIMIT_MODE_STRICT: LimitMode
LIMIT_MODE_LEASED: LimitMode
LIMIT_MODE_LOCAL_DENY: LimitMode
LIMIT_MODE_OPTIMISTIC: LimitMode
ON_HOLDER_LOSS_UNSPECIFIED: OnHolderLoss
ON_HOLDER_LOSS_FORFEIT: OnHolderLoss
ON_HOLDER_LOSS_RECLAIM: OnHolderLoss
PROVENANCE_KIND_UNSPECIFIED: ProvenanceKind
PROVENANCE_KIND_PLAN: ProvenanceKind
PROVENANCE_KIND_ADD_ON: ProvenanceKind
PROVENANCE_KIND_OVERRIDE: ProvenanceKind
PROVENANCE_KIND_TRIAL: ProvenanceKind
PROVENANCE_KIND_GRACE: ProvenanceKind
PROVENANCE_KIND_CREDIT_GRANT: ProvenanceKind
PROVENANCE_KIND_BREAK_GLASS: ProvenanceKind
WHEN_UNKNOWN_UNSPECIFIED: WhenUnknown
WHEN_UNKNOWN_ALLOW: WhenUnknown
WHEN_UNKNOWN_DENY: WhenUnknown
WHEN_UNKNOWN_ALLOWANCE: WhenUnknown
WHEN_UNKNOWN_VALUE: WhenUnknown
AFTER_STALE_UNSPECIFIED: AfterStale
AFTER_STALE_LAST_KNOWN: AfterStale
AFTER_STALE_DENY: AfterStale
AGGREGATION_UNSPECIFIED: Aggregation
AGGREGATION_SUM: Aggregation
AGGREGATION_MAX: Aggregation
AGGREGATION_LAST: Aggregation
AGGREGATION_UNIQUE_COUNT: Aggregation
CLASSIFICATION_UNSPECIFIED: Classification
CLASSIFICATION_BILLABLE: Classification
CLASSIFICATION_NON_BILLABLE: Classification
CLASSIFICATION_INFORMATIONAL: Classification
DURABILITY_UNSPECIFIED: Durability
DURABILITY_DURABLE: Durability
DURABILITY_BUFFERED: Durability
GRANULARITY_UNSPECIFIED: Granularity
GRANULARITY_EVENT: Granularity
GRANULARITY_ROLLUP: Granularity
WHEN_FULL_UNSPECIFIED: WhenFull
WHEN_FULL_REFUSE: WhenFull
WHEN_FULL_BLOCK: WhenFull
WHEN_FULL_ALLOW_UNMETERED: WhenFull
AFTER_CLOSE_UNSPECIFIED: AfterClose
AFTER_CLOSE_ADJUST: AfterClose
AFTER_CLOSE_REFUSE: AfterClose
RULE_EFFECT_UNSPECIFIED: RuleEffect
RULE_EFFECT_NON_BILLABLE: RuleEffect
RULE_EFFECT_REFUSE: RuleEffect

class WindowSpec(_message.Message):
    __slots__ = ("unit", "zone", "week_start", "anchor")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    WEEK_START_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    unit: WindowUnit
    zone: str
    week_start: int
    anchor: _timestamp_pb2.Timestamp
    def __init__(self, unit: _Optional[_Union[WindowUnit, int, str]] = ..., zone: _Optional[str] = ..., week_start: _Optional[int] = ..., anchor: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("key", "amount", "soft", "window", "carry_over_cap", "overage_price", "mode", "on_holder_loss")
    KEY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    CARRY_OVER_CAP_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_PRICE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ON_HOLDER_LOSS_FIELD_NUMBER: _ClassVar[int]
    key: str
    amount: int
    soft: bool
    window: WindowSpec
    carry_over_cap: int
    overage_price: str
    mode: LimitMode
    on_holder_loss: OnHolderLoss
    def __init__(self, key: _Optional[str] = ..., amount: _Optional[int] = ..., soft: _Optional[bool] = ..., window: _Optional[_Union[WindowSpec, _Mapping]] = ..., carry_over_cap: _Optional[int] = ..., overage_price: _Optional[str] = ..., mode: _Optional[_Union[LimitMode, int, str]] = ..., on_holder_loss: _Optional[_Union[OnHolderLoss, int, str]] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("kind", "id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    kind: ProvenanceKind
    id: str
    def __init__(self, kind: _Optional[_Union[ProvenanceKind, int, str]] = ..., id: _Optional[str] = ...) -> None: ...

class OutagePolicy(_message.Message):
    __slots__ = ("serve_stale_for", "after_stale", "when_unknown", "allowance", "allowance_window", "value_json")
    SERVE_STALE_FOR_FIELD_NUMBER: _ClassVar[int]
    AFTER_STALE_FIELD_NUMBER: _ClassVar[int]
    WHEN_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_WINDOW_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    serve_stale_for: _duration_pb2.Duration
    after_stale: AfterStale
    when_unknown: WhenUnknown
    allowance: int
    allowance_window: WindowSpec
    value_json: str
    def __init__(self, serve_stale_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., after_stale: _Optional[_Union[AfterStale, int, str]] = ..., when_unknown: _Optional[_Union[WhenUnknown, int, str]] = ..., allowance: _Optional[int] = ..., allowance_window: _Optional[_Union[WindowSpec, _Mapping]] = ..., value_json: _Optional[str] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("key", "kind", "metric", "placement", "deprecated", "obligations", "outage", "title")
    KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    DEPRECATED_FIELD_NUMBER: _ClassVar[int]
    OBLIGATIONS_FIELD_NUMBER: _ClassVar[int]
    OUTAGE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    key: str
    kind: FeatureKind
    metric: str
    placement: bool
    deprecated: bool
    obligations: Obligations
    outage: OutagePolicy
    title: str
    def __init__(self, key: _Optional[str] = ..., kind: _Optional[_Union[FeatureKind, int, str]] = ..., metric: _Optional[str] = ..., placement: _Optional[bool] = ..., deprecated: _Optional[bool] = ..., obligations: _Optional[_Union[Obligations, _Mapping]] = ..., outage: _Optional[_Union[OutagePolicy, _Mapping]] = ..., title: _Optional[str] = ...) -> None: ...

class Obligations(_message.Message):
    __slots__ = ("evaluation_required", "governance_required")
    EVALUATION_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    GOVERNANCE_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    evaluation_required: bool
    governance_required: bool
    def __init__(self, evaluation_required: _Optional[bool] = ..., governance_required: _Optional[bool] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("key", "domain", "unit", "aggregation", "window", "classification", "feature", "durability", "granularity", "terminal", "counts_to_quota", "when_full", "max_age", "max_future", "close_after", "after_close")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    GRANULARITY_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    COUNTS_TO_QUOTA_FIELD_NUMBER: _ClassVar[int]
    WHEN_FULL_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_FIELD_NUMBER: _ClassVar[int]
    MAX_FUTURE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_AFTER_FIELD_NUMBER: _ClassVar[int]
    AFTER_CLOSE_FIELD_NUMBER: _ClassVar[int]
    key: str
    domain: str
    unit: str
    aggregation: Aggregation
    window: WindowSpec
    classification: Classification
    feature: str
    durability: Durability
    granularity: Granularity
    terminal: bool
    counts_to_quota: bool
    when_full: WhenFull
    max_age: _duration_pb2.Duration
    max_future: _duration_pb2.Duration
    close_after: _duration_pb2.Duration
    after_close: AfterClose
    def __init__(self, key: _Optional[str] = ..., domain: _Optional[str] = ..., unit: _Optional[str] = ..., aggregation: _Optional[_Union[Aggregation, int, str]] = ..., window: _Optional[_Union[WindowSpec, _Mapping]] = ..., classification: _Optional[_Union[Classification, int, str]] = ..., feature: _Optional[str] = ..., durability: _Optional[_Union[Durability, int, str]] = ..., granularity: _Optional[_Union[Granularity, int, str]] = ..., terminal: _Optional[bool] = ..., counts_to_quota: _Optional[bool] = ..., when_full: _Optional[_Union[WhenFull, int, str]] = ..., max_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_future: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., close_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., after_close: _Optional[_Union[AfterClose, int, str]] = ...) -> None: ...

class Emitter(_message.Message):
    __slots__ = ("key", "metrics", "external")
    KEY_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    key: str
    metrics: _containers.RepeatedScalarFieldContainer[str]
    external: bool
    def __init__(self, key: _Optional[str] = ..., metrics: _Optional[_Iterable[str]] = ..., external: _Optional[bool] = ...) -> None: ...

class UsageRule(_message.Message):
    __slots__ = ("key", "metrics", "domains", "conditions", "effect", "title")
    KEY_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    DOMAINS_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    key: str
    metrics: _containers.RepeatedScalarFieldContainer[str]
    domains: _containers.RepeatedScalarFieldContainer[str]
    conditions: _containers.RepeatedCompositeFieldContainer[RuleCondition]
    effect: RuleEffect
    title: str
    def __init__(self, key: _Optional[str] = ..., metrics: _Optional[_Iterable[str]] = ..., domains: _Optional[_Iterable[str]] = ..., conditions: _Optional[_Iterable[_Union[RuleCondition, _Mapping]]] = ..., effect: _Optional[_Union[RuleEffect, int, str]] = ..., title: _Optional[str] = ...) -> None: ...

class RuleCondition(_message.Message):
    __slots__ = ("attribute", "values")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, attribute: _Optional[str] = ..., values: _Optional[_Iterable[str]] = ...) -> None: ...

class TaskMetrics(_message.Message):
    __slots__ = ("task", "input_tokens", "output_tokens", "compute_ms")
    TASK_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    task: str
    input_tokens: str
    output_tokens: str
    compute_ms: str
    def __init__(self, task: _Optional[str] = ..., input_tokens: _Optional[str] = ..., output_tokens: _Optional[str] = ..., compute_ms: _Optional[str] = ...) -> None: ...
