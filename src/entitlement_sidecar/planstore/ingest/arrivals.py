"""From what a sidecar sent to what the ledger takes. Sidecars judge too; nothing is taken on trust."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from operator import attrgetter

from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.wire.codec import event_from_proto
from entitlement_sidecar.wire.fields import (
    KEY_FORM,
    MAX_NAME,
    MAX_REQUEST_ID,
    TENANT_FORM,
    dimension_problems,
    expected,
    is_key,
    is_tenant,
)
from entitlement_sidecar.wire.v1 import usage_pb2

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(3000, 1, 1, tzinfo=UTC)
"""Instants outside are mistakes, and have no windows."""

_FIRST_SECOND, _LAST_SECOND = int(EARLIEST.timestamp()), int(LATEST.timestamp())

_LONGEST = (
    ("id", MAX_REQUEST_ID),
    ("unit", MAX_NAME),
    ("actor_id", MAX_NAME),
    ("correlation_id", MAX_NAME),
    ("emitter", MAX_NAME),
    ("subject", MAX_NAME),
    ("recorded_by", MAX_NAME),
    ("consumption_id", MAX_REQUEST_ID),
    ("feature", MAX_NAME),
    ("lease_id", MAX_NAME),
    ("corrects", MAX_REQUEST_ID),
    ("reason", MAX_NAME),
)

_SHORTEST_BOUND = min(longest for _, longest in _LONGEST)
_texts = attrgetter(*(field for field, _ in _LONGEST))


def read_arrival(
    request: usage_pb2.IngestBatchRequest, item: usage_pb2.SequencedEvent
) -> Arrival | UsageResult:
    """An event for the ledger, or INVALID with the field and what would be right."""
    try:
        problem = next(_problems(item.event), "")
        if not problem:
            event = event_from_proto(item.event)
            return Arrival(event, request.instance, request.epoch, item.sequence, item.event)
    except (ValueError, OverflowError) as error:
        problem = f"event: {error}"
    return UsageResult(item.event.id, UsageOutcome.INVALID, problem, rule=RuleName.MALFORMED)


def _problems(message: usage_pb2.UsageEvent) -> Iterator[str]:
    if not message.id:
        yield "id: required; the sidecar gives one to each event"
    if not is_tenant(message.tenant_id):
        yield f"tenant_id: {expected(TENANT_FORM, message.tenant_id)}"
    # A correction is of its original's metric.
    if not is_key(message.metric) and (message.metric or not message.corrects):
        yield f"metric: {expected(KEY_FORM, message.metric)}"
    if not 0 <= message.value <= MAX_QUANTITY:
        yield f"value: {expected(f'0 to {MAX_QUANTITY}', message.value)}"
    if not 0 <= message.count <= MAX_QUANTITY:
        yield f"count: {expected(f'0 to {MAX_QUANTITY}', message.count)}"
    texts = _texts(message)
    if max(map(len, texts)) > _SHORTEST_BOUND or "\0" in "".join(texts):
        yield from _text_problems(texts)
    yield from _instant_problems(message)
    for field, problem in dimension_problems(message.dimensions):
        yield f"{field}: {problem}"


def _text_problems(texts: tuple[str, ...]) -> Iterator[str]:
    for (field, longest), text in zip(_LONGEST, texts, strict=True):
        if len(text) > longest or "\0" in text:
            yield f"{field}: expected at most {longest} characters, none of them NUL"


def _instant_problems(message: usage_pb2.UsageEvent) -> Iterator[str]:
    for field in ("occurred_at", "recorded_at"):
        if not (message.HasField(field) and _has_windows(getattr(message, field))):
            yield f"{field}: expected an instant from {EARLIEST:%Y} to {LATEST:%Y}"


def _has_windows(stamp: Timestamp) -> bool:
    return _FIRST_SECOND <= stamp.seconds < _LAST_SECOND
