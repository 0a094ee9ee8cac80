"""The fast front: HTTP/2 and gRPC framing in native code, off the interpreter.

A thread takes calls in batches, without the interpreter's lock while it waits, and hands each batch to the
event loop with one wake-up. The loop answers what is in memory at once and turns the rest into tasks:

    native threads ──batch──▶ receiver thread ──one call_soon_threadsafe──▶ loop: handler ──▶ respond / fail
          └── everything else (health, reflection, streams, unknown paths) ──▶ AioFront on a private socket

At most `_BATCHES_AHEAD` batches wait for the loop, so timers and sockets get their turn between batches, and
the backlog stays in native memory, bounded by HTTP/2's streams per connection.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import cast

from entitlement_sidecar.domain.errors import ConfigurationError, DrainingError
from entitlement_sidecar.sidecar.promise import Promise
from entitlement_sidecar.sidecar.rpc.aio_front import AioFront
from entitlement_sidecar.sidecar.rpc.front import (
    DRAIN_DEADLINE,
    MAX_IN_FLIGHT,
    PRIVATE,
    Admission,
    Door,
    Exposure,
    Handler,
    Method,
    Methods,
    check_size,
)
from entitlement_sidecar.sidecar.rpc.listener import Listener, parse_listener
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.status import grpc_code, to_status, trailing_metadata

try:
    from pygrpc_native import EVENT_CALL, NativeGrpcFront
except ImportError as error:
    raise ConfigurationError(
        "the fast front needs pygrpc-native: pip install 'entitlement-sidecar[fast]', or choose --front aio"
    ) from error

_BATCH = 64
"""Calls handed to the loop at once, at most."""

_BATCHES_AHEAD = 1
"""Batches that may wait for the loop besides the one that it works on."""

_IO_THREADS = 1
"""Native threads for HTTP/2: one is faster than one interpreter answers."""

_FLUSH = 0.05
"""Seconds between the last answer and the close, in which it leaves the native queues."""

_Event = tuple[int, int, int, bytes | None, bytes | str | None]


class FastFront:
    """Serves unary methods natively, everything else through an `AioFront` behind it.

    Args:
        address: `HOST:PORT` (port 0 takes a free one) or `unix:/path`.
        methods: What is served.
        exposure: Who can reach it, and who is let in; TLS it has none.
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
        if exposure.tls is not None:
            raise ConfigurationError("the fast front has no TLS: choose --front aio")
        self._address = address
        self._exposure = exposure
        unary = [method for method in methods if isinstance(method, Method)]
        self._paths = [(method.path, False) for method in unary]
        self._handlers = [method.handler for method in unary]
        self._admission = Admission(max_in_flight)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._behind = _Behind(methods, exposure.door, max_in_flight)
        self._running: _Running | None = None
        # What still takes answers: a little longer than `_running` takes calls.
        self._native: NativeGrpcFront | None = None

    async def start(self) -> str:
        """See `Front`."""
        exposure = self._exposure
        listener = parse_listener(self._address, allow_remote=exposure.allow_remote, setting=exposure.setting)
        socket = await self._behind.start()
        try:
            with listener.binding(exposure.access):
                native = _native_front(listener, self._paths, identified=exposure.door is not None)
        except BaseException:
            await self._behind.stop()
            raise
        native.set_fallback(socket)
        native.start()
        self._native = native
        self._running = _Running(native, listener.bound(native.bound_port), self._take)
        return str(self._running.listener)

    async def drain(self, grace: float) -> None:
        """See `Front`."""
        if self._running is None:
            return
        await self._behind.say_not_serving()
        await asyncio.sleep(grace)
        self._admission.close()
        await asyncio.gather(self._admission.idle(DRAIN_DEADLINE), self._behind.finish_calls())

    async def stop(self) -> None:
        """See `Front`."""
        running, self._running = self._running, None
        if running is None:
            return
        self._admission.close()
        for answer in list(self._waiting.values()):
            answer.cancel()
        # The cancelled ones are answered by their callbacks, and answers leave through native queues.
        await asyncio.sleep(_FLUSH)
        self._native = None
        await running.close()
        await self._behind.stop()

    def _take(self, native: NativeGrpcFront, events: list[_Event]) -> None:
        """One batch, on the event loop."""
        door = self._exposure.door
        for kind, call_id, method_id, payload, shown in events:
            if kind == EVENT_CALL:
                handler = self._handlers[method_id]
                if door is not None:
                    handler = partial(_let_in, door, self._paths[method_id][0], shown)
                self._call(native, call_id, handler, payload or b"")
            elif answer := self._waiting.pop(call_id, None):
                # The caller left, or its deadline passed: nobody is left to answer.
                answer.cancel()

    def _call(self, native: NativeGrpcFront, call_id: int, handler: Handler, payload: bytes) -> None:
        try:
            check_size(payload)
            self._admission.check()
            answer = handler(payload)
            if isinstance(answer, bytes):
                native.respond(call_id, answer)
            else:
                self._wait(native, call_id, answer)
        except Exception as error:  # noqa: BLE001 - every error has a status
            _fail(native, call_id, error)

    def _wait(self, native: NativeGrpcFront, call_id: int, answer: Awaitable[bytes]) -> None:
        if isinstance(answer, Promise):
            self._admission.enter()
            answer.hear(partial(self._heard, native, call_id))
            return
        future = asyncio.ensure_future(answer)
        self._waiting[call_id] = future
        self._admission.enter()
        future.add_done_callback(lambda done: self._answered(native, call_id, done))

    def _heard(
        self, native: NativeGrpcFront, call_id: int, answer: bytes | None, error: BaseException | None
    ) -> None:
        """A promise was kept. Whoever has left by then is not there to be answered."""
        self._admission.leave()
        if self._native is not native:
            return  # its connections are cut
        if error is None:
            native.respond(call_id, answer or b"")
        else:
            _fail(native, call_id, error)

    def _answered(self, native: NativeGrpcFront, call_id: int, done: asyncio.Future[bytes]) -> None:
        self._admission.leave()
        abandoned = self._waiting.pop(call_id, None) is None
        error = self._cut() if done.cancelled() else done.exception()
        if abandoned:
            return
        if error is None:
            native.respond(call_id, done.result())
        else:
            _fail(native, call_id, error)

    def _cut(self) -> Exception:
        if self._running is None:
            return DrainingError("the call was cut: this sidecar is shutting down")
        return RuntimeError("the handler was cancelled, and not because its caller left")


class _Behind:
    """The reference front behind the fast one, on a socket in a folder that only this user may enter."""

    def __init__(self, methods: Methods, door: Door | None, max_in_flight: int) -> None:
        self._methods = methods
        self._exposure = Exposure(door=door)
        self._max_in_flight = max_in_flight
        self._folder: Path | None = None
        self._front: AioFront | None = None

    async def start(self) -> str:
        """Listens; returns the path of the socket."""
        self._folder = Path(tempfile.mkdtemp(prefix="entitlements-"))
        socket = f"{self._folder}/grpc.sock"
        self._front = AioFront(
            f"unix:{socket}", self._methods, exposure=self._exposure, max_in_flight=self._max_in_flight
        )
        await self._front.start()
        return socket

    async def say_not_serving(self) -> None:
        """Health answers NOT_SERVING from now on."""
        if self._front is not None:
            await self._front.say_not_serving()

    async def finish_calls(self) -> None:
        """Refuses new calls and waits for those under way."""
        if self._front is not None:
            await self._front.finish_calls(DRAIN_DEADLINE)

    async def stop(self) -> None:
        """Closes the socket and removes its folder."""
        if self._front is not None:
            await self._front.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Running:
    """A native front that is being served, and the thread that takes its calls."""

    def __init__(
        self,
        native: NativeGrpcFront,
        listener: Listener,
        take: Callable[[NativeGrpcFront, list[_Event]], None],
    ) -> None:
        self.listener = listener
        self.native = native
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(1 + _BATCHES_AHEAD)
        self._thread = threading.Thread(target=self._receive, name="grpc-receiver", daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        self._room.acquire()
        while (events := self.native.recv_batch(_BATCH)) is not None:
            try:
                self._loop.call_soon_threadsafe(self._on_loop, events)
            except RuntimeError:
                # The loop was closed without `stop`: nobody is left to answer.
                return
            self._room.acquire()

    def _on_loop(self, events: list[_Event]) -> None:
        try:
            self._take(self.native, events)
        finally:
            self._room.release()

    async def close(self) -> None:
        """Closes the listener, cuts every connection, ends the thread."""
        await self._loop.run_in_executor(None, self.native.close)
        await self._loop.run_in_executor(None, self._thread.join)
        self.listener.remove()


def _native_front(listener: Listener, paths: list[tuple[str, bool]], *, identified: bool) -> NativeGrpcFront:
    # `call_details` is what makes it tell of cancelled and late unary calls. The details are not fetched:
    # the one header that matters comes with each call as its key.
    return NativeGrpcFront(
        str(listener),
        paths,
        io_threads=_IO_THREADS,
        call_details=True,
        client_key_metadata="authorization" if identified else None,
    )


def _let_in(door: Door, path: str, shown: bytes | str | None, payload: bytes) -> bytes | Awaitable[bytes]:
    """Answers as the caller's own handler does. The header is bytes; text is where a call came from."""
    authorization = shown.decode("latin-1") if isinstance(shown, bytes) else ""
    return cast("Handler", door.table(authorization)[path])(payload)


def _fail(native: NativeGrpcFront, call_id: int, error: BaseException) -> None:
    status = to_status(error)
    if native.fail(call_id, status.code, status.message, trailing_metadata(status)):
        metrics.calls_failed.labels(grpc_code(status).name).inc()
