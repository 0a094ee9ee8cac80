"""The port of fronts: what they serve, where they listen, how many calls they hold.

A front takes a table of methods and moves bytes. A handler is synchronous when its answer is in memory and
returns an awaitable only when it must wait; it fails by raising, and the front maps what it raised to a
status. An awaitable belongs to its call: when the caller leaves or its deadline passes, it is cancelled.

    start   SERVING, calls are answered
    drain   NOT_SERVING; listeners stay a while, then new calls are refused, those under way end
    stop    listeners closed; what still runs is cut
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol
from weakref import WeakSet

import msgspec

from entitlement_sidecar.domain.errors import DrainingError, ExhaustedError
from entitlement_sidecar.sidecar.rpc.socket_access import SocketAccess
from entitlement_sidecar.sidecar.rpc.tls import ServerTls
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.v1 import decision_pb2, usage_pb2

MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""The largest request that is read, in bytes; larger ones are RESOURCE_EXHAUSTED."""

MAX_IN_FLIGHT = 4096
"""Calls that may wait for something at once; further ones are RESOURCE_EXHAUSTED."""

DRAIN_DEADLINE = 10.0
"""Seconds that calls under way may take to end once new ones are refused."""

RETRY_SHED_AFTER = 0.1
"""Seconds after which a caller that was refused for overload may try again."""

SERVICES = (
    decision_pb2.DESCRIPTOR.services_by_name["EntitlementService"],
    usage_pb2.DESCRIPTOR.services_by_name["UsageService"],
)
"""The services of the contract that a sidecar serves; each has a health name of its own."""

Handler = Callable[[bytes], bytes | Awaitable[bytes]]
"""Answers one request."""

StreamHandler = Callable[[bytes], AsyncIterator[bytes]]
"""Answers one request with many messages."""


class Method(msgspec.Struct, frozen=True):
    """A unary RPC: its path, `/package.Service/Name`, and what answers it."""

    path: str
    handler: Handler


class Streaming(msgspec.Struct, frozen=True):
    """A server-streaming RPC: its path, and what answers it."""

    path: str
    handler: StreamHandler


Methods = Sequence[Method | Streaming]
"""What a front serves."""

Table = Mapping[str, Handler | StreamHandler]
"""What answers each path, for one caller."""


class Door(Protocol):
    """Knows callers by what they show, and what answers each of them."""

    def table(self, authorization: str, names: Iterable[str] = ()) -> Table:
        """The handlers of the caller that shows this: at once, and before anything of the call is read.

        Args:
            authorization: The header of that name; empty: none.
            names: URIs and DNS names of the verified client certificate.

        Raises:
            UnauthenticatedError: Nobody is known by it.
        """
        ...


class Exposure(msgspec.Struct, frozen=True, kw_only=True):
    """Who can reach a front, and who is let in.

    Attributes:
        setting: What names the address, for messages.
        allow_remote: Other machines may reach the address.
        access: Who may open the socket, where the address is one.
        tls: What a TLS handshake shows and asks for; None: no TLS.
        door: Knows callers; None: everybody who reaches the front is served alike.
    """

    setting: str = "--listen"
    allow_remote: bool = False
    access: SocketAccess = SocketAccess()
    tls: ServerTls | None = None
    door: Door | None = None


PRIVATE = Exposure()
"""This machine alone, a socket of this user alone, nobody is asked who they are."""


class Front(Protocol):
    """Serves a table of methods on one address."""

    async def start(self) -> str:
        """Listens and answers; returns the address bound, with the port that was chosen for port 0.

        Raises:
            ConfigurationError: The address cannot be listened on; names the setting and what would be right.
        """
        ...

    async def drain(self, grace: float) -> None:
        """Says NOT_SERVING, stays for `grace` seconds, then refuses calls and waits for those under way."""
        ...

    async def stop(self) -> None:
        """Closes the listener and cuts what still runs. May be repeated."""
        ...


class Admission:
    """How many calls wait, and whether more may begin. One per front, used on its event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting = 0
        _admissions.add(self)
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    def check(self) -> None:
        """Says whether one more call may begin.

        Raises:
            DrainingError: The process is going away.
            ExhaustedError: Too many calls wait already.
        """
        if self._waiting < self._limit and not self._closed:
            return
        if self._closed:
            raise DrainingError("this sidecar is shutting down: call again on a new connection")
        metrics.calls_shed.inc()
        raise ExhaustedError(
            f"{self._waiting} calls are waiting already, {self._limit} may: slow down", RETRY_SHED_AFTER
        )

    def enter(self) -> None:
        """A call begins to wait."""
        if not self._waiting:
            self._idle.clear()
        self._waiting += 1

    def leave(self) -> None:
        """A call that waited has ended."""
        self._waiting -= 1
        if not self._waiting:
            self._idle.set()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    def close(self) -> None:
        """No call begins from now on."""
        self._closed = True

    async def idle(self, timeout: float) -> bool:  # noqa: ASYNC109 - the deadline belongs to the drain
        """Waits until no call waits; false when `timeout` seconds were not enough."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


_admissions: WeakSet[Admission] = WeakSet()
# Asked for when somebody looks: counting each call would cost as much as an answer from memory.
metrics.calls_in_flight.set_function(lambda: sum(one.waiting for one in list(_admissions)))


def check_size(payload: bytes) -> None:
    """Refuses a request that is too large.

    Raises:
        ExhaustedError: Names both sizes.
    """
    if len(payload) > MAX_REQUEST_BYTES:
        raise ExhaustedError(
            f"the request has {len(payload)} bytes, at most {MAX_REQUEST_BYTES} are read: "
            "send smaller batches"
        )
