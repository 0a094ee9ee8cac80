"""No token, no answer: the bearer token of every gRPC call, except health and reflection."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from entitlement_sidecar.domain.errors import UnauthenticatedError
from entitlement_sidecar.wire.status import abort

_OPEN = ("/grpc.health.v1.", "/grpc.reflection.")

if TYPE_CHECKING:
    # Generic for type checkers only.
    _Handler = grpc.RpcMethodHandler[Any, Any] | None


class TokenInterceptor(grpc.ServerInterceptor):
    """Refuses calls without `authorization: Bearer TOKEN`."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], _Handler], details: grpc.HandlerCallDetails
    ) -> _Handler:
        """Lets the call through, or answers UNAUTHENTICATED in its place."""
        if details.method.startswith(_OPEN) or self._authorised(details):
            return continuation(details)
        handler = continuation(details)
        refuse = (
            grpc.unary_stream_rpc_method_handler if _streams(handler) else grpc.unary_unary_rpc_method_handler
        )
        return refuse(_refuse)

    def _authorised(self, details: grpc.HandlerCallDetails) -> bool:
        given = next((value for key, value in details.invocation_metadata if key == "authorization"), "")
        raw = given if isinstance(given, bytes) else given.encode()
        return hmac.compare_digest(raw, self._expected)


def _streams(handler: _Handler) -> bool:
    return handler is not None and handler.response_streaming


def _refuse(_: object, context: grpc.ServicerContext) -> None:
    error = UnauthenticatedError(
        "expected metadata `authorization: Bearer TOKEN` with the plan store's token"
    )
    abort(context, error)
