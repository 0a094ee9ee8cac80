"""Usage that reaches the ledger without a sidecar: imports, and emitters of their own (S3.1)."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import Field

from entitlement_sidecar.planstore.access import Permission, Role, current_principal, require_tenant
from entitlement_sidecar.planstore.access.roles import PERMISSIONS
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import Body, View
from entitlement_sidecar.planstore.api.usage_forms import ImportedEvent, OutcomeView
from entitlement_sidecar.planstore.usage.importing import Sender, import_usage
from entitlement_sidecar.telemetry import metrics

MAX_EVENTS = 1000
"""Events of one call at most."""


class ImportBody(Body):
    """Events to store."""

    events: list[ImportedEvent] = Field(min_length=1, max_length=MAX_EVENTS)


class OutcomesView(View):
    """One outcome per event, in their order."""

    results: list[OutcomeView]


def usage_import(dependencies: ApiDependencies) -> APIRouter:
    """The route by which usage comes."""
    router = APIRouter(tags=["usage"])

    @router.post("/api/billing/usage/events")
    def post_events(body: ImportBody) -> OutcomesView:
        """Stores events, each identity once: to send them again is safe. One bad event fails no other."""
        now = dependencies.clock.now()
        events = [one.event(now) for one in body.events]
        for tenant_id in {event.tenant_id for event in events}:
            require_tenant(tenant_id)
        with dependencies.database.writing() as session:
            results = import_usage(session, dependencies.ledger, events, _sender(), now)
        for result in results:
            metrics.ingested_events.labels(result.outcome.name).inc()
        return OutcomesView(results=[OutcomeView.of(one) for one in results])

    return router


def _sender() -> Sender:
    """Who calls: a token of an emitter speaks for the emitter of its name."""
    principal = current_principal()
    if principal is None:
        return Sender(keeps_leases=True)
    emitter = principal.name if principal.role is Role.EMITTER else ""
    return Sender(emitter, Permission.CONSUME in PERMISSIONS[principal.role])
