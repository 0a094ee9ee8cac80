"""A TCP proxy that breaks on demand: it stands between a client and a server and fails as networks do.

    with FaultProxy(redis_port).start() as proxy:
        client = connect(proxy.port)
        proxy.black_hole()     # packets vanish: nothing is refused, nothing is answered
        ...
        proxy.heal()

One fault holds at a time, for the connections there are and for new ones, until another or `heal`. A fault
may be set from any thread, and holds when the call returns. Nothing here is random: seeds belong to tests.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, TypeVar

_T = TypeVar("_T")

_CHUNK = 16 << 10
"""Bytes read at once."""

_UNDER_WAY = 64
"""Chunks of one direction that may be under way; then the sender is held back, as by a full window."""

_STEP = 0.02
"""Seconds after which a delayed byte notices that the fault has changed."""

_SETTLE = 0.05
"""Seconds in which transports that were aborted get to their end."""

_PATIENCE = 10.0
"""Seconds that the proxy's thread may take to do what it is told."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST instead of FIN."""


@dataclass(frozen=True)
class _Fault:
    """What happens to bytes. `bandwidth` is in bytes a second, 0 for unlimited."""

    latency: float = 0.0
    bandwidth: int = 0
    vanish: bool = False
    refuse: bool = False


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes on to a port there. Ends with `close` or its `with`."""

    def __init__(self, target_port: int) -> None:
        """`target_port` need not be listened on yet: who connects meanwhile is reset.

        It may be set to another one later: new connections go there, as after a failover.
        """
        self.target_port = target_port
        self._fault = _Fault()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: socket.socket | None = None
        # Bound and never listening: it keeps the port while connections are refused.
        self._holder = _bound(0)
        self.port: int = self._holder.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def start(self) -> Self:
        """Begins to listen, healthy."""
        self._thread.start()
        self._call(self._listen())
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """Clients that are connected now."""
        return len(self._links)

    def latency(self, seconds: float) -> None:
        """Every byte arrives `seconds` after it was sent, each way: a round trip takes twice that."""
        self._set(_Fault(latency=seconds))

    def bandwidth(self, bytes_per_second: int) -> None:
        """Each direction of each connection carries that many bytes a second.

        Raises:
            ValueError: Not at least 1: `black_hole` is what carries nothing.
        """
        if bytes_per_second < 1:
            raise ValueError(f"bytes_per_second is {bytes_per_second}: give 1 or more, or use black_hole()")
        self._set(_Fault(bandwidth=bytes_per_second))

    def black_hole(self) -> None:
        """Bytes are taken and never arrive, in both directions; new connections are accepted and hang."""
        self._set(_Fault(vanish=True))

    def refuse(self) -> None:
        """Nobody listens, as if the server were gone: connections are reset, new ones refused."""
        self._set(_Fault(refuse=True))

    def reset(self) -> None:
        """Resets the connections there are, once. New ones are as before."""
        self._call(self._cut(lambda _: True))

    def heal(self) -> None:
        """All is well again. Connections that have lost bytes are reset, so that both ends notice."""
        self._set(_Fault())

    def close(self) -> None:
        """Resets every connection and ends. A second call does nothing."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self._call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE)
        self._loop.close()
        self._holder.close()

    def _call(self, doing: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(_PATIENCE)

    def _set(self, fault: _Fault) -> None:
        self._call(self._change(fault))

    async def _change(self, fault: _Fault) -> None:
        self._fault = fault
        if fault.refuse:
            await self._deafen()
            await self._cut(lambda _: True)
            return
        if fault.vanish:
            for link in self._links:
                link.lossy = True
        else:
            await self._cut(lambda link: link.lossy)
        await self._listen()

    async def _listen(self) -> None:
        if self._listening is None:
            self._listening = _bound(self.port)
            self._listening.listen()
            self._loop.add_reader(self._listening, self._accept, self._listening)

    async def _deafen(self) -> None:
        """Who is in the system's queue by now is reset by the system."""
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def _accept(self, listening: socket.socket) -> None:
        # Not asyncio.start_server: between its accepting and its telling so, `close` could miss a connection.
        with suppress(OSError):
            client, _ = listening.accept()
            client.setblocking(False)
            task = self._loop.create_task(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        link = _Link(self._how, _End(*await asyncio.open_connection(sock=client)))
        link.lossy = self._fault.vanish
        if self._fault.refuse:
            link.reset()
            return
        self._links.add(link)
        try:
            await link.carry(self.target_port)
        finally:
            self._links.discard(link)

    def _how(self) -> _Fault:
        return self._fault

    async def _cut(self, which: Callable[[_Link], bool]) -> None:
        for link in [each for each in self._links if which(each)]:
            link.reset()
            self._links.discard(link)

    async def _end(self) -> None:
        self._fault = _Fault(refuse=True)
        await self._deafen()
        # Whom `_serve` has not begun with would otherwise never be closed.
        await asyncio.sleep(0)
        await self._cut(lambda _: True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Transports that were aborted close in the loop's next turns.
        await asyncio.sleep(_SETTLE)


class _End:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer


class _Link:
    """One client's connection, and its own to the server. `lossy`: bytes of it have vanished, or will."""

    def __init__(self, how: Callable[[], _Fault], client: _End) -> None:
        self.lossy = False
        self._how = how
        self._ends = [client]
        self._is_reset = False

    async def carry(self, port: int) -> None:
        """Passes bytes both ways until both ends are done, or one fails: then both are reset."""
        client = self._ends[0]
        try:
            if self._how().vanish:
                await _swallow(client.reader)
                return
            server = _End(*await asyncio.open_connection("127.0.0.1", port))
            self._ends.append(server)
            if self._is_reset:
                return
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(client.reader, server.writer))
                both.create_task(self._pass(server.reader, client.writer))
            await _close(client.writer)
            await _close(server.writer)
        except (OSError, ExceptionGroup):
            # Whichever end failed, the other is to notice at once.
            pass
        finally:
            self.reset()

    def reset(self) -> None:
        """RST to both ends."""
        self._is_reset = True
        for end in self._ends:
            _reset(end.writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)
        async with asyncio.TaskGroup() as both:
            both.create_task(_take(reader, queue))
            both.create_task(self._give(queue, writer))

    async def _give(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        now = asyncio.get_running_loop().time
        while True:
            taken_at, data = await queue.get()
            while (left := taken_at + self._how().latency - now()) > 0:  # noqa: ASYNC110 - the fault may change
                await asyncio.sleep(min(left, _STEP))
            if not data:
                break
            await self._deliver(data, writer)
        if not self.lossy and writer.can_write_eof():
            writer.write_eof()

    async def _deliver(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        while data and not self.lossy:
            rate = self._how().bandwidth
            size = max(1, int(rate * _STEP)) if rate else len(data)
            piece, data = data[:size], data[size:]
            if rate:
                await asyncio.sleep(len(piece) / rate)
            if not self.lossy:
                writer.write(piece)
                await writer.drain()


async def _take(reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
    """Takes what comes, with the instant of its coming, until nothing more does: the last is empty."""
    loop = asyncio.get_running_loop()
    data = b"?"
    while data:
        data = await reader.read(_CHUNK)
        await queue.put((loop.time(), data))


async def _swallow(reader: asyncio.StreamReader) -> None:
    while await reader.read(_CHUNK):
        pass


async def _close(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.close()
        await writer.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


def _bound(port: int) -> socket.socket:
    """A socket on a port of loopback that others of this process may share."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound
