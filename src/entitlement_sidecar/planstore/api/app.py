"""The REST application."""

from __future__ import annotations

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from entitlement_sidecar import __version__
from entitlement_sidecar.planstore.api import openapi, problems
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.exchange import exchanging
from entitlement_sidecar.planstore.api.guard import Guard, as_permitted
from entitlement_sidecar.planstore.api.rest_audit import audit
from entitlement_sidecar.planstore.api.rest_break_glass import break_glass
from entitlement_sidecar.planstore.api.rest_catalogue import catalogue
from entitlement_sidecar.planstore.api.rest_credits import credit_grants
from entitlement_sidecar.planstore.api.rest_entitlements import entitlements
from entitlement_sidecar.planstore.api.rest_history import history
from entitlement_sidecar.planstore.api.rest_leases import leases
from entitlement_sidecar.planstore.api.rest_organizations import organizations
from entitlement_sidecar.planstore.api.rest_overrides import overrides
from entitlement_sidecar.planstore.api.rest_plan_migrations import plan_migrations
from entitlement_sidecar.planstore.api.rest_plans import plans
from entitlement_sidecar.planstore.api.rest_probes import probes
from entitlement_sidecar.planstore.api.rest_quarantine import quarantine
from entitlement_sidecar.planstore.api.rest_quotas import quotas
from entitlement_sidecar.planstore.api.rest_reconcile import usage_reconciliation
from entitlement_sidecar.planstore.api.rest_seats import seats
from entitlement_sidecar.planstore.api.rest_snapshots import snapshots
from entitlement_sidecar.planstore.api.rest_sources import usage_sources
from entitlement_sidecar.planstore.api.rest_subscriptions import subscriptions
from entitlement_sidecar.planstore.api.rest_tokens import tokens
from entitlement_sidecar.planstore.api.rest_usage import usage
from entitlement_sidecar.planstore.api.rest_usage_corrections import usage_corrections
from entitlement_sidecar.planstore.api.rest_usage_import import usage_import
from entitlement_sidecar.planstore.api.rest_usage_reports import usage_reports
from entitlement_sidecar.planstore.api.rest_usage_sinks import usage_sinks

_DESCRIPTION = """Plans, subscriptions, quota and usage of organizations.

Every call needs `Authorization: Bearer TOKEN`. Errors are problems (RFC 9457) with a stable `reason`.
Quantities are integers up to 2^53 - 1 in the metric's smallest unit; instants are RFC 3339 in UTC."""


ROUTERS = (
    catalogue,
    plans,
    plan_migrations,
    organizations,
    subscriptions,
    history,
    overrides,
    credit_grants,
    seats,
    entitlements,
    quotas,
    leases,
    usage,
    usage_reports,
    usage_reconciliation,
    usage_corrections,
    usage_import,
    usage_sinks,
    quarantine,
    usage_sources,
    snapshots,
    break_glass,
    tokens,
    audit,
)
"""Routes that need a token, in the order in which the document shows them."""


def create_app(dependencies: ApiDependencies) -> FastAPI:
    """The application, ready for an ASGI server."""
    app = FastAPI(
        title="Entitlement Sidecar: plan store",
        version=__version__,
        description=_DESCRIPTION,
        redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
    )
    problems.install(app)
    openapi.install(app)
    # The guard asks for the token before a body is read; here it is only declared, for OpenAPI.
    declared = [
        Depends(HTTPBearer(auto_error=False, description="A token of this plan store.")),
        Depends(as_permitted),
    ]
    routers = [exchanging(router(dependencies), dependencies) for router in ROUTERS]
    for router in routers:
        app.include_router(router, dependencies=declared)
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    app.state.routes = routes  # flat, for problems that name a path's methods
    app.add_middleware(Guard, gate=dependencies.gate, routes=routes)
    app.include_router(probes(dependencies))
    return app
