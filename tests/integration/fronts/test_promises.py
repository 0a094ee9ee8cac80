"""Answers that come by themselves, through both fronts: given, refused, left behind, drained and cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from entitlement_sidecar.domain.errors import OutboxFullError
from entitlement_sidecar.sidecar.promise import Promise
from entitlement_sidecar.sidecar.rpc.front import Method

CHECK = "/entitlement.v1.EntitlementService/CheckEntitlement"

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Site:
    """A front whose only handler promises an answer, and what it has promised."""

    def __init__(self, make_front: Any) -> None:
        self.promises: list[Promise] = []
        self.front = make_front("127.0.0.1:0", [Method(CHECK, self._promise)], max_in_flight=4)

    def _promise(self, payload: bytes) -> Promise:
        assert payload == b"x"
        self.promises.append(Promise())
        return self.promises[-1]

    @property
    def waiting(self) -> int:
        """Calls under way, as the front counts them."""
        count: int = self.front._admission.waiting
        return count


@pytest.fixture
async def site(make_front: Any) -> AsyncIterator[Site]:
    """A front of either kind."""
    site = Site(make_front)
    yield site
    await site.front.stop()


@pytest.fixture
async def channel(site: Site) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to it."""
    async with grpc.aio.insecure_channel(await site.front.start()) as channel:
        yield channel


def calls(channel: grpc.aio.Channel, count: int) -> list[asyncio.Future[bytes]]:
    """Calls under way."""
    return [asyncio.ensure_future(channel.unary_unary(CHECK)(b"x", timeout=60)) for _ in range(count)]


async def test_promises_are_kept_or_refused(site: Site, channel: grpc.aio.Channel, until: Until) -> None:
    """Given calls that wait, then each gets its own answer or error, in whatever order."""
    under_way = calls(channel, 3)
    await until(lambda: len(site.promises) == site.waiting == 3)
    site.promises[2].keep(b"c")
    site.promises[0].keep(None, OutboxFullError("no room", 1.0))
    site.promises[1].keep(b"b")
    answers = await asyncio.gather(*under_way, return_exceptions=True)
    refused = [one for one in answers if isinstance(one, grpc.aio.AioRpcError)]
    assert [one.code() for one in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert {one for one in answers if isinstance(one, bytes)} == {b"b", b"c"}
    await until(lambda: site.waiting == 0)


async def test_who_has_left_is_not_answered(site: Site, channel: grpc.aio.Channel, until: Until) -> None:
    """Given callers that leave, then keeping their promises, or not, harms nobody."""
    leavers = calls(channel, 2)
    await until(lambda: len(site.promises) == 2)
    for one in leavers:
        one.cancel()
    await asyncio.wait(leavers)
    [stays] = calls(channel, 1)
    await until(lambda: len(site.promises) == 3)
    site.promises[0].keep(b"nobody")
    site.promises[1].keep(None, OutboxFullError("no room", 1.0))
    site.promises[2].keep(b"somebody")
    assert await stays == b"somebody"
    await until(lambda: site.waiting == 0)


async def test_promises_count_as_calls_under_way(site: Site, channel: grpc.aio.Channel, until: Until) -> None:
    """Given as many as may wait, then one more is shed, and there is room again once one is answered."""
    under_way = calls(channel, 4)
    await until(lambda: site.waiting == 4)
    [shed] = await asyncio.gather(*calls(channel, 1), return_exceptions=True)
    assert isinstance(shed, grpc.aio.AioRpcError)
    assert shed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    site.promises[0].keep(b"done")
    await until(lambda: site.waiting == 3)
    under_way += calls(channel, 1)
    await until(lambda: len(site.promises) == 5)
    for promise in site.promises[1:]:
        promise.keep(b"done")
    assert await asyncio.gather(*under_way) == [b"done"] * 5


async def test_a_drain_waits_for_promises(site: Site, channel: grpc.aio.Channel, until: Until) -> None:
    """Given promises under way, then a drain ends once they are kept, and their callers have the answers."""
    under_way = calls(channel, 3)
    await until(lambda: site.waiting == 3)
    draining = asyncio.ensure_future(site.front.drain(0))
    for promise in site.promises:
        await asyncio.sleep(0)
        assert not draining.done()
        promise.keep(b"yes")
    assert await asyncio.gather(*under_way) == [b"yes"] * 3
    await draining


async def test_a_stop_cuts_promises(site: Site, channel: grpc.aio.Channel, until: Until) -> None:
    """Given a promise that nobody drained, then its caller may try again; keeping it later harms nobody."""
    [cut] = calls(channel, 1)
    await until(lambda: site.waiting == 1)
    await site.front.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cut
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    site.promises[0].keep(b"late")
    await until(lambda: site.waiting == 0)
