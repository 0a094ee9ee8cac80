"""The one place that maps errors to gRPC status and back.

Every status carries `google.rpc.ErrorInfo` (domain `entitlement.v1`) with a stable reason; malformed input
carries `BadRequest`, and what can be retried carries `RetryInfo` where the wait is known.
"""

from __future__ import annotations

import logging
import uuid
from typing import NoReturn, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from entitlement_sidecar.domain import errors
from entitlement_sidecar.wire.codec import from_duration, to_duration

DOMAIN = "entitlement.v1"
DETAILS_KEY = "grpc-status-details-bin"

_log = logging.getLogger(__name__)

_CODES: tuple[tuple[type[errors.EntitlementsError], int], ...] = (
    (errors.InvalidInputError, code_pb2.INVALID_ARGUMENT),
    (errors.ConflictError, code_pb2.FAILED_PRECONDITION),
    (errors.NotFoundError, code_pb2.NOT_FOUND),
    (errors.CursorTrimmedError, code_pb2.OUT_OF_RANGE),
    (errors.UnauthenticatedError, code_pb2.UNAUTHENTICATED),
    (errors.ForbiddenError, code_pb2.PERMISSION_DENIED),
    (errors.UnsupportedError, code_pb2.UNIMPLEMENTED),
    (errors.ExhaustedError, code_pb2.RESOURCE_EXHAUSTED),
    (errors.RetryableError, code_pb2.UNAVAILABLE),
)


def to_status(error: BaseException) -> status_pb2.Status:
    """The status of an error. What was not raised on purpose is INTERNAL and says nothing of itself."""
    if not isinstance(error, errors.EntitlementsError):
        return _internal(error)
    code = next((code for kind, code in _CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    if code == code_pb2.INTERNAL:
        return _internal(error)
    status = status_pb2.Status(code=code, message=str(error))
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    if isinstance(error, errors.InvalidInputError):
        _add(status, _bad_request(error))
    if isinstance(error, errors.RetryableError) and error.retry_after is not None:
        _add(status, error_details_pb2.RetryInfo(retry_delay=to_duration(error.retry_after)))
    return status


def _bad_request(error: errors.InvalidInputError) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
    )


def _internal(error: BaseException) -> status_pb2.Status:
    incident = uuid.uuid4().hex[:12]
    _log.error("unexpected error, incident %s", incident, exc_info=error)
    status = status_pb2.Status(
        code=code_pb2.INTERNAL, message=f"internal error; see the log for incident {incident}"
    )
    _add(status, error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN))
    return status


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


def trailing_metadata(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    """The metadata that carries a status' details."""
    return ((DETAILS_KEY, status.SerializeToString()),)


def grpc_code(status: status_pb2.Status) -> grpc.StatusCode:
    """The grpc enum of a status' code."""
    return next(code for code in grpc.StatusCode if code.value[0] == status.code)


def abort(context: grpc.ServicerContext, error: BaseException) -> NoReturn:
    """Ends a synchronous call with the status of an error."""
    status = to_status(error)
    context.set_trailing_metadata(trailing_metadata(status))
    context.abort(grpc_code(status), status.message)


def from_rpc_error(error: grpc.RpcError) -> errors.EntitlementsError:
    """The domain's error of a failed call."""
    call = cast("grpc.Call", error)
    code, message = call.code(), call.details() or ""
    info, violations, delay = _details(call)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return errors.InvalidInputError(violations or [errors.Violation("request", message)])
    if code is grpc.StatusCode.NOT_FOUND:
        return _not_found(info, message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.ExhaustedError(message, delay)
    if info == errors.IdempotencyConflictError.reason:
        return errors.IdempotencyConflictError(message)
    kind = _KINDS.get(code)
    return kind(message) if kind else errors.SourceUnavailableError(f"{code.name}: {message}", delay)


_KINDS: dict[grpc.StatusCode, type[errors.EntitlementsError]] = {
    grpc.StatusCode.FAILED_PRECONDITION: errors.ConflictError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.ForbiddenError,
}


def _not_found(info: str, message: str) -> errors.NotFoundError:
    if info != errors.TenantUnknownError.reason:
        return errors.NotFoundError(message)
    error = errors.TenantUnknownError("")
    error.args = (message,)
    return error


def _details(call: grpc.Call) -> tuple[str, list[errors.Violation], float | None]:
    info, violations, delay = "", [], None
    for detail in _status_of(call).details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value).reason
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            request = error_details_pb2.BadRequest.FromString(detail.value)
            violations = [errors.Violation(v.field, v.description) for v in request.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = from_duration(error_details_pb2.RetryInfo.FromString(detail.value).retry_delay)
    return info, violations, delay


def _status_of(call: grpc.Call) -> status_pb2.Status:
    metadata = cast("tuple[tuple[str, bytes], ...]", tuple(call.trailing_metadata() or ()))
    encoded = next((value for key, value in metadata if key == DETAILS_KEY), b"")
    try:
        return status_pb2.Status.FromString(encoded)
    except DecodeError:
        return status_pb2.Status()
