"""Both fronts, serving the same few handlers that echo, wait and fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.sidecar.rpc.aio_front import AioFront
from entitlement_sidecar.sidecar.rpc.fast_front import FastFront
from entitlement_sidecar.sidecar.rpc.front import Front, Method, Streaming

ENTITLEMENTS = "/entitlement.v1.EntitlementService/"
USAGE = "/entitlement.v1.UsageService/"

FrontFactory = Callable[..., Front]


class Handlers:
    """What the fronts serve here, and what became of the calls that wait."""

    def __init__(self) -> None:
        self.began = 0
        self.cancelled = 0
        self.release = asyncio.Event()

    def methods(self) -> list[Method | Streaming]:
        """Paths of the contract, with handlers that show what a front does."""
        return [
            Method(ENTITLEMENTS + "CheckEntitlement", self.now),
            Method(ENTITLEMENTS + "BatchCheckEntitlements", self.later),
            Method(ENTITLEMENTS + "ListEntitlements", self.wait),
            Method(ENTITLEMENTS + "ExplainEntitlement", self.refuse),
            Method(USAGE + "ReportUsage", self.refuse_later),
            Method(USAGE + "RecordTask", self.fail),
            Streaming(ENTITLEMENTS + "WatchEntitlements", self.stream),
        ]

    def now(self, payload: bytes) -> bytes:
        """Echoes at once."""
        return payload

    async def later(self, payload: bytes) -> bytes:
        """Echoes after a turn of the loop."""
        await asyncio.sleep(0)
        return payload

    async def wait(self, payload: bytes) -> bytes:
        """Echoes once released."""
        self.began += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return payload

    def refuse(self, payload: bytes) -> bytes:
        """Refuses on purpose."""
        raise InvalidInputError.of("tenant_id", f"expected a tenant, got {payload!r}")

    def refuse_later(self, payload: bytes) -> Awaitable[bytes]:
        """Refuses on purpose, after a turn of the loop."""

        async def refuse() -> bytes:
            await asyncio.sleep(0)
            return self.refuse(payload)

        return refuse()

    def fail(self, payload: bytes) -> bytes:
        """Fails by accident, with something that is nobody's business."""
        raise KeyError("hunter2", payload)

    async def stream(self, payload: bytes) -> AsyncIterator[bytes]:
        """Echoes twice, then refuses."""
        yield payload
        yield payload
        self.refuse(payload)


@pytest.fixture(params=["aio", "fast"])
def make_front(request: pytest.FixtureRequest) -> FrontFactory:
    """Each front in turn."""
    return {"aio": AioFront, "fast": FastFront}[request.param]


@pytest.fixture
def handlers() -> Handlers:
    """Fresh handlers."""
    return Handlers()


@pytest.fixture
async def front(make_front: FrontFactory, handlers: Handlers) -> AsyncIterator[Front]:
    """A front that is not started yet, on a free port."""
    front = make_front("127.0.0.1:0", handlers.methods(), max_in_flight=100)
    yield front
    await front.stop()


@pytest.fixture
async def channel(front: Front) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the front, started."""
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(await front.start(), options=options) as channel:
        yield channel


@pytest.fixture
def socket_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short path, as Unix sockets need one, that only this user may enter."""
    folder = tmp_path_factory.mktemp("s")
    folder.chmod(0o700)
    return folder


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Polls a condition, and fails when it does not come true."""

    async def poll(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    return poll
