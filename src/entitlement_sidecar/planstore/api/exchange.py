"""What every route does beside its own work: answers with versions, and answers repeated requests.

`exchanging(router, …)` gives each route of a router one frame. Around a GET of what has a version: `ETag`,
and 304 where the caller has the answer already; `ETag` also of what a change answers. Around a POST:
`Idempotency-Key` (see `idempotency`). A route only returns its view; what it declares is in the OpenAPI
document. All of it runs in the route's own thread.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.routing import APIRoute
from pydantic import BaseModel

from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.etags import is_held, tag_of
from entitlement_sidecar.planstore.api.idempotency import (
    IdempotentAnswers,
    KeyedRequest,
    is_repeatable,
)

_JSON = "application/json"
_NOT_MODIFIED = 304
_FIRST_ERROR = 400
_NO_CONTENT = 204


class Exchange(msgspec.Struct, frozen=True):
    """One request: what a route may have set for its answer, and what the caller asked beside the route."""

    reply: Response
    if_none_match: str | None = None
    keyed: KeyedRequest | None = None


def _other(response: Response) -> Exchange:
    return Exchange(response)


def _read(
    response: Response,
    if_none_match: Annotated[
        str | None,
        Header(max_length=1024, description="`ETag` of an answer before: 304 if it is still the answer."),
    ] = None,
) -> Exchange:
    return Exchange(response, if_none_match=if_none_match)


async def _post(
    request: Request,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=r"^[ -~]+$",
            description="Any text of your own: the same request with the same key is done once, and gets "
            "the same answer, for 24 hours.",
            examples=["3f2c6e0a-order-17"],
        ),
    ] = None,
) -> Exchange:
    if idempotency_key is None:
        return Exchange(response)
    target = f"{request.method} {request.scope['path']}?{request.scope['query_string'].decode('latin-1')}"
    if if_match := request.headers.get("if-match"):
        # The same change of another version is another request.
        target += f" {if_match}"
    return Exchange(response, keyed=KeyedRequest.of(idempotency_key, target, await request.body()))


def _frame(route: APIRoute) -> Callable[..., Any]:
    method = min(route.methods or {""})
    if method == "POST":
        return _post
    versioned = "version" in getattr(route.response_model, "model_fields", {})
    return _read if method == "GET" and versioned else _other


def exchanging(router: APIRouter, dependencies: ApiDependencies) -> APIRouter:
    """The same routes, each in its frame."""
    answers = IdempotentAnswers(dependencies.database, dependencies.clock, dependencies.changed)
    framed = APIRouter()
    for route in router.routes:
        if not isinstance(route, APIRoute):
            raise TypeError(f"{type(route).__name__}: expected a route; routers inside others have no frame")
        if inspect.iscoroutinefunction(route.endpoint):
            raise TypeError(f"{route.path}: expected a synchronous route, one request is one thread's work")
        framed.routes.append(_framed(route, answers))
    return framed


def _framed(route: APIRoute, answers: IdempotentAnswers) -> APIRoute:
    return APIRoute(
        route.path,
        _endpoint(route, answers),
        response_model=route.response_model,
        status_code=route.status_code,
        tags=route.tags,
        dependencies=route.dependencies,
        summary=route.summary,
        description=route.description,
        responses=route.responses,
        deprecated=route.deprecated,
        name=route.name,
        methods=route.methods,
        operation_id=route.operation_id,
        include_in_schema=route.include_in_schema,
        response_class=route.response_class,
        openapi_extra=route.openapi_extra,
    )


def _endpoint(route: APIRoute, answers: IdempotentAnswers) -> Callable[..., Response]:
    endpoint, status = route.endpoint, route.status_code or 200

    keep = answers.answer_repeatable if is_repeatable(endpoint) else answers.answer

    @functools.wraps(endpoint)
    def answering(*, exchange: Exchange, **given: Any) -> Response:  # noqa: ANN401 - what the route takes
        def do() -> Response:
            return _rendered(endpoint(**given), exchange, status)

        return do() if exchange.keyed is None else keep(exchange.keyed, do)

    signature = inspect.signature(endpoint, eval_str=True)
    added = inspect.Parameter(
        "exchange", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Exchange, Depends(_frame(route))]
    )
    own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
    answering.__signature__ = signature.replace(parameters=[*own, added])  # type: ignore[attr-defined]
    return answering


def _rendered(value: Any, exchange: Exchange, status: int) -> Response:  # noqa: ANN401 - what a route returns
    if isinstance(value, Response):
        return value
    status = exchange.reply.status_code or status
    headers = {name: text for name, text in exchange.reply.headers.items() if name != "content-length"}
    if value is None:
        return Response(None, _NO_CONTENT if status == _NO_CONTENT else status, headers)
    content = _text(value)
    version = getattr(value, "version", None)
    if isinstance(version, int) and status < _FIRST_ERROR:
        headers["etag"] = tag_of(version, content)
        if is_held(headers["etag"], exchange.if_none_match):
            return Response(None, _NOT_MODIFIED, headers)
    return Response(content, status, headers, _JSON)


def _text(value: Any) -> bytes:  # noqa: ANN401 - a model, or plain JSON
    if isinstance(value, BaseModel):
        return value.model_dump_json(by_alias=True).encode()
    return json.dumps(jsonable_encoder(value), ensure_ascii=False, separators=(",", ":")).encode()
