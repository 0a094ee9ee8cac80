"""How a plan store goes: it says so first, and answers until others have heard it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from entitlement_sidecar.planstore import process
from entitlement_sidecar.planstore.config import PlanstoreConfig
from entitlement_sidecar.planstore.db.migrate import migrate


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> PlanstoreConfig:
    """Settings of a plan store that other machines may call."""
    migrate(database_url)
    return PlanstoreConfig(
        database=database_url,
        http="127.0.0.1:0",
        grpc="127.0.0.1:0",
        state_dir=tmp_path / "state",
        allow_remote=True,
    )


async def ask(http: int, port: int) -> tuple[int, int, int]:
    """Liveness, readiness, and the health of all services, which nobody lists."""
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{http}", timeout=10) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError, match="by its name"):
            await channel.unary_unary("/grpc.health.v1.Health/List")(b"", timeout=10)
        return (
            (await client.get("/livez")).status_code,
            (await client.get("/readyz")).status_code,
            answer.status,
        )


async def test_it_is_not_ready_before_it_stops(
    config: PlanstoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stop readiness and health say no while calls are still answered; then it ends."""
    lingering, go_on = asyncio.Event(), asyncio.Event()

    async def linger(seconds: float) -> None:
        assert seconds == process.LINGER
        lingering.set()
        await go_on.wait()

    monkeypatch.setattr(process, "_linger", linger)
    stopping, ports = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        process.serve(config, stopping, lambda *found: ports.set_result(found)),
    )
    at = await asyncio.wait_for(ports, 20)
    assert await ask(*at) == (200, 200, health_pb2.HealthCheckResponse.SERVING)

    stopping.set()
    await asyncio.wait_for(lingering.wait(), 10)

    assert await ask(*at) == (200, 503, health_pb2.HealthCheckResponse.NOT_SERVING)
    go_on.set()
    await asyncio.wait_for(serving, 20)
