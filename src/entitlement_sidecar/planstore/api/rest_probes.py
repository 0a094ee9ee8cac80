"""Is it alive, may it serve, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import PlainTextResponse, Response

from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.db.migrate import is_current
from entitlement_sidecar.telemetry.metrics import REGISTRY


def probes(dependencies: ApiDependencies) -> APIRouter:
    """Routes that need no token."""
    router = APIRouter(include_in_schema=False, default_response_class=PlainTextResponse)

    @router.get("/livez")
    def livez() -> str:
        """The process answers."""
        return "ok\n"

    @router.get("/readyz")
    def readyz() -> Response:
        """The database answers and has the schema that this version expects, and the process stays."""
        cause = _unready(dependencies)
        return PlainTextResponse(f"{cause or 'ok'}\n", 503 if cause else 200)

    @router.get("/metrics")
    def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return router


def _unready(dependencies: ApiDependencies) -> str:
    if dependencies.leaving.is_set():
        return "the process is about to stop"
    try:
        current = is_current(dependencies.database.engine)
    except SQLAlchemyError:
        return "the database does not answer"
    return "" if current else "the database needs `entitlements planstore migrate`"
