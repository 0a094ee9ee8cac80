"""How many gRPC calls are answered at once, how many may wait, and what is counted of each.

Watchers have threads of their own, which they hold for as long as they watch. All other calls share a few,
and wait for them in a queue that is bounded: who would wait longer than it is worth is refused at once, and
told when to come back. Refusing has a thread of its own too, so that it is not behind what it refuses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import grpc

from entitlement_sidecar.domain.errors import ExhaustedError
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.status import abort

CALL_THREADS = 16
"""Calls answered at once, besides watchers."""

MAX_WAITING = 256
"""Calls that wait for a thread at most: about as many as are answered before a sidecar gives up waiting."""

RETRY_AFTER = 1.0
"""Seconds after which who was refused may come back; sidecars add a random pause."""

SPARE = 8
"""Threads for watchers beyond those that there is room for, to refuse them."""

_OURS = "/entitlement.v1."

if TYPE_CHECKING:
    # Generic for type checkers only.
    _Handler = grpc.RpcMethodHandler[Any, Any]
_Unary = Callable[[Any, grpc.ServicerContext], Any]
_Stream = Callable[[Any, grpc.ServicerContext], Iterator[Any]]


class CallPool(ThreadPoolExecutor):
    """Threads that know how many calls wait for one."""

    def __init__(self, threads: int = CALL_THREADS) -> None:
        super().__init__(threads, thread_name_prefix="grpc")
        self._lock = threading.Lock()
        self.waiting = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 - any call
        """Has a call answered by the next thread that is free."""
        with self._lock:
            self.waiting += 1
        return super().submit(self._begin, fn, *args, **kwargs)

    def _begin(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any call
        with self._lock:
            self.waiting -= 1
        return fn(*args, **kwargs)


class LoadInterceptor(grpc.ServerInterceptor):
    """Gives each call its threads, refuses what is too much, and counts every answer. The outermost one."""

    def __init__(self, calls: CallPool, watchers: int, max_waiting: int = MAX_WAITING) -> None:
        """`calls`: the server's own threads. `watchers`: how many there is room for."""
        self._calls = calls
        self._max_waiting = max_waiting
        self._watching = ThreadPoolExecutor(watchers + SPARE, thread_name_prefix="grpc watcher")
        self._refusing = ThreadPoolExecutor(1, thread_name_prefix="grpc refusing")

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Health and reflection are left as they are."""
        handler = continuation(details)
        if handler is None or handler.request_streaming or not details.method.startswith(_OURS):
            return handler
        method = details.method.removeprefix(_OURS)
        read, write = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:
            stream = _in(self._watching, _counted_stream(method, cast("_Stream", handler.unary_stream)))
            return grpc.unary_stream_rpc_method_handler(stream, read, write)
        if self._calls.waiting >= self._max_waiting:
            # Unparsed: what is refused must cost nothing.
            return grpc.unary_unary_rpc_method_handler(_in(self._refusing, _counted(method, _refuse)))
        return grpc.unary_unary_rpc_method_handler(
            _counted(method, cast("_Unary", handler.unary_unary)), read, write
        )


def _in(pool: ThreadPoolExecutor, behaviour: Any) -> Any:  # noqa: ANN401 - either kind of behaviour
    """Has grpc run a behaviour in other threads than the server's own."""
    behaviour.experimental_thread_pool = pool
    return behaviour


def _refuse(_: object, context: grpc.ServicerContext) -> None:
    abort(context, ExhaustedError("too many calls wait to be answered already", RETRY_AFTER))


def _counted(method: str, behaviour: _Unary) -> _Unary:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - a message
        try:
            answered = behaviour(request, context)
        except BaseException:
            metrics.rpc_requests.labels(method, _code(context)).inc()
            raise
        metrics.rpc_requests.labels(method, "OK").inc()
        return answered

    return answer


def _counted_stream(method: str, behaviour: _Stream) -> _Stream:
    def answers(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401 - a message
        try:
            yield from behaviour(request, context)
        except GeneratorExit:
            metrics.rpc_requests.labels(method, "CANCELLED").inc()
            raise
        except BaseException:
            metrics.rpc_requests.labels(method, _code(context)).inc()
            raise
        metrics.rpc_requests.labels(method, "OK").inc()

    return answers


def _code(context: grpc.ServicerContext) -> str:
    # The types of a servicer's context leave out what it was ended with.
    code = cast("Any", context).code()
    return code.name if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN.name
