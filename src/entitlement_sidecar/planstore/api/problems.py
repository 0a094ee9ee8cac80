"""Errors as RFC 9457 problems: what was wrong, where, and what would be right. Nothing internal leaks."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from entitlement_sidecar.domain import errors
from entitlement_sidecar.planstore.api.etags import version_tag
from entitlement_sidecar.planstore.api.idempotency import KeyInUseError, KeyReusedError
from entitlement_sidecar.planstore.db.away import AWAY

MEDIA_TYPE = "application/problem+json"

_log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[errors.EntitlementsError], int, str], ...] = (
    (KeyReusedError, 422, "The idempotency key is that of another request"),
    (KeyInUseError, 409, "The first request with this idempotency key is still being answered"),
    (errors.CatalogueError, 422, "The catalogue is wrong"),
    (errors.InvalidInputError, 422, "The request is malformed"),
    (errors.StaleVersionError, 409, "The version is no longer current"),
    (errors.ConflictError, 409, "The request conflicts with what is stored"),
    (errors.NotFoundError, 404, "Not found"),
    (errors.UnauthenticatedError, 401, "Credentials are missing or wrong"),
    (errors.ForbiddenError, 403, "Not permitted"),
    (errors.TooManyAttemptsError, 429, "Too many attempts"),
    (errors.RetryableError, 503, "Not possible now"),
)

_DATABASE_AWAY = errors.SourceUnavailableError("the database is away: try again", 1.0)


def problem(
    status: int,
    title: str,
    detail: str,
    reason: str,
    *,
    headers: dict[str, str] | None = None,
    **more: Any,  # noqa: ANN401 - extension members are JSON
) -> JSONResponse:
    """A problem response; `reason` is stable and for programs."""
    body = {
        "type": type_of(reason),
        "title": title,
        "status": status,
        "detail": detail,
        "reason": reason,
        **more,
    }
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def type_of(reason: str) -> str:
    """The problem type's URI."""
    return f"urn:entitlement-sidecar:problem:{reason.lower().replace('_', '-')}"


def of(error: errors.EntitlementsError) -> JSONResponse:
    """The problem of an error that was raised on purpose."""
    for kind, status, title in _STATUS:
        if isinstance(error, kind):
            return problem(
                status, title, str(error), error.reason, headers=_headers(error), **_extensions(error)
            )
    return unexpected(error)


def unexpected(error: BaseException) -> JSONResponse:
    """The problem of an error that nobody meant: it says nothing but where to look."""
    incident = uuid.uuid4().hex[:12]
    _log.error("unexpected error, incident %s", incident, exc_info=error)
    detail = f"internal error; see the log for incident {incident}"
    return problem(500, "Internal error", detail, "INTERNAL", incident=incident)


def install(app: FastAPI) -> None:
    """Answers every error of an app with a problem."""
    app.add_exception_handler(errors.EntitlementsError, _on_product_error)
    app.add_exception_handler(RequestValidationError, _on_malformed)
    app.add_exception_handler(HTTPException, _on_http_error)
    for away in AWAY:
        app.add_exception_handler(away, _on_database_away)
    app.add_exception_handler(Exception, _on_unexpected)


def _headers(error: errors.EntitlementsError) -> dict[str, str]:
    if isinstance(error, errors.UnauthenticatedError):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, errors.RetryableError) and error.retry_after is not None:
        return {"Retry-After": str(math.ceil(error.retry_after))}
    if isinstance(error, errors.StaleVersionError) and error.current_version is not None:
        return {"ETag": version_tag(error.current_version)}
    return {}


def _extensions(error: errors.EntitlementsError) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(error, errors.InvalidInputError):
        found["violations"] = [{"field": v.field, "description": v.description} for v in error.violations]
    if isinstance(error, errors.CatalogueError):
        found["problems"] = [
            {"line": p.line, "column": p.column, "path": p.path, "message": p.message} for p in error.problems
        ]
    if isinstance(error, errors.StaleVersionError) and error.current_version is not None:
        found["current_version"] = error.current_version
    if isinstance(error, errors.LossesError):
        found["losses"] = list(error.losses)
    return found


def _on_product_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, errors.StaleVersionError) and "if-match" in request.headers:
        more = {"headers": _headers(error), **_extensions(error)}
        return problem(412, "The version is no longer current", str(error), "PRECONDITION_FAILED", **more)
    return of(error) if isinstance(error, errors.EntitlementsError) else unexpected(error)


def _on_malformed(_: Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else ()
    return of(errors.InvalidInputError([_violation(item) for item in found]))


_SAID = {
    "extra_forbidden": "not known here: /docs lists what this call takes",
    "missing": "missing, and required",
    "model_attributes_type": "expected a JSON object",
    "dict_type": "expected a JSON object",
}
"""What is said of malformed values where the framework speaks of its own things."""


def _violation(item: dict[str, Any]) -> errors.Violation:
    if item["type"] == "json_invalid":
        return errors.Violation("body", f"expected JSON: {item.get('ctx', {}).get('error', 'malformed')}")
    if item["type"] in _SAID:
        return errors.Violation(_field(item["loc"]), _SAID[item["type"]])
    return errors.Violation(_field(item["loc"]), item["msg"][:1].lower() + item["msg"][1:])


def _field(location: Sequence[str | int]) -> str:
    """`body.add_ons.seats` as `add_ons.seats`: where a value came from is plain from the request."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])


def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    title = str(error.detail) if isinstance(error, HTTPException) else ""
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    detail = title
    if status == HTTPStatus.NOT_FOUND:
        detail = "no such path: /docs lists all there are"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed(request)
        detail = f"{request.method} is not for this path, which takes {headers['Allow']}"
    reasons = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "TOO_LARGE", 415: "UNSUPPORTED_MEDIA_TYPE"}
    return problem(status, title, detail, reasons.get(status, "INVALID_INPUT"), headers=headers)


def _allowed(request: Request) -> str:
    """Methods of every route of this path; the framework names those of the first alone."""
    here = [route for route in request.app.state.routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in here for method in route.methods})) or "GET"


def _on_database_away(_: Request, error: Exception) -> JSONResponse:
    _log.warning("database away: %s", type(error).__name__)
    return of(_DATABASE_AWAY)


def _on_unexpected(_: Request, error: Exception) -> JSONResponse:
    return unexpected(error)
