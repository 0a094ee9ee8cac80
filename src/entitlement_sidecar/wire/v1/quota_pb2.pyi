import datetime

from entitlement_sidecar.wire.v1 import decision_pb2 as _decision_pb2
from entitlement_sidecar.wire.v1 import usage_pb2 as _usage_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Holder(_message.Message):
    __slots__ = ("instance", "epoch")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    instance: str
    epoch: int
    def __init__(self, instance: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class LimitUsage(_message.Message):
    __slots__ = ("key", "amount", "soft", "window_start", "reset_at", "used", "outstanding", "carried", "taken", "holds")
    KEY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_START_FIELD_NUMBER: _ClassVar[int]
    RESET_AT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    CARRIED_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    key: str
    amount: int
    soft: bool
    window_start: _timestamp_pb2.Timestamp
    reset_at: _timestamp_pb2.Timestamp
    used: int
    outstanding: int
    carried: int
    taken: int
    holds: bool
    def __init__(self, key: _Optional[str] = ..., amount: _Optional[int] = ..., soft: _Optional[bool] = ..., window_start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reset_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., used: _Optional[int] = ..., outstanding: _Optional[int] = ..., carried: _Optional[int] = ..., taken: _Optional[int] = ..., holds: _Optional[bool] = ...) -> None: ...

class ConsumeRequest(_message.Message):
    __slots__ = ("tenant_id", "feature", "quantity", "request_id", "holder", "subject")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    feature: str
    quantity: int
    request_id: str
    holder: Holder
    subject: str
    def __init__(self, tenant_id: _Optional[str] = ..., feature: _Optional[str] = ..., quantity: _Optional[int] = ..., request_id: _Optional[str] = ..., holder: _Optional[_Union[Holder, _Mapping]] = ..., subject: _Optional[str] = ...) -> None: ...

class ConsumeResponse(_message.Message):
    __slots__ = ("admitted", "usage", "snapshot_version", "as_of", "lease_id", "holds")
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    admitted: bool
    usage: _containers.RepeatedCompositeFieldContainer[LimitUsage]
    snapshot_version: int
    as_of: _timestamp_pb2.Timestamp
    lease_id: str
    holds: bool
    def __init__(self, admitted: _Optional[bool] = ..., usage: _Optional[_Iterable[_Union[LimitUsage, _Mapping]]] = ..., snapshot_version: _Optional[int] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lease_id: _Optional[str] = ..., holds: _Optional[bool] = ...) -> None: ...

class ConsumeAllRequest(_message.Message):
    __slots__ = ("tenant_id", "items", "holder")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    items: _containers.RepeatedCompositeFieldContainer[ConsumeRequest]
    holder: Holder
    def __init__(self, tenant_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[ConsumeRequest, _Mapping]]] = ..., holder: _Optional[_Union[Holder, _Mapping]] = ...) -> None: ...

class ConsumeAllResponse(_message.Message):
    __slots__ = ("admitted", "results")
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    admitted: bool
    results: _containers.RepeatedCompositeFieldContainer[ConsumeResponse]
    def __init__(self, admitted: _Optional[bool] = ..., results: _Optional[_Iterable[_Union[ConsumeResponse, _Mapping]]] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("id", "granted", "wants", "ttl", "refresh_after", "ends_at", "usage", "sequence", "closed", "credit_grant")
    ID_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    REFRESH_AFTER_FIELD_NUMBER: _ClassVar[int]
    ENDS_AT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    CREDIT_GRANT_FIELD_NUMBER: _ClassVar[int]
    id: str
    granted: int
    wants: int
    ttl: _duration_pb2.Duration
    refresh_after: _duration_pb2.Duration
    ends_at: _timestamp_pb2.Timestamp
    usage: _containers.RepeatedCompositeFieldContainer[LimitUsage]
    sequence: int
    closed: bool
    credit_grant: str
    def __init__(self, id: _Optional[str] = ..., granted: _Optional[int] = ..., wants: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., refresh_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., ends_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., usage: _Optional[_Iterable[_Union[LimitUsage, _Mapping]]] = ..., sequence: _Optional[int] = ..., closed: _Optional[bool] = ..., credit_grant: _Optional[str] = ...) -> None: ...

class AcquireLeaseRequest(_message.Message):
    __slots__ = ("tenant_id", "feature", "wants", "holder", "request_id", "needs")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    feature: str
    wants: int
    holder: Holder
    request_id: str
    needs: int
    def __init__(self, tenant_id: _Optional[str] = ..., feature: _Optional[str] = ..., wants: _Optional[int] = ..., holder: _Optional[_Union[Holder, _Mapping]] = ..., request_id: _Optional[str] = ..., needs: _Optional[int] = ...) -> None: ...

class AcquireLeaseResponse(_message.Message):
    __slots__ = ("lease", "usage", "snapshot_version")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    usage: _containers.RepeatedCompositeFieldContainer[LimitUsage]
    snapshot_version: int
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., usage: _Optional[_Iterable[_Union[LimitUsage, _Mapping]]] = ..., snapshot_version: _Optional[int] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "wants", "used", "holder", "returned", "sequence", "needs")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    wants: int
    used: int
    holder: Holder
    returned: int
    sequence: int
    needs: int
    def __init__(self, lease_id: _Optional[str] = ..., wants: _Optional[int] = ..., used: _Optional[int] = ..., holder: _Optional[_Union[Holder, _Mapping]] = ..., returned: _Optional[int] = ..., sequence: _Optional[int] = ..., needs: _Optional[int] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...

class SettleLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "used", "holder", "returned")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    used: int
    holder: Holder
    returned: int
    def __init__(self, lease_id: _Optional[str] = ..., used: _Optional[int] = ..., holder: _Optional[_Union[Holder, _Mapping]] = ..., returned: _Optional[int] = ...) -> None: ...

class SettleLeaseResponse(_message.Message):
    __slots__ = ("has", "closed")
    HAS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    has: int
    closed: bool
    def __init__(self, has: _Optional[int] = ..., closed: _Optional[bool] = ...) -> None: ...

class ReturnLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "used", "holder")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    used: int
    holder: Holder
    def __init__(self, lease_id: _Optional[str] = ..., used: _Optional[int] = ..., holder: _Optional[_Union[Holder, _Mapping]] = ...) -> None: ...

class ReturnLeaseResponse(_message.Message):
    __slots__ = ("returned",)
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    returned: int
    def __init__(self, returned: _Optional[int] = ...) -> None: ...

class ReportUnadmittedRequest(_message.Message):
    __slots__ = ("tenant_id", "feature", "quantity", "occurred_at", "request_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    feature: str
    quantity: int
    occurred_at: _timestamp_pb2.Timestamp
    request_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., feature: _Optional[str] = ..., quantity: _Optional[int] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ReportUnadmittedResponse(_message.Message):
    __slots__ = ("usage",)
    USAGE_FIELD_NUMBER: _ClassVar[int]
    usage: _containers.RepeatedCompositeFieldContainer[LimitUsage]
    def __init__(self, usage: _Optional[_Iterable[_Union[LimitUsage, _Mapping]]] = ...) -> None: ...

class ReserveQuotaRequest(_message.Message):
    __slots__ = ("reservation",)
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    reservation: _usage_pb2.ReserveRequest
    def __init__(self, reservation: _Optional[_Union[_usage_pb2.ReserveRequest, _Mapping]] = ...) -> None: ...

class ReserveQuotaResponse(_message.Message):
    __slots__ = ("decision", "expires_at")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    decision: _decision_pb2.Decision
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, decision: _Optional[_Union[_decision_pb2.Decision, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SettleReservationRequest(_message.Message):
    __slots__ = ("settlement", "instance")
    SETTLEMENT_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    settlement: _usage_pb2.SettleRequest
    instance: str
    def __init__(self, settlement: _Optional[_Union[_usage_pb2.SettleRequest, _Mapping]] = ..., instance: _Optional[str] = ...) -> None: ...

class SettleReservationResponse(_message.Message):
    __slots__ = ("result", "returned", "overage")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_FIELD_NUMBER: _ClassVar[int]
    result: _usage_pb2.UsageResult
    returned: int
    overage: int
    def __init__(self, result: _Optional[_Union[_usage_pb2.UsageResult, _Mapping]] = ..., returned: _Optional[int] = ..., overage: _Optional[int] = ...) -> None: ...

class ReleaseReservationRequest(_message.Message):
    __slots__ = ("tenant_id", "reservation_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    reservation_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., reservation_id: _Optional[str] = ...) -> None: ...

class ReleaseReservationResponse(_message.Message):
    __slots__ = ("returned",)
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    returned: int
    def __init__(self, returned: _Optional[int] = ...) -> None: ...
