"""Health and reflection, on each front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from entitlement_sidecar.sidecar.rpc.front import Front

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("name", ["", "entitlement.v1.EntitlementService", "entitlement.v1.UsageService"])
async def test_each_service_has_its_health(channel: grpc.aio.Channel, front: Front, name: str) -> None:
    """Every name is SERVING, until the front drains."""
    health = health_pb2_grpc.HealthStub(channel)
    before = await health.Check(health_pb2.HealthCheckRequest(service=name))

    await front.drain(0)

    after = await health.Check(health_pb2.HealthCheckRequest(service=name))
    assert (before.status, after.status) == (SERVING, NOT_SERVING)


async def test_unknown_health_names_are_not_found(channel: grpc.aio.Channel) -> None:
    """Health of a service that is not served is NOT_FOUND, as the protocol has it."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_listing_health_is_refused_and_is_no_defect(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    """Anybody may ask for it, so it must neither show what is inside nor fill the log."""
    listing = channel.unary_unary("/grpc.health.v1.Health/List")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await listing(b"")

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "by its name" in str(caught.value.details())
    assert "NotImplementedError" not in caplog.text


async def test_watchers_of_health_hear_of_the_drain(channel: grpc.aio.Channel, front: Front) -> None:
    """A watch is told when the front begins to drain, and does not hold the drain up."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    before = await watch.read()

    async with asyncio.timeout(5):
        await front.drain(0)

    assert before.status == SERVING
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()


async def test_reflection_lists_the_services(channel: grpc.aio.Channel) -> None:
    """Tools find the contract without its files."""

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="entitlement.v1.EntitlementService"
        )

    replies = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask())
    services, file = [reply async for reply in replies]

    assert {service.name for service in services.list_services_response.service} == {
        "entitlement.v1.EntitlementService",
        "entitlement.v1.UsageService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert b"CheckEntitlement" in b"".join(file.file_descriptor_response.file_descriptor_proto)
