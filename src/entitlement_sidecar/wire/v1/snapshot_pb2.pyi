import datetime

from entitlement_sidecar.wire.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PayloadKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAYLOAD_KIND_UNSPECIFIED: _ClassVar[PayloadKind]
    PAYLOAD_KIND_SNAPSHOT: _ClassVar[PayloadKind]
    PAYLOAD_KIND_CATALOGUE: _ClassVar[PayloadKind]
    PAYLOAD_KIND_HEARTBEAT: _ClassVar[PayloadKind]

class SubscriptionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUBSCRIPTION_STATE_UNSPECIFIED: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_TRIALING: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_ACTIVE: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_GRACE: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_SUSPENDED: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_ENDED: _ClassVar[SubscriptionState]

class GrantEffect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRANT_EFFECT_UNSPECIFIED: _ClassVar[GrantEffect]
    GRANT_EFFECT_ADD: _ClassVar[GrantEffect]
    GRANT_EFFECT_SET: _ClassVar[GrantEffect]
    GRANT_EFFECT_DENY: _ClassVar[GrantEffect]

class BreakGlassAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BREAK_GLASS_ACTION_UNSPECIFIED: _ClassVar[BreakGlassAction]
    BREAK_GLASS_ACTION_OPEN: _ClassVar[BreakGlassAction]
    BREAK_GLASS_ACTION_FREEZE: _ClassVar[BreakGlassAction]
PAYLOAD_KIND_UNSPECIFIED: PayloadKind
PAYLOAD_KIND_SNAPSHOT: PayloadKind
PAYLOAD_KIND_CATALOGUE: PayloadKind
PAYLOAD_KIND_HEARTBEAT: PayloadKind
SUBSCRIPTION_STATE_UNSPECIFIED: SubscriptionState
SUBSCRIPTION_STATE_TRIALING: SubscriptionState
SUBSCRIPTION_STATE_ACTIVE: SubscriptionState
SUBSCRIPTION_STATE_GRACE: SubscriptionState
SUBSCRIPTION_STATE_SUSPENDED: SubscriptionState
SUBSCRIPTION_STATE_ENDED: SubscriptionState
GRANT_EFFECT_UNSPECIFIED: GrantEffect
GRANT_EFFECT_ADD: GrantEffect
GRANT_EFFECT_SET: GrantEffect
GRANT_EFFECT_DENY: GrantEffect
BREAK_GLASS_ACTION_UNSPECIFIED: BreakGlassAction
BREAK_GLASS_ACTION_OPEN: BreakGlassAction
BREAK_GLASS_ACTION_FREEZE: BreakGlassAction

class SignedEnvelope(_message.Message):
    __slots__ = ("kind", "tenant_id", "version", "compiled_at_us", "payload", "key_id", "signature")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COMPILED_AT_US_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    kind: PayloadKind
    tenant_id: str
    version: int
    compiled_at_us: int
    payload: bytes
    key_id: str
    signature: bytes
    def __init__(self, kind: _Optional[_Union[PayloadKind, int, str]] = ..., tenant_id: _Optional[str] = ..., version: _Optional[int] = ..., compiled_at_us: _Optional[int] = ..., payload: _Optional[bytes] = ..., key_id: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Phase(_message.Message):
    __slots__ = ("state", "until")
    STATE_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    state: SubscriptionState
    until: _timestamp_pb2.Timestamp
    def __init__(self, state: _Optional[_Union[SubscriptionState, int, str]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., **kwargs) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("id", "plan", "plan_version", "phases")
    ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PLAN_VERSION_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    id: str
    plan: str
    plan_version: int
    phases: _containers.RepeatedCompositeFieldContainer[Phase]
    def __init__(self, id: _Optional[str] = ..., plan: _Optional[str] = ..., plan_version: _Optional[int] = ..., phases: _Optional[_Iterable[_Union[Phase, _Mapping]]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("feature", "effect", "provenance", "subscription_id", "effective_from", "effective_until", "enabled", "value_json", "limits", "priority", "reason")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_FROM_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    feature: str
    effect: GrantEffect
    provenance: _types_pb2.Provenance
    subscription_id: str
    effective_from: _timestamp_pb2.Timestamp
    effective_until: _timestamp_pb2.Timestamp
    enabled: bool
    value_json: str
    limits: _containers.RepeatedCompositeFieldContainer[_types_pb2.Limit]
    priority: int
    reason: str
    def __init__(self, feature: _Optional[str] = ..., effect: _Optional[_Union[GrantEffect, int, str]] = ..., provenance: _Optional[_Union[_types_pb2.Provenance, _Mapping]] = ..., subscription_id: _Optional[str] = ..., effective_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., effective_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., enabled: _Optional[bool] = ..., value_json: _Optional[str] = ..., limits: _Optional[_Iterable[_Union[_types_pb2.Limit, _Mapping]]] = ..., priority: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("tenant_id", "version", "compiled_at", "catalogue_version", "subscriptions", "grants")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COMPILED_AT_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    version: int
    compiled_at: _timestamp_pb2.Timestamp
    catalogue_version: int
    subscriptions: _containers.RepeatedCompositeFieldContainer[Subscription]
    grants: _containers.RepeatedCompositeFieldContainer[Grant]
    def __init__(self, tenant_id: _Optional[str] = ..., version: _Optional[int] = ..., compiled_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., catalogue_version: _Optional[int] = ..., subscriptions: _Optional[_Iterable[_Union[Subscription, _Mapping]]] = ..., grants: _Optional[_Iterable[_Union[Grant, _Mapping]]] = ...) -> None: ...

class BreakGlass(_message.Message):
    __slots__ = ("id", "action", "feature", "tenant_id", "since", "until", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    action: BreakGlassAction
    feature: str
    tenant_id: str
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    reason: str
    def __init__(self, id: _Optional[str] = ..., action: _Optional[_Union[BreakGlassAction, int, str]] = ..., feature: _Optional[str] = ..., tenant_id: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class CatalogueDocument(_message.Message):
    __slots__ = ("version", "features", "metrics", "feed_shards", "break_glass", "emitters", "rules", "task_metrics")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    FEED_SHARDS_FIELD_NUMBER: _ClassVar[int]
    BREAK_GLASS_FIELD_NUMBER: _ClassVar[int]
    EMITTERS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    TASK_METRICS_FIELD_NUMBER: _ClassVar[int]
    version: int
    features: _containers.RepeatedCompositeFieldContainer[_types_pb2.Feature]
    metrics: _containers.RepeatedCompositeFieldContainer[_types_pb2.Metric]
    feed_shards: int
    break_glass: _containers.RepeatedCompositeFieldContainer[BreakGlass]
    emitters: _containers.RepeatedCompositeFieldContainer[_types_pb2.Emitter]
    rules: _containers.RepeatedCompositeFieldContainer[_types_pb2.UsageRule]
    task_metrics: _types_pb2.TaskMetrics
    def __init__(self, version: _Optional[int] = ..., features: _Optional[_Iterable[_Union[_types_pb2.Feature, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[_types_pb2.Metric, _Mapping]]] = ..., feed_shards: _Optional[int] = ..., break_glass: _Optional[_Iterable[_Union[BreakGlass, _Mapping]]] = ..., emitters: _Optional[_Iterable[_Union[_types_pb2.Emitter, _Mapping]]] = ..., rules: _Optional[_Iterable[_Union[_types_pb2.UsageRule, _Mapping]]] = ..., task_metrics: _Optional[_Union[_types_pb2.TaskMetrics, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("epoch", "shard", "sequence", "true_at")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TRUE_AT_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    shard: int
    sequence: int
    true_at: _timestamp_pb2.Timestamp
    def __init__(self, epoch: _Optional[str] = ..., shard: _Optional[int] = ..., sequence: _Optional[int] = ..., true_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SigningKey(_message.Message):
    __slots__ = ("key_id", "public_key")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    public_key: bytes
    def __init__(self, key_id: _Optional[str] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class GetSnapshotRequest(_message.Message):
    __slots__ = ("tenant_id", "min_version")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    min_version: int
    def __init__(self, tenant_id: _Optional[str] = ..., min_version: _Optional[int] = ...) -> None: ...

class GetSnapshotResponse(_message.Message):
    __slots__ = ("snapshot", "true_at")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    TRUE_AT_FIELD_NUMBER: _ClassVar[int]
    snapshot: SignedEnvelope
    true_at: _timestamp_pb2.Timestamp
    def __init__(self, snapshot: _Optional[_Union[SignedEnvelope, _Mapping]] = ..., true_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class HeldVersion(_message.Message):
    __slots__ = ("tenant_id", "version")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    version: int
    def __init__(self, tenant_id: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ConfirmSnapshotsRequest(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: _containers.RepeatedCompositeFieldContainer[HeldVersion]
    def __init__(self, held: _Optional[_Iterable[_Union[HeldVersion, _Mapping]]] = ...) -> None: ...

class ConfirmSnapshotsResponse(_message.Message):
    __slots__ = ("outdated_tenant_ids", "unknown_tenant_ids", "true_at")
    OUTDATED_TENANT_IDS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_TENANT_IDS_FIELD_NUMBER: _ClassVar[int]
    TRUE_AT_FIELD_NUMBER: _ClassVar[int]
    outdated_tenant_ids: _containers.RepeatedScalarFieldContainer[str]
    unknown_tenant_ids: _containers.RepeatedScalarFieldContainer[str]
    true_at: _timestamp_pb2.Timestamp
    def __init__(self, outdated_tenant_ids: _Optional[_Iterable[str]] = ..., unknown_tenant_ids: _Optional[_Iterable[str]] = ..., true_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetCatalogueRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCatalogueResponse(_message.Message):
    __slots__ = ("catalogue", "keys")
    CATALOGUE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    catalogue: SignedEnvelope
    keys: _containers.RepeatedCompositeFieldContainer[SigningKey]
    def __init__(self, catalogue: _Optional[_Union[SignedEnvelope, _Mapping]] = ..., keys: _Optional[_Iterable[_Union[SigningKey, _Mapping]]] = ...) -> None: ...

class FeedCursor(_message.Message):
    __slots__ = ("epoch", "sequence")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    sequence: int
    def __init__(self, epoch: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class WatchSnapshotsRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: FeedCursor
    def __init__(self, after: _Optional[_Union[FeedCursor, _Mapping]] = ...) -> None: ...

class WatchSnapshotsResponse(_message.Message):
    __slots__ = ("epoch", "sequence", "snapshot", "catalogue", "heartbeat")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    sequence: int
    snapshot: SignedEnvelope
    catalogue: SignedEnvelope
    heartbeat: SignedEnvelope
    def __init__(self, epoch: _Optional[str] = ..., sequence: _Optional[int] = ..., snapshot: _Optional[_Union[SignedEnvelope, _Mapping]] = ..., catalogue: _Optional[_Union[SignedEnvelope, _Mapping]] = ..., heartbeat: _Optional[_Union[SignedEnvelope, _Mapping]] = ...) -> None: ...
