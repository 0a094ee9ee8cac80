"""No token, no answer: token and rights of every gRPC call, except health and reflection.

Calls are judged in the thread that answers them, before their message is parsed: looking up a token may wait
for the database, which the thread that takes calls must not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import grpc
import msgspec
from google.protobuf.message import DecodeError

from entitlement_sidecar.domain.errors import InvalidInputError, UnsupportedError
from entitlement_sidecar.planstore.access import Gate, Principal, being
from entitlement_sidecar.planstore.api import permissions
from entitlement_sidecar.planstore.api.calls import answering
from entitlement_sidecar.planstore.audit import Actor, acting
from entitlement_sidecar.wire.status import abort

_OPEN = ("/grpc.health.v1.", "/grpc.reflection.")
_MAX_TEXT = 500
_END = object()

if TYPE_CHECKING:
    # Generic for type checkers only.
    _Handler = grpc.RpcMethodHandler[Any, Any]


class _Call(msgspec.Struct, frozen=True):
    """A call as its metadata tells it."""

    method: str
    authorization: str
    reason: str
    request_id: str


class TokenInterceptor(grpc.ServerInterceptor):
    """Refuses calls without `authorization: Bearer TOKEN`, and those that the token has no right to."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Puts the judgement before the handler."""
        handler = continuation(details)
        if handler is None or details.method.startswith(_OPEN):
            return handler
        call = _call(details)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(_refuse_streams)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(call, handler), None, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(call, handler), None, handler.response_serializer
        )

    def _unary(self, call: _Call, handler: _Handler) -> Callable[[bytes, grpc.ServicerContext], Any]:
        behaviour: Callable[..., Any] = handler.unary_unary or _refuse_streams

        def answer(raw: bytes, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - a message
            with self._known(call, context) as principal, self._noting(call, principal, context):
                with answering(context):
                    self._permit(call, principal)
                    request = _parse(handler, raw)
                return behaviour(request, context)

        return answer

    def _streaming(
        self, call: _Call, handler: _Handler
    ) -> Callable[[bytes, grpc.ServicerContext], Iterator[Any]]:
        behaviour: Callable[..., Any] = handler.unary_stream or _refuse_streams

        def answers(raw: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._known(call, context) as principal, self._noting(call, principal, context):
                with answering(context):
                    self._permit(call, principal)
                    request = _parse(handler, raw)
                # A generator is resumed from outside: it keeps what is set here in a context of its own.
                inside = copy_context()
            messages = inside.run(behaviour, request, context)
            try:
                while (message := inside.run(next, messages, _END)) is not _END:
                    with answering(context):
                        self._gate.confirm(call.authorization)
                    yield message
            finally:
                inside.run(messages.close)

        return answers

    @contextmanager
    def _known(self, call: _Call, context: grpc.ServicerContext) -> Iterator[Principal]:
        with answering(context):
            principal = self._gate.admit(call.authorization, _address(context.peer()))
        actor = Actor(principal.name, principal.role.value, call.reason, call.request_id)
        with being(principal), acting(actor):
            yield principal

    def _permit(self, call: _Call, principal: Principal) -> None:
        permissions.check(principal, permissions.RPC.get(call.method))

    @contextmanager
    def _noting(self, call: _Call, principal: Principal, context: grpc.ServicerContext) -> Iterator[None]:
        """Every refusal is noted, whoever refuses: the table, or a servicer."""
        try:
            yield
        except Exception:
            # The types of a servicer's context leave out what it was ended with.
            if cast("Any", context).code() is grpc.StatusCode.PERMISSION_DENIED:
                self._gate.note_refusal(principal, call.method)
            raise


def _call(details: grpc.HandlerCallDetails) -> _Call:
    found = {key: _text(value) for key, value in reversed(tuple(details.invocation_metadata))}
    return _Call(
        details.method,
        found.get("authorization", ""),
        _printable(unquote(found.get("x-reason", ""))[:_MAX_TEXT]),
        _printable(found.get("x-request-id", "")[:_MAX_TEXT]),
    )


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _printable(text: str) -> str:
    """For the audit log. What cannot be stored there would keep the whole entry out of it."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _parse(handler: _Handler, raw: bytes) -> Any:  # noqa: ANN401 - a message
    try:
        return handler.request_deserializer(raw) if handler.request_deserializer else raw
    except DecodeError:
        raise InvalidInputError.of("request", "expected a message of this call") from None


def _address(peer: str) -> str:
    """The address in `ipv4:192.0.2.7:4711` or `ipv6:%5B2001:db8::1%5D:4711`."""
    host = unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return peer or "unknown"


def _refuse_streams(_: object, context: grpc.ServicerContext) -> None:
    abort(context, UnsupportedError("no call of this plan store takes a stream"))
