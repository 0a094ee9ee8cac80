"""Stands between sidecars and a plan store, and is careless with batches of usage.

Every call is passed on. Of batches some arrive twice, late and out of order, in part, or not at all; and some
arrive whose answer does not. A sidecar cannot tell any of that from a network that fails.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc

from entitlement_sidecar.wire.v1 import usage_pb2

INGEST = "/entitlement.v1.UsageIngestService/IngestBatch"
STREAMS = frozenset({"/entitlement.v1.SnapshotService/WatchSnapshots"})

_QUICK = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 250))
"""Who comes back is found at once."""

_KEPT_LATE = 8
"""Batches that are under way for long, at most."""

_TIMEOUT = 30.0
"""Seconds that a call may take behind it."""

_FATES = ("on", "on", "on", "on", "twice", "late", "unanswered", "unanswered", "in part", "lost")


class CarelessNetwork:
    """A gRPC server on a free port. Ends with its `with`.

    `fates` counts what became of batches. `honest` ends the carelessness. Thread-safe.
    """

    def __init__(self, target_port: int, seed: int) -> None:
        """`target_port` is the plan store's gRPC; the same seed makes the same choices, call by call."""
        self.honest = False
        self.fates: Counter[str] = Counter()
        self._dice = random.Random(seed)  # noqa: S311 - a test's dice
        self._lock = threading.Lock()
        self._late: list[tuple[bytes, Any]] = []
        self._channel = grpc.insecure_channel(f"127.0.0.1:{target_port}", options=_QUICK)
        self._server = grpc.server(ThreadPoolExecutor(32), options=(("grpc.so_reuseport", 0),))
        self._server.add_generic_rpc_handlers((_Everything(self._handler),))
        self.port: int = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait(10)
        self._channel.close()

    def _handler(self, method: str) -> grpc.RpcMethodHandler:
        if method in STREAMS:
            return grpc.unary_stream_rpc_method_handler(self._streamed(method))
        return grpc.unary_unary_rpc_method_handler(self._batch if method == INGEST else self._one(method))

    def _one(self, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def call(request: bytes, context: grpc.ServicerContext) -> bytes:
            return self._pass_on(method, request, context)

        return call

    def _streamed(self, method: str) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
        def call(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            stream = self._channel.unary_stream(method)(request, metadata=_token(context))
            context.add_callback(stream.cancel)
            try:
                yield from stream
            except grpc.RpcError as error:
                _abort(context, error)

        return call

    def _pass_on(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return self._call(method, request, _token(context))
        except grpc.RpcError as error:
            _abort(context, error)
            raise

    def _call(self, method: str, request: bytes, token: Any) -> bytes:
        answer: bytes = self._channel.unary_unary(method)(request, timeout=_TIMEOUT, metadata=token)
        return answer

    def _batch(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        fate = self._choose(request, _token(context))
        if fate == "lost":
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost on the way there")
        if fate == "in part":
            self._pass_on(INGEST, _half(request), context)
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut off on the way there")
        answer = self._pass_on(INGEST, request, context)
        if fate == "twice":
            return self._pass_on(INGEST, request, context)
        if fate == "unanswered":
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost on the way back")
        return answer

    def _choose(self, request: bytes, token: Any) -> str:
        """What becomes of a batch; one that was sent long ago may arrive now, again."""
        with self._lock:
            fate = "on" if self.honest else self._dice.choice(_FATES)
            self.fates[fate] += 1
            if fate == "late" and len(self._late) < _KEPT_LATE:
                self._late.append((request, token))
            arriving = self._late.pop(0) if self._late and self._dice.random() < 0.3 else None
        if arriving is not None:
            self._deliver(*arriving)
        return fate

    def deliver_late(self) -> None:
        """Everything that is still under way arrives."""
        while self._late:
            self._deliver(*self._late.pop())

    def _deliver(self, request: bytes, token: Any) -> None:
        """Nobody waits for the answer."""
        try:
            self._call(INGEST, request, token)
        except grpc.RpcError:
            with self._lock:
                self.fates["late, and lost"] += 1


class _Everything(grpc.GenericRpcHandler):
    """Serves every method there is, whatever it is called."""

    def __init__(self, handler: Callable[[str], grpc.RpcMethodHandler]) -> None:
        self._handler = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of one call."""
        return self._handler(handler_call_details.method)


def _half(request: bytes) -> bytes:
    """A batch whose end was cut off."""
    message = usage_pb2.IngestBatchRequest.FromString(request)
    del message.events[(len(message.events) + 1) // 2 :]
    return message.SerializeToString()


def _token(context: grpc.ServicerContext) -> list[tuple[str, str | bytes]]:
    return [pair for pair in context.invocation_metadata() if pair[0] == "authorization"]


def _abort(context: grpc.ServicerContext, error: grpc.RpcError) -> None:
    """The same status, with its details (hints on when to come again)."""
    status: Any = error
    details = [pair for pair in status.trailing_metadata() or () if pair[0] == "grpc-status-details-bin"]
    context.set_trailing_metadata(details)
    context.abort(status.code(), status.details() or "")
