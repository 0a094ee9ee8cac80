"""The reference front, over `grpc.aio`: every RPC, health per service, reflection.

RPCs of the contract without a handler, and paths that nobody knows, are answered UNIMPLEMENTED with a message
that says what is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from entitlement_sidecar.domain.errors import UnauthenticatedError, UnsupportedError
from entitlement_sidecar.sidecar.rpc.front import (
    DRAIN_DEADLINE,
    MAX_IN_FLIGHT,
    MAX_REQUEST_BYTES,
    PRIVATE,
    SERVICES,
    Admission,
    Door,
    Exposure,
    Handler,
    Method,
    Methods,
    StreamHandler,
    Streaming,
)
from entitlement_sidecar.sidecar.rpc.listener import Listener, parse_listener
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.status import grpc_code, to_status, trailing_metadata

_OPTIONS = (
    # By default a second server shares the port and takes half of the calls: a taken port has to be noticed.
    ("grpc.so_reuseport", 0),
    # grpc refuses larger requests itself, before it has read them, and names both sizes.
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
)

_Context = grpc.aio.ServicerContext[bytes, bytes]


class AioFront:
    """Serves methods with `grpc.aio`.

    Args:
        address: `HOST:PORT` (port 0 takes a free one) or `unix:/path`.
        methods: What is served.
        exposure: Who can reach it, and who is let in.
        max_in_flight: Calls that may wait at once.
    """

    def __init__(
        self,
        address: str,
        methods: Methods,
        *,
        exposure: Exposure = PRIVATE,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        self._address = address
        self._methods = methods
        self._exposure = exposure
        self._admission = Admission(max_in_flight)
        self._health = _Health()
        self._server: grpc.aio.Server | None = None
        self._listener = Listener()

    async def start(self) -> str:
        """See `Front`."""
        listener = parse_listener(
            self._address, allow_remote=self._exposure.allow_remote, setting=self._exposure.setting
        )
        server = grpc.aio.server(options=_OPTIONS)
        await self._add_services(server)
        with listener.binding(self._exposure.access):
            port = self._add_port(server, str(listener))
        await server.start()
        self._server = server
        self._listener = listener.bound(port)
        return str(self._listener)

    def _add_port(self, server: grpc.aio.Server, address: str) -> int:
        if self._exposure.tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._exposure.tls.credentials())

    async def _add_services(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for service in SERVICES:
            await self._health.set(service.full_name, health_pb2.HealthCheckResponse.SERVING)
        names = [service.full_name for service in SERVICES]
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        # Last: it answers whatever is left.
        server.add_generic_rpc_handlers((_Paths(self._methods, self._admission, self._exposure.door),))

    async def say_not_serving(self) -> None:
        """Health answers NOT_SERVING from now on, for every name; watchers are told."""
        await self._health.enter_graceful_shutdown()

    async def drain(self, grace: float) -> None:
        """See `Front`."""
        await self.say_not_serving()
        await asyncio.sleep(grace)
        await self.finish_calls(DRAIN_DEADLINE)

    async def finish_calls(self, timeout: float) -> bool:  # noqa: ASYNC109 - the deadline belongs to the drain
        """Refuses new calls, waits for those under way; false when some outlast `timeout` seconds."""
        self._admission.close()
        return await self._admission.idle(timeout)

    async def stop(self) -> None:
        """See `Front`."""
        if self._server is None:
            return
        await self._server.stop(None)
        self._server = None
        self._listener.remove()


class _Health(health.aio.HealthServicer):
    """Health of each service by its name."""

    async def List(self, _request: object, context: _Context) -> None:  # noqa: N802 - the RPC
        """Refused in words: the library has none for it, and would log a defect for every such call."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask for one service by its name: Check or Watch")


class _Paths(grpc.GenericRpcHandler):
    """Finds the handler of a path; there always is one."""

    def __init__(self, methods: Methods, admission: Admission, door: Door | None) -> None:
        self._known = {method.path: _rpc_handler(method, admission, door) for method in methods}
        self._door = door
        self._contract = {f"/{s.full_name}/{m.name}" for s in SERVICES for m in s.methods}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler of a call."""
        path = str(handler_call_details.method)
        return self._known.get(path) or _refusal(self._explain(path), self._door)

    def _explain(self, path: str) -> UnsupportedError:
        if path in self._contract:
            return UnsupportedError(f"{path} is not available in this version of the sidecar")
        names = ", ".join(service.full_name for service in SERVICES)
        return UnsupportedError(f"there is no {path} here; this sidecar serves {names}")


def _rpc_handler(
    method: Method | Streaming, admission: Admission, door: Door | None
) -> grpc.RpcMethodHandler[bytes, bytes]:
    # Without (de)serialisers grpc hands over and takes bytes.
    find = _finder(method, door)
    if isinstance(method, Method):
        unary = cast("Callable[[_Context], Handler]", find)
        return grpc.unary_unary_rpc_method_handler(_unary(unary, admission))
    streaming = cast("Callable[[_Context], StreamHandler]", find)
    return grpc.unary_stream_rpc_method_handler(_streaming(streaming, admission))


def _finder(method: Method | Streaming, door: Door | None) -> Callable[[_Context], Handler | StreamHandler]:
    """What finds the handler of a call: the only one, or that of the caller."""
    if door is None:
        return lambda _: method.handler
    return lambda context: door.table(_authorization(context), _names(context))[method.path]


def _authorization(context: _Context) -> str:
    found = (value for key, value in context.invocation_metadata() or () if key == "authorization")
    value = next(found, "")
    return value if isinstance(value, str) else value.decode("latin-1")


def _names(context: _Context) -> Iterator[str]:
    """Whom the client's certificate names. No kind can be mistaken for the other: URIs have a colon."""
    shown = context.auth_context()
    yield from (name.decode() for name in shown.get("peer_uri", ()) if b":" in name)
    yield from (name.decode().lower() for name in shown.get("peer_dns", ()) if b":" not in name)


def _unary(
    find: Callable[[_Context], Handler], admission: Admission
) -> Callable[[bytes, _Context], Awaitable[bytes]]:
    async def call(payload: bytes, context: _Context) -> bytes:
        try:
            admission.check()
            answer = find(context)(payload)
            return answer if isinstance(answer, bytes) else await _wait(answer, admission)
        except Exception as error:  # noqa: BLE001 - every error has a status
            return await _abort(context, error)

    return call


async def _wait(answer: Awaitable[bytes], admission: Admission) -> bytes:
    admission.enter()
    try:
        return await answer
    finally:
        admission.leave()


def _streaming(
    find: Callable[[_Context], StreamHandler], admission: Admission
) -> Callable[[bytes, _Context], AsyncIterator[bytes]]:
    # A stream has no end of its own, so it is not waited for: it is cut when the front stops.
    async def call(payload: bytes, context: _Context) -> AsyncIterator[bytes]:
        try:
            admission.check()
            async for message in find(context)(payload):
                yield message
        except Exception as error:  # noqa: BLE001 - every error has a status
            await _abort(context, error)

    return call


def _refusal(error: UnsupportedError, door: Door | None) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Refuses a call of any kind before it is read; what is served is told to callers alone."""

    async def call(_requests: AsyncIterator[bytes], context: _Context) -> None:
        try:
            if door is not None:
                door.table(_authorization(context), _names(context))
        except UnauthenticatedError as stranger:
            await _abort(context, stranger)
        await _abort(context, error)

    return grpc.stream_stream_rpc_method_handler(call)


async def _abort(context: _Context, error: Exception) -> bytes:
    status = to_status(error)
    code = grpc_code(status)
    metrics.calls_failed.labels(code.name).inc()
    await context.abort(code, status.message, trailing_metadata(status))
    raise AssertionError("abort raises")
