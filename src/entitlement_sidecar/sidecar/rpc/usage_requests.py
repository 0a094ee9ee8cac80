"""From the contract's tasks and corrections to the sidecar's, with every violation named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.errors import InvalidInputError, Violation
from entitlement_sidecar.sidecar.usage.corrections import Correction
from entitlement_sidecar.sidecar.usage.judging import EARLIEST
from entitlement_sidecar.sidecar.usage.tasks import Task
from entitlement_sidecar.wire.codec import from_timestamp
from entitlement_sidecar.wire.fields import (
    MAX_NAME,
    MAX_REASON,
    MAX_REQUEST_ID,
    TENANT_FORM,
    dimension_problems,
    expected,
    is_tenant,
    is_text,
)
from entitlement_sidecar.wire.v1 import usage_pb2

_AHEAD = timedelta(days=1)
"""An instant further ahead of this sidecar's clock is a mistake; what is less is judged per metric."""

_QUANTITIES = ("input_tokens", "output_tokens", "compute_ms")


def parse_task(message: usage_pb2.RecordTaskRequest, now: datetime) -> Task:
    """A task that can be recorded; `now` is this sidecar's clock.

    Raises:
        InvalidInputError: One or more fields are malformed; all are named.
    """
    _require_none([*_identities(message, "task_id"), *_task_violations(message, now)])
    return Task(
        tenant_id=message.tenant_id,
        task_id=message.task_id,
        input_tokens=message.input_tokens,
        output_tokens=message.output_tokens,
        compute_ms=message.compute_ms,
        occurred_at=from_timestamp(message.occurred_at) if message.HasField("occurred_at") else None,
        subject=message.subject,
        actor_id=message.actor_id,
        emitter=message.emitter,
        dimensions=dict(message.dimensions),
    )


def parse_correction(message: usage_pb2.CorrectUsageRequest) -> Correction:
    """A correction that can be kept.

    Raises:
        InvalidInputError: One or more fields are malformed; all are named.
    """
    wrong = [*_identities(message, "original_id", "request_id"), *_texts(message, "actor_id", "emitter")]
    value = message.value if message.HasField("value") else None
    if value is not None and not 0 <= value <= MAX_QUANTITY:
        wrong.append(Violation("value", expected(f"0 to {MAX_QUANTITY}", value)))
    if not (message.reason and is_text(message.reason, MAX_REASON)):
        description = f"expected why, in 1 to {MAX_REASON} printable characters"
        wrong.append(Violation("reason", description))
    _require_none(wrong)
    return Correction(
        tenant_id=message.tenant_id,
        original_id=message.original_id,
        reason=message.reason,
        request_id=message.request_id,
        value=value,
        actor_id=message.actor_id,
        emitter=message.emitter,
    )


def _require_none(wrong: list[Violation]) -> None:
    if wrong:
        raise InvalidInputError(wrong)


def _identities(message: Message, *fields: str) -> Iterator[Violation]:
    tenant_id: str = getattr(message, "tenant_id")  # noqa: B009 - of either message
    if not is_tenant(tenant_id):
        yield Violation("tenant_id", expected(TENANT_FORM, tenant_id))
    for field in fields:
        text: str = getattr(message, field)
        if not (text and is_text(text, MAX_REQUEST_ID)):
            yield Violation(field, f"required: expected 1 to {MAX_REQUEST_ID} printable characters")


def _texts(message: Message, *fields: str) -> Iterator[Violation]:
    for field in fields:
        text: str = getattr(message, field)
        if not is_text(text, MAX_NAME):
            yield Violation(field, f"expected at most {MAX_NAME} printable characters")


def _task_violations(message: usage_pb2.RecordTaskRequest, now: datetime) -> Iterator[Violation]:
    for field in _QUANTITIES:
        value: int = getattr(message, field)
        if not 0 <= value <= MAX_QUANTITY:
            yield Violation(field, expected(f"0 to {MAX_QUANTITY}", value))
    yield from _texts(message, "subject", "actor_id", "emitter")
    if message.HasField("occurred_at") and not _is_plausible(message.occurred_at, now):
        latest = (now + _AHEAD).isoformat(timespec="seconds")
        yield Violation("occurred_at", f"expected an instant from {EARLIEST.isoformat()} to {latest}")
    for field, problem in dimension_problems(message.dimensions):
        yield Violation(field, problem)


def _is_plausible(stamp: Timestamp, now: datetime) -> bool:
    try:
        return EARLIEST <= from_timestamp(stamp) <= now + _AHEAD
    except OverflowError:
        return False
