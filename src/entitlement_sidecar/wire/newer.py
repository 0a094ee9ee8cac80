"""What a newer writer of the contract may have sent that this version has no name for."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from google.protobuf.message import Message

from entitlement_sidecar.domain.window import WindowSpec, WindowUnit, zone_exists
from entitlement_sidecar.wire.codec import window_from_proto
from entitlement_sidecar.wire.v1 import types_pb2

_Enum = TypeVar("_Enum", bound=IntEnum)


def named(kind: type[_Enum], number: int) -> _Enum | None:
    """The value of a number; None for those of a newer contract, and for the one that is never sent."""
    try:
        return kind(number) if number else None
    except ValueError:
        return None


def is_whole(message: Message) -> bool:
    """Whether a message, with all inside it, has only fields that this version knows."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known.ByteSize() == message.ByteSize()


def understands(kind: type[_Enum], number: int) -> bool:
    """Whether a choice has a name here; one that is not made has its default."""
    return not number or named(kind, number) is not None


def known_window(message: types_pb2.WindowSpec) -> WindowSpec | None:
    """A window; None where its unit or zone is not known here."""
    if named(WindowUnit, message.unit) is None or not zone_exists(message.zone or "UTC"):
        return None
    return window_from_proto(message)
