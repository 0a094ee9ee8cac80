"""What a caller sees, on each front."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from entitlement_sidecar.sidecar.rpc.front import MAX_REQUEST_BYTES
from entitlement_sidecar.wire.status import from_rpc_error

CHECK = "/entitlement.v1.EntitlementService/CheckEntitlement"
BATCH = "/entitlement.v1.EntitlementService/BatchCheckEntitlements"
WAIT = "/entitlement.v1.EntitlementService/ListEntitlements"
REFUSE = "/entitlement.v1.EntitlementService/ExplainEntitlement"
WATCH = "/entitlement.v1.EntitlementService/WatchEntitlements"
REFUSE_LATER = "/entitlement.v1.UsageService/ReportUsage"
FAIL = "/entitlement.v1.UsageService/RecordTask"

Until = Callable[[Callable[[], bool]], Awaitable[None]]


def call(channel: grpc.aio.Channel, path: str, payload: bytes = b"x", timeout: float = 20) -> Any:
    """Begins a unary call of raw bytes."""
    return channel.unary_unary(path)(payload, timeout=timeout)


async def failure(awaitable: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


@pytest.mark.parametrize("path", [CHECK, BATCH])
@pytest.mark.parametrize("payload", [b"", b"hello", b"x" * 1_000_000], ids=["empty", "short", "long"])
async def test_bytes_pass_through(channel: grpc.aio.Channel, path: str, payload: bytes) -> None:
    """What a handler answers, at once or later, arrives unchanged."""
    assert await call(channel, path, payload) == payload


async def test_many_calls_at_once_each_get_their_own_answer(channel: grpc.aio.Channel) -> None:
    """Answers are never swapped, whether they come at once or later."""
    payloads = [str(number).encode() for number in range(190)]

    answers = await asyncio.gather(
        *(call(channel, (CHECK, BATCH)[number % 2], payload) for number, payload in enumerate(payloads))
    )

    assert answers == payloads


@pytest.mark.parametrize("path", [REFUSE, REFUSE_LATER])
async def test_errors_carry_details(channel: grpc.aio.Channel, path: str) -> None:
    """A refusal names the field, readable by the standard helper and by our own."""
    error = await failure(call(channel, path))

    status = rpc_status.from_call(error)
    request = error_details_pb2.BadRequest()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert any(detail.Unpack(request) for detail in status.details)
    assert request.field_violations[0].field == "tenant_id"
    assert "tenant_id: expected a tenant" in str(from_rpc_error(error))


async def test_accidents_leak_nothing(channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is INTERNAL with an incident id; the log has both the id and the cause."""
    with caplog.at_level(logging.ERROR):
        error = await failure(call(channel, FAIL))

    incident = (error.details() or "").rpartition(" ")[2]
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(error)
    assert incident in caplog.text
    assert "hunter2" in caplog.text


async def test_streams_arrive_in_order_and_end_with_their_error(channel: grpc.aio.Channel) -> None:
    """A server stream delivers its messages, then the status of what it raised."""
    stream = channel.unary_stream(WATCH)(b"x", timeout=20)

    assert [await stream.read(), await stream.read()] == [b"x", b"x"]
    assert (await failure(stream.read())).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_passed_deadline_cancels_the_handler(
    channel: grpc.aio.Channel, handlers: Any, until: Until
) -> None:
    """The caller gets DEADLINE_EXCEEDED, and the handler stops waiting."""
    error = await failure(call(channel, WAIT, timeout=0.2))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: handlers.cancelled == handlers.began)


async def test_a_caller_that_leaves_cancels_the_handler(
    channel: grpc.aio.Channel, handlers: Any, until: Until
) -> None:
    """A cancelled call does not keep its handler."""
    waiting = call(channel, WAIT)
    await until(lambda: handlers.began == 1)

    waiting.cancel()

    await until(lambda: handlers.cancelled == 1)
    assert await call(channel, CHECK, b"still here") == b"still here"


async def test_the_largest_request_is_read(channel: grpc.aio.Channel) -> None:
    """A request of exactly the limit is served."""
    assert len(await call(channel, CHECK, b"x" * MAX_REQUEST_BYTES)) == MAX_REQUEST_BYTES


async def test_larger_requests_are_refused_with_both_sizes(channel: grpc.aio.Channel) -> None:
    """An oversized request is RESOURCE_EXHAUSTED, and its message names its size and the limit."""
    error = await failure(call(channel, CHECK, b"x" * (MAX_REQUEST_BYTES + 1)))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MAX_REQUEST_BYTES) in (error.details() or "")
    assert str(MAX_REQUEST_BYTES + 1) in (error.details() or "")


async def test_too_many_waiting_calls_are_refused_with_a_wait(
    channel: grpc.aio.Channel, handlers: Any, until: Until
) -> None:
    """Past the bound a call is RESOURCE_EXHAUSTED with RetryInfo; those that wait are not harmed."""
    waiting = [asyncio.ensure_future(call(channel, WAIT)) for _ in range(100)]
    await until(lambda: handlers.began == 100)

    refused = from_rpc_error(await failure(call(channel, WAIT)))
    handlers.release.set()

    assert refused.reason == "EXHAUSTED"
    assert refused.retry_after > 0
    assert await asyncio.gather(*waiting) == [b"x"] * 100


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/entitlement.v1.UsageService/Reserve", "not available in this version"),
        ("/entitlement.v1.Nothing/AtAll", "entitlement.v1.EntitlementService"),
    ],
)
async def test_what_is_not_served_is_unimplemented(channel: grpc.aio.Channel, path: str, says: str) -> None:
    """RPCs without a handler and unknown paths say so, and what is served."""
    error = await failure(call(channel, path))

    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert path in (error.details() or "")
    assert says in (error.details() or "")
