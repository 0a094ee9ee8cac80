from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class CheckResponseFrame(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: bytes
    def __init__(self, decision: _Optional[bytes] = ...) -> None: ...

class BatchRequestFrame(_message.Message):
    __slots__ = ("checks", "atomic")
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    ATOMIC_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedScalarFieldContainer[bytes]
    atomic: bool
    def __init__(self, checks: _Optional[_Iterable[bytes]] = ..., atomic: _Optional[bool] = ...) -> None: ...

class BatchResponseFrame(_message.Message):
    __slots__ = ("results", "consumed")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    CONSUMED_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedScalarFieldContainer[bytes]
    consumed: bool
    def __init__(self, results: _Optional[_Iterable[bytes]] = ..., consumed: _Optional[bool] = ...) -> None: ...
