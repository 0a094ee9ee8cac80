"""`/livez`, `/readyz` and `/metrics` over HTTP, for any process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from entitlement_sidecar.domain.address import tcp_address
from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.telemetry import metrics

GRACE = 5
"""Seconds that requests under way may take while stopping."""

Readiness = Callable[[], dict[str, object]]
"""What `/readyz` shows; it is ready when the key `ready` is true."""


def probe_routes(readiness: Readiness) -> list[Route]:
    """Routes of the three probes. Liveness depends on nothing remote."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        state = readiness()
        return JSONResponse(state, status_code=200 if state["ready"] else 503)

    async def show_metrics(_: Request) -> Response:
        return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", show_metrics)]


def probe_app(readiness: Readiness) -> Starlette:
    """An application of the probes alone."""
    return Starlette(routes=probe_routes(readiness))


class HttpServer(uvicorn.Server):
    """Uvicorn inside a process that handles signals itself.

    Binds at once, so that a taken port is an error of the setting and not of a server that has begun.

    Raises:
        ConfigurationError: The address is malformed, taken, or not this machine's.
    """

    def __init__(self, app: ASGIApp, address: str, *, allow_remote: bool) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=GRACE,
                # Whoever calls could say there that he is somebody else.
                proxy_headers=False,
            )
        )
        self._socket = _bind(address, allow_remote=allow_remote)
        self.port: int = self._socket.getsockname()[1]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the process."""
        yield

    async def run_until_stopped(self) -> None:
        """Serves until `stop`."""
        await self.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Ends `run_until_stopped` once requests under way are answered, or after `GRACE`."""
        self.should_exit = True

    def close(self) -> None:
        """Lets go of the address, also when it was never served. May be repeated."""
        self._socket.close()


def _bind(address: str, *, allow_remote: bool) -> socket.socket:
    host, port = tcp_address(address, "--http", allow_remote=allow_remote)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By this protocol asyncio knows that it may switch Nagle's algorithm off. An answer leaves in two pieces,
    # and a caller that keeps its connection would wait 40 ms for the second one.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From here on callers are kept waiting instead of refused.
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"--http {address}: {error.strerror}; choose another address, or port 0 for a free one"
        ) from error
    return listener
