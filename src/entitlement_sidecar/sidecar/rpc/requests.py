"""From the contract's requests to the domain's, with every violation named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest
from entitlement_sidecar.domain.errors import InvalidInputError, Violation
from entitlement_sidecar.wire.codec import from_duration
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
from entitlement_sidecar.wire.v1 import decision_pb2

MAX_ATOMIC = 100
"""Checks in one atomic batch at most."""

MAX_VALUE_BYTES = 4096
"""Bytes of a requested value at most."""

_LONGEST = (("subject", MAX_NAME), ("correlation_id", MAX_NAME), ("request_id", MAX_REQUEST_ID))

_Message = TypeVar("_Message", bound=Message)


def parse_message(kind: type[_Message], payload: bytes) -> _Message:
    """A message of the contract.

    Raises:
        InvalidInputError: The bytes are not one.
    """
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidInputError.of("request", f"expected a serialised {kind.DESCRIPTOR.name}") from error


def parse_tenant(tenant_id: str) -> str:
    """A tenant id.

    Raises:
        InvalidInputError: It is empty or malformed.
    """
    if not is_tenant(tenant_id):
        raise InvalidInputError.of("tenant_id", expected(TENANT_FORM, tenant_id))
    return tenant_id


def parse_check(message: decision_pb2.CheckEntitlementRequest, prefix: str = "") -> CheckRequest:
    """A validated question; `prefix` is where it lies in the request. A CONSUME of nothing is a PEEK.

    Raises:
        InvalidInputError: One or more fields are malformed; all are named.
    """
    if not _well_formed(message):
        wrong = [Violation(prefix + one.field, one.description) for one in _violations(message)]
        raise InvalidInputError(wrong)
    quantity = message.quantity if message.HasField("quantity") else 1
    consuming = message.mode == decision_pb2.CHECK_MODE_CONSUME and quantity > 0
    has_value = message.HasField("requested_value_json")
    return CheckRequest(
        tenant_id=message.tenant_id,
        feature=message.feature,
        mode=CheckMode.CONSUME if consuming else CheckMode.PEEK,
        quantity=quantity,
        subject=message.subject,
        request_id=message.request_id,
        correlation_id=message.correlation_id,
        requested_value=msgspec.json.decode(message.requested_value_json) if has_value else None,
        has_requested_value=has_value,
        max_staleness=from_duration(message.max_staleness) if message.HasField("max_staleness") else None,
        min_snapshot_version=message.min_snapshot_version,
        dimensions=dict(message.dimensions) if message.dimensions else _NO_DIMENSIONS,
    )


def parse_atomic(
    messages: Sequence[decision_pb2.CheckEntitlementRequest],
) -> list[CheckRequest | InvalidInputError]:
    """The questions of an atomic batch, those that are malformed as errors.

    Raises:
        InvalidInputError: The batch as such is: too large, of several tenants, or a request id stands twice.
    """
    if len(messages) > MAX_ATOMIC:
        expectation = f"expected at most {MAX_ATOMIC} checks in an atomic batch, got {len(messages)}"
        raise InvalidInputError.of("checks", expectation)
    parsed: list[CheckRequest | InvalidInputError] = []
    seen: set[tuple[str, str]] = set()
    for index, message in enumerate(messages):
        if message.tenant_id != messages[0].tenant_id:
            raise InvalidInputError.of(f"checks[{index}].tenant_id", "expected one tenant in an atomic batch")
        identity = (message.feature, message.request_id)
        if message.request_id and identity in seen:
            raise InvalidInputError.of(f"checks[{index}].request_id", "stands twice: give each check its own")
        seen.add(identity)
        try:
            parsed.append(parse_check(message))
        except InvalidInputError as error:
            parsed.append(error)
    return parsed


_NO_DIMENSIONS: dict[str, str] = {}


def _well_formed(message: decision_pb2.CheckEntitlementRequest) -> bool:
    """Whether there are no violations: the same rules, in the form that the hot path can afford."""
    return (
        is_tenant(message.tenant_id)
        and is_key(message.feature)
        and 0 <= message.quantity <= MAX_QUANTITY
        and 0 <= message.mode <= decision_pb2.CHECK_MODE_CONSUME
        and is_text(message.subject, MAX_NAME)
        and is_text(message.correlation_id, MAX_NAME)
        and is_text(message.request_id, MAX_REQUEST_ID)
        and next(_optional_violations(message), None) is None
    )


def _violations(message: decision_pb2.CheckEntitlementRequest) -> Iterator[Violation]:
    if not is_tenant(message.tenant_id):
        yield Violation("tenant_id", expected(TENANT_FORM, message.tenant_id))
    if not is_key(message.feature):
        yield Violation("feature", expected(KEY_FORM, message.feature))
    if not 0 <= message.quantity <= MAX_QUANTITY:
        yield Violation("quantity", expected(f"0 to {MAX_QUANTITY}", message.quantity))
    if message.mode not in {0, 1, 2}:
        yield Violation("mode", expected("PEEK or CONSUME", message.mode))
    for field, longest in _LONGEST:
        if not is_text(getattr(message, field), longest):
            yield Violation(field, f"expected at most {longest} printable characters")
    yield from _optional_violations(message)


def _optional_violations(message: decision_pb2.CheckEntitlementRequest) -> Iterator[Violation]:
    if message.min_snapshot_version < 0:
        yield Violation("min_snapshot_version", expected("0 or more", message.min_snapshot_version))
    if message.HasField("max_staleness") and from_duration(message.max_staleness) < 0:
        yield Violation("max_staleness", "expected zero or more")
    if message.HasField("requested_value_json"):
        yield from _value_violations(message.requested_value_json)
    if message.dimensions:
        for field, problem in dimension_problems(message.dimensions):
            yield Violation(field, problem)


def _value_violations(text: str) -> Iterator[Violation]:
    field = "requested_value_json"
    if len(text.encode()) > MAX_VALUE_BYTES:
        yield Violation(field, f"expected at most {MAX_VALUE_BYTES} bytes of JSON")
        return
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        yield Violation(field, f"expected JSON: {error}")
        return
    if isinstance(value, dict):
        yield Violation(field, "expected a number, string, boolean or list, not an object")
