"""From the contract's requests to the domain's, with every violation named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest
from entitlement_sidecar.domain.errors import InvalidInputError, Violation
from entitlement_sidecar.wire.codec import from_duration
from entitlement_sidecar.wire.v1 import decision_pb2

MAX_SUBJECT = 256
MAX_REQUEST_ID = 128
MAX_VALUE_BYTES = 4096
MAX_DIMENSIONS = 16
MAX_DIMENSION_KEY = 64
MAX_DIMENSION_VALUE = 256

_tenant = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+=-]{0,127}").fullmatch
_key = re.compile(r"[a-z][a-z0-9._-]{0,63}").fullmatch

_LONGEST = (("subject", MAX_SUBJECT), ("correlation_id", MAX_SUBJECT), ("request_id", MAX_REQUEST_ID))

TENANT_FORM = "1 to 128 letters, digits or any of ._:@/+=-, starting with a letter or digit"
KEY_FORM = "1 to 64 lower-case letters, digits or any of ._-, starting with a letter"


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
    if _tenant(tenant_id) is None:
        raise InvalidInputError.of("tenant_id", _expected(TENANT_FORM, tenant_id))
    return tenant_id


def parse_check(message: decision_pb2.CheckEntitlementRequest) -> CheckRequest:
    """A validated question. A CONSUME of nothing is a PEEK.

    Raises:
        InvalidInputError: One or more fields are malformed; all are named.
    """
    violations = list(_violations(message))
    if violations:
        raise InvalidInputError(violations)
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
        dimensions=dict(message.dimensions),
    )


def _violations(message: decision_pb2.CheckEntitlementRequest) -> Iterator[Violation]:
    if _tenant(message.tenant_id) is None:
        yield Violation("tenant_id", _expected(TENANT_FORM, message.tenant_id))
    if _key(message.feature) is None:
        yield Violation("feature", _expected(KEY_FORM, message.feature))
    if not 0 <= message.quantity <= MAX_QUANTITY:
        yield Violation("quantity", _expected(f"0 to {MAX_QUANTITY}", message.quantity))
    if message.mode not in {0, 1, 2}:
        yield Violation("mode", _expected("PEEK or CONSUME", message.mode))
    for field, longest in _LONGEST:
        if len(getattr(message, field)) > longest:
            yield Violation(field, f"expected at most {longest} characters")
    yield from _optional_violations(message)


def _optional_violations(message: decision_pb2.CheckEntitlementRequest) -> Iterator[Violation]:
    if message.min_snapshot_version < 0:
        yield Violation("min_snapshot_version", _expected("0 or more", message.min_snapshot_version))
    if message.HasField("max_staleness") and from_duration(message.max_staleness) < 0:
        yield Violation("max_staleness", "expected zero or more")
    if message.HasField("requested_value_json"):
        yield from _value_violations(message.requested_value_json)
    if message.dimensions:
        yield from dimension_violations("dimensions", message.dimensions)


def _value_violations(text: str) -> Iterator[Violation]:
    field = "requested_value_json"
    if len(text.encode()) > MAX_VALUE_BYTES:
        yield Violation(field, f"expected at most {MAX_VALUE_BYTES} bytes of JSON")
        return
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        yield Violation(field, f"expected JSON: {error}")
        return
    if isinstance(value, dict):
        yield Violation(field, "expected a number, string, boolean or list, not an object")


def dimension_violations(field: str, dimensions: Mapping[str, str]) -> Iterator[Violation]:
    """What is wrong with a map of attributes."""
    if len(dimensions) > MAX_DIMENSIONS:
        yield Violation(field, f"expected at most {MAX_DIMENSIONS} entries, got {len(dimensions)}")
    for key, value in dimensions.items():
        if not 0 < len(key) <= MAX_DIMENSION_KEY:
            yield Violation(field, f"expected keys of 1 to {MAX_DIMENSION_KEY} characters")
        if len(value) > MAX_DIMENSION_VALUE:
            name = f"{field}[{key[:MAX_DIMENSION_KEY]!r}]"
            yield Violation(name, f"expected at most {MAX_DIMENSION_VALUE} characters")


def _expected(form: str, got: Any) -> str:  # noqa: ANN401 - whatever the caller sent
    shown = repr(got)
    return f"expected {form}, got {shown if len(shown) <= 80 else shown[:77] + '...'}"  # noqa: PLR2004 - one line
