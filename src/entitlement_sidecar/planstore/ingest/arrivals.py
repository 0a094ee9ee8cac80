"""From what a sidecar sent to what the ledger takes. Sidecars judge too; nothing is taken on trust."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.planstore.usage.arrival import EARLIEST, LATEST, LONGEST, Arrival
from entitlement_sidecar.wire.codec import event_from_proto
from entitlement_sidecar.wire.fields import (
    KEY_FORM,
    TENANT_FORM,
    dimension_problems,
    expected,
    is_key,
    is_tenant,
)
from entitlement_sidecar.wire.v1 import usage_pb2

_FIRST_SECOND, _LAST_SECOND = int(EARLIEST.timestamp()), int(LATEST.timestamp())

_SHORTEST_BOUND = min(longest for _, longest in LONGEST)
_texts = attrgetter(*(field for field, _ in LONGEST))


def read_arrival(
    request: usage_pb2.IngestBatchRequest, item: usage_pb2.SequencedEvent
) -> Arrival | UsageResult:
    """An event for the ledger, or INVALID with the field and what would be right."""
    message = item.event
    problem = "" if _has_instants(message) else next(_instant_problems(message))
    if not problem:
        try:
            event = event_from_proto(message)
        except ValueError as error:
            problem = f"event: {error}"
        else:
            problem = next(_problems(event), "")
            if not problem:
                return Arrival(event, request.instance, request.epoch, item.sequence, message)
    return UsageResult(message.id, UsageOutcome.INVALID, problem, rule=RuleName.MALFORMED)


def _has_instants(message: usage_pb2.UsageEvent) -> bool:
    # One that is absent reads as 0 seconds, which is an instant that has windows.
    occurred, recorded = message.occurred_at.seconds, message.recorded_at.seconds
    return (_FIRST_SECOND < occurred < _LAST_SECOND and _FIRST_SECOND < recorded < _LAST_SECOND) or not any(
        _instant_problems(message)
    )


def _problems(event: UsageEvent) -> Iterator[str]:
    if not event.id:
        yield "id: required; the sidecar gives one to each event"
    if not is_tenant(event.tenant_id):
        yield f"tenant_id: {expected(TENANT_FORM, event.tenant_id)}"
    # A correction is of its original's metric, a settlement of its reservation's.
    if not is_key(event.metric) and (event.metric or not (event.corrects or event.settles)):
        yield f"metric: {expected(KEY_FORM, event.metric)}"
    if not 0 <= event.value <= MAX_QUANTITY:
        yield f"value: {expected(f'0 to {MAX_QUANTITY}', event.value)}"
    if not 0 <= event.count <= MAX_QUANTITY:
        yield f"count: {expected(f'0 to {MAX_QUANTITY}', event.count)}"
    texts = _texts(event)
    if max(map(len, texts)) > _SHORTEST_BOUND or "\0" in "".join(texts):
        yield from _text_problems(texts)
    if event.dimensions:
        for field, problem in dimension_problems(event.dimensions):
            yield f"{field}: {problem}"


def _text_problems(texts: tuple[str, ...]) -> Iterator[str]:
    for (field, longest), text in zip(LONGEST, texts, strict=True):
        if len(text) > longest or "\0" in text:
            yield f"{field}: expected at most {longest} characters, none of them NUL"


def _instant_problems(message: usage_pb2.UsageEvent) -> Iterator[str]:
    for field in ("occurred_at", "recorded_at"):
        if not (message.HasField(field) and _has_windows(getattr(message, field))):
            yield f"{field}: expected an instant from {EARLIEST:%Y} to {LATEST:%Y}"


def _has_windows(stamp: Timestamp) -> bool:
    return _FIRST_SECOND <= stamp.seconds < _LAST_SECOND
