"""What stands before every route: token, rights and the size of the body; and requests are counted.

Token, rights and size are judged before anything of a request is read or parsed. Behind it, who calls is the
current principal (its rights) and the current actor (what the audit log says).
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from entitlement_sidecar.domain.errors import EntitlementsError, ForbiddenError, InvalidInputError
from entitlement_sidecar.planstore.access import Gate, Principal, being
from entitlement_sidecar.planstore.api import permissions, problems
from entitlement_sidecar.planstore.audit import Actor, acting
from entitlement_sidecar.telemetry import metrics

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a request at most; the largest are catalogues."""

OPEN = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json", "/docs"})
"""Paths that need no token."""

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Methods that are counted by name: callers may send any word."""

MAX_REASON = 500
MAX_REQUEST_ID = 128

_ASKED = "entitlements.asked"
_FORBIDDEN = 403


class _Caller(msgspec.Struct, frozen=True):
    """Who calls, and what it asks for; no `asked` where there is no such route."""

    principal: Principal
    actor: Actor
    asked: permissions.Asked | None


class Guard:
    """ASGI middleware. `routes` are those that need a token, in the order in which they are tried."""

    def __init__(self, app: ASGIApp, gate: Gate, routes: Sequence[Route]) -> None:
        self._app = app
        self._gate = gate
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        request_id = _request_id(Headers(scope=scope))

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._answer(scope, receive, sending, request_id)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.rest_requests.labels(route, method, f"{status // 100}xx").inc()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        if scope["path"] in OPEN:
            await self._pass(scope, receive, send)
            return
        try:
            caller = await self._caller(scope, request_id)
        except EntitlementsError as error:
            await problems.of(error)(scope, receive, send)
            return
        with being(caller.principal), acting(caller.actor):
            await self._answer_known(caller, scope, receive, self._noting(caller, send))

    async def _answer_known(self, caller: _Caller, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if caller.asked is not None:
                caller.asked.permit(caller.principal)
        except ForbiddenError as error:
            await problems.of(error)(scope, receive, send)
        else:
            scope.setdefault("state", {})[_ASKED] = caller.asked
            await self._pass(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _declared(Headers(scope=scope)) > MAX_BODY:
            await _refuse_large()(scope, receive, send)
        else:
            await self._app(scope, _counted(receive), send)

    async def _caller(self, scope: Scope, request_id: str) -> _Caller:
        headers = Headers(scope=scope)
        authorization = headers.get("authorization", "")
        principal = self._gate.known(authorization)
        if principal is None:
            # It may look into the database, which the event loop must not wait for.
            principal = await run_in_threadpool(self._gate.admit, authorization, _peer(scope))
        actor = Actor(principal.name, principal.role.value, _reason(headers), request_id)
        return _Caller(principal, actor, permissions.asked(self._routes, scope))

    def _noting(self, caller: _Caller, send: Send) -> Send:
        """Every refusal is noted before it is answered, whoever refuses: the guard, or a route."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == _FORBIDDEN:
                call, tenant = (caller.asked.call, caller.asked.tenant_id) if caller.asked else ("", "")
                await run_in_threadpool(self._gate.note_refusal, caller.principal, call, tenant)
            await send(message)

        return noting


async def as_permitted(request: Request) -> None:
    """A dependency of every route: it is the one that the guard has judged, about the same tenant.

    Raises:
        InvalidInputError: Path or query hold what no text may hold.
        ForbiddenError: It is another. Guard and router would disagree on what a path means.
    """
    asked: permissions.Asked | None = getattr(request.state, _ASKED, None)
    path = getattr(request.scope.get("route"), "path", "")
    tenant = request.path_params.get("tenant_id", "")
    if asked is None or asked.call != f"{request.method} {path}" or asked.tenant_id not in {"", tenant}:
        raise ForbiddenError(permissions.UNDECLARED)
    _refuse_nul(request)


def _request_id(headers: Headers) -> str:
    """The caller's, where it can be one."""
    given = headers.get("x-request-id", "")
    fits = 0 < len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable()
    return given if fits else uuid.uuid4().hex


def _reason(headers: Headers) -> str:
    """Why, for the audit log. Headers come as Latin-1, and are meant as UTF-8."""
    reason = headers.get("x-reason", "").encode("latin-1").decode("utf-8", "replace").strip()
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise InvalidInputError.of("X-Reason", f"expected at most {MAX_REASON} printable characters")
    return reason


def _refuse_nul(request: Request) -> None:
    """No text that is stored may hold it, so nothing is found by it either."""
    for name, value in (*request.path_params.items(), *request.query_params.multi_items()):
        if "\0" in name or "\0" in str(value):
            raise InvalidInputError.of(name.replace("\0", ""), "expected no NUL character")


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _declared(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _refuse_large() -> JSONResponse:
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
