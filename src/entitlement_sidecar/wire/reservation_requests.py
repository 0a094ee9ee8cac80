"""Reservations as they travel, from application to sidecar to plan store: one check for both."""

from __future__ import annotations

from collections.abc import Iterator

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.errors import InvalidInputError, Violation
from entitlement_sidecar.domain.reservation import (
    LONGEST_TTL,
    SHORTEST_TTL,
    USUAL_TTL,
    Reserving,
    Settlement,
)
from entitlement_sidecar.wire.codec import from_duration, to_duration
from entitlement_sidecar.wire.fields import (
    KEY_FORM,
    MAX_NAME,
    MAX_REQUEST_ID,
    TENANT_FORM,
    dimension_problems,
    expected,
    is_key,
    is_tenant,
    is_text,
)
from entitlement_sidecar.wire.v1 import usage_pb2

_ID_FORM = f"1 to {MAX_REQUEST_ID} printable characters"


def parse_reserve(message: usage_pb2.ReserveRequest) -> Reserving:
    """What is to be held.

    Raises:
        InvalidInputError: One or more fields are malformed; all are named.
    """
    require_none(_reserving(message))
    return Reserving(
        tenant_id=message.tenant_id,
        feature=message.feature,
        reservation_id=message.reservation_id,
        quantity=message.quantity,
        ttl=from_duration(message.ttl) if message.HasField("ttl") else USUAL_TTL,
        subject=message.subject,
        correlation_id=message.correlation_id,
    )


def reserve_to_proto(asked: Reserving) -> usage_pb2.ReserveRequest:
    """The same, to be passed on."""
    return usage_pb2.ReserveRequest(
        tenant_id=asked.tenant_id,
        feature=asked.feature,
        reservation_id=asked.reservation_id,
        quantity=asked.quantity,
        ttl=to_duration(asked.ttl),
        subject=asked.subject,
        correlation_id=asked.correlation_id,
    )


def parse_settle(message: usage_pb2.SettleRequest) -> Settlement:
    """What was used.

    Raises:
        InvalidInputError: One or more fields are malformed; all are named.
    """
    require_none(_settling(message))
    return Settlement(
        tenant_id=message.tenant_id,
        reservation_id=message.reservation_id,
        quantity=message.quantity,
        dimensions=dict(message.dimensions),
    )


def settle_to_proto(settlement: Settlement) -> usage_pb2.SettleRequest:
    """The same, to be passed on."""
    return usage_pb2.SettleRequest(
        tenant_id=settlement.tenant_id,
        reservation_id=settlement.reservation_id,
        quantity=settlement.quantity,
        dimensions=settlement.dimensions,
    )


def identity_problems(tenant_id: str, field: str, identity: str) -> Iterator[Violation]:
    """What is wrong with a tenant and an id."""
    if not is_tenant(tenant_id):
        yield Violation("tenant_id", expected(TENANT_FORM, tenant_id))
    if not (identity and is_text(identity, MAX_REQUEST_ID)):
        yield Violation(field, f"required: expected {_ID_FORM}")


def require_none(wrong: Iterator[Violation]) -> None:
    """Nothing, where nothing is wrong.

    Raises:
        InvalidInputError: Names everything that is.
    """
    if found := list(wrong):
        raise InvalidInputError(found)


def _reserving(message: usage_pb2.ReserveRequest) -> Iterator[Violation]:
    yield from identity_problems(message.tenant_id, "reservation_id", message.reservation_id)
    if not is_key(message.feature):
        yield Violation("feature", expected(KEY_FORM, message.feature))
    if not 1 <= message.quantity <= MAX_QUANTITY:
        yield Violation("quantity", expected(f"1 to {MAX_QUANTITY}", message.quantity))
    if message.HasField("ttl") and not SHORTEST_TTL <= from_duration(message.ttl) <= LONGEST_TTL:
        yield Violation("ttl", expected("1 s to 1 h", f"{from_duration(message.ttl):g} s"))
    for field, text in (("subject", message.subject), ("correlation_id", message.correlation_id)):
        if not is_text(text, MAX_NAME):
            yield Violation(field, f"expected at most {MAX_NAME} printable characters")


def _settling(message: usage_pb2.SettleRequest) -> Iterator[Violation]:
    yield from identity_problems(message.tenant_id, "reservation_id", message.reservation_id)
    if not 0 <= message.quantity <= MAX_QUANTITY:
        yield Violation("quantity", expected(f"0 to {MAX_QUANTITY}", message.quantity))
    for field, problem in dimension_problems(message.dimensions):
        yield Violation(field, problem)
