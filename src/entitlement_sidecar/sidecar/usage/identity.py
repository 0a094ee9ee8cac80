"""Identities of events that their callers did not name (S0.5)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import count

from entitlement_sidecar.domain.usage import derived_event_id
from entitlement_sidecar.wire.v1 import usage_pb2

_MILLISECOND = 1_000_000
_VERSION = 7 << 12
_VARIANT = 0b10 << 62


def generated_event_id() -> str:
    """A fresh identity, ordered by time (UUIDv7, RFC 9562); reporting again counts again."""
    return next(event_ids())


def event_ids() -> Iterator[str]:
    """Fresh identities of one instant (UUIDv7, RFC 9562): the first by chance, each next one after it."""
    milliseconds, rest = divmod(time.time_ns(), _MILLISECOND)
    # The 12 bits after the version hold the fraction of the millisecond (method 3 of section 6.2).
    fraction = (rest << 12) // _MILLISECOND
    instant = f"{milliseconds:012x}"
    beginning = f"{instant[:8]}-{instant[8:]}-{_VERSION | fraction:04x}-"
    # The sum stays below 2**62: as many identities as anybody makes in one turn are left above it.
    chance = _VARIANT | random.getrandbits(61)
    for number in count(chance):
        text = f"{number:016x}"
        yield f"{beginning}{text[:4]}-{text[4:]}"


def identity(
    message: usage_pb2.UsageEvent, occurred_at: datetime | None, repeats: Counter[str]
) -> tuple[str, bool]:
    """An id for an event that has none, and whether it is not safe to send again.

    Args:
        message: The event.
        occurred_at: When its caller says that it happened; None where none is said.
        repeats: Counts equal facts of the call, which are told apart by their ordinal.
    """
    if occurred_at is None or not message.correlation_id:
        return generated_event_id(), True
    first = _derived(message, occurred_at, 0)
    repeats[first] += 1
    return (first if repeats[first] == 1 else _derived(message, occurred_at, repeats[first] - 1)), False


def _derived(message: usage_pb2.UsageEvent, occurred_at: datetime, ordinal: int) -> str:
    return derived_event_id(
        tenant_id=message.tenant_id,
        metric=message.metric,
        correlation_id=message.correlation_id,
        occurred_at=occurred_at,
        subject=message.subject,
        emitter=message.emitter,
        dimensions=dict(message.dimensions),
        ordinal=ordinal,
    )
