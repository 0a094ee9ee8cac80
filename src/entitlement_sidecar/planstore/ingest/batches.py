"""What a batch says as a whole: who sends it, and which of its sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.errors import InvalidInputError, Violation
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.planstore.usage.sources import Delivery
from entitlement_sidecar.wire.v1 import usage_pb2

MAX_BATCH = 5000
"""Events in one batch at most; sidecars send 500."""

MAX_INSTANCE = 128
"""Characters of a sidecar's instance."""

MAX_DECLARED = 1000
"""Ranges declared with one batch at most; a sidecar declares what it was told, which are 100."""


def check_batch(request: usage_pb2.IngestBatchRequest) -> None:
    """Nothing, or what is wrong with the batch itself.

    Raises:
        InvalidInputError: It names every field, and what would be right.
    """
    if violations := [Violation(*problem) for problem in _problems(request)]:
        raise InvalidInputError(violations)


def delivery_of(request: usage_pb2.IngestBatchRequest, results: Sequence[UsageResult]) -> Delivery:
    """What conservation has to know of a batch; of a sequence that is in it twice the first counts."""
    outcomes: dict[int, UsageOutcome] = {}
    for item, result in zip(request.events, results, strict=True):
        outcomes.setdefault(item.sequence, result.outcome)
    return Delivery(
        request.instance,
        request.epoch,
        outcomes,
        [(one.first, one.last) for one in request.declared],
        request.accepted_total,
        request.dead_total,
    )


def _problems(request: usage_pb2.IngestBatchRequest) -> Iterator[tuple[str, str]]:
    if not 1 <= len(request.instance) <= MAX_INSTANCE or "\0" in request.instance:
        yield "instance", f"expected 1 to {MAX_INSTANCE} characters, none of them NUL"
    if not 1 <= len(request.events) <= MAX_BATCH:
        yield "events", f"expected 1 to {MAX_BATCH}, got {len(request.events)}"
    elif (least := min(item.sequence for item in request.events)) < 1:
        yield "events", f"sequence: expected 1 or more, got {least}"
    elif (most := max(item.sequence for item in request.events)) > MAX_QUANTITY:
        yield "events", f"sequence: expected at most {MAX_QUANTITY}, got {most}"
    for field in ("epoch", "accepted_total", "dead_total"):
        if not 0 <= (number := getattr(request, field)) <= MAX_QUANTITY:
            yield field, f"expected 0 to {MAX_QUANTITY}, got {number}"
    if len(request.declared) > MAX_DECLARED:
        yield "declared", f"expected at most {MAX_DECLARED} ranges, got {len(request.declared)}"
    elif any(not 1 <= one.first <= one.last <= MAX_QUANTITY for one in request.declared):
        yield "declared", f"expected ranges of 1 to {MAX_QUANTITY} whose last is not before their first"
