"""Whose address a plan store sees: that of the connection, whatever a caller says."""

from __future__ import annotations

import asyncio

import httpx
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from entitlement_sidecar.telemetry.probes import HttpServer


async def tell_address(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with who calls."""
    client = Request(scope).client
    await PlainTextResponse(client.host if client else "")(scope, receive, send)


async def test_a_caller_cannot_choose_its_address() -> None:
    """By it wrong tokens are counted: who could choose one would guess without being slowed down."""
    server = HttpServer(tell_address, "127.0.0.1:0", allow_remote=False)
    serving = asyncio.create_task(server.run_until_stopped())
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
            answer = await client.get("/", headers={"X-Forwarded-For": "203.0.113.9"})
        assert answer.text == "127.0.0.1"
    finally:
        server.stop()
        await serving
        server.close()
