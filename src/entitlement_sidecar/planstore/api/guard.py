"""What stands before every route: the bearer token and the size of the body, and requests are counted.

Token and size are judged before anything of a request is read or parsed.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from entitlement_sidecar.domain.errors import UnauthenticatedError
from entitlement_sidecar.planstore.api import problems
from entitlement_sidecar.telemetry import metrics

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a request at most; the largest are catalogues."""

OPEN = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json", "/docs"})
"""Paths that need no token."""

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Methods that are counted by name: callers may send any word."""


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._answer(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.rest_requests.labels(route, method, f"{status // 100}xx").inc()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["path"] not in OPEN and not self._authorised(headers):
            await _refuse_unknown()(scope, receive, send)
        elif _declared(headers) > MAX_BODY:
            await _refuse_large()(scope, receive, send)
        else:
            await self._app(scope, _counted(receive), send)

    def _authorised(self, headers: Headers) -> bool:
        return hmac.compare_digest(headers.get("authorization", "").encode(), self._expected)


def _declared(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _refuse_unknown() -> ASGIApp:
    return problems.of(
        UnauthenticatedError("expected the header `Authorization: Bearer TOKEN` with the plan store's token")
    )


def _refuse_large() -> ASGIApp:
    return problems.problem(413, "The body is too large", _too_large(), "TOO_LARGE")


def _too_large() -> str:
    return f"expected a body of at most {MAX_BODY} bytes"


def _counted(receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A body without a declared size is cut off where it grows too large."""
    size = 0

    async def counting() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            raise HTTPException(413, _too_large())
        return message

    return counting
