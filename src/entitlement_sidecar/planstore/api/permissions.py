"""Which call needs which permission: the one place. What is not here is refused, to everybody.

REST is declared by resource: a path and everything below it, what reading it needs (GET), what changing it
needs (every other method), and which tokens that are limited to some tenants may call it. The longest path
that fits decides. gRPC is declared by method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto

import msgspec
from starlette.routing import Match, Route
from starlette.types import Scope

from entitlement_sidecar.domain.errors import ForbiddenError
from entitlement_sidecar.planstore.access import Permission, Principal
from entitlement_sidecar.planstore.api.forms import ORGANIZATION
from entitlement_sidecar.wire.fields import is_tenant

UNDECLARED = "this call is not declared in the table of permissions, so nobody may make it"


class Reach(Enum):
    """What a call is about, for tokens that are limited to some tenants."""

    ONE = auto()
    """One tenant, which path or message names: theirs."""
    NONE = auto()
    """Nothing of any tenant: they may read it."""
    NAMED = auto()
    """Tenants that the body names: the route itself calls `require_tenant` of each."""
    ALL = auto()
    """Every tenant: they may not."""


class Need(msgspec.Struct, frozen=True):
    """What a call needs. For `Reach.ONE` over gRPC the servicer itself calls `require_tenant`."""

    permission: Permission
    reach: Reach


class Resource(msgspec.Struct, frozen=True):
    """A path and everything below it. No permission: there is no such call."""

    path: str
    read: Permission | None
    write: Permission | None = None
    reach: Reach = Reach.ONE


_P = Permission

REST: Sequence[Resource] = (
    Resource("/api/billing/plans", _P.READ, reach=Reach.NONE),
    Resource("/api/billing/plans/migrations", _P.READ, _P.CONFIGURE, Reach.ALL),
    Resource("/api/billing/features", _P.READ, reach=Reach.NONE),
    Resource("/api/billing/catalogue", _P.READ, _P.CONFIGURE, Reach.NONE),
    # It changes nothing, and says which tenants would lose what.
    Resource("/api/billing/catalogue/diff", _P.READ, _P.READ, Reach.ALL),
    Resource("/api/billing/organizations", _P.READ, reach=Reach.ALL),
    Resource(f"{ORGANIZATION}/subscription", _P.READ, _P.CHANGE),
    Resource(f"{ORGANIZATION}/subscriptions", _P.READ, _P.CHANGE),
    Resource(f"{ORGANIZATION}/overrides", _P.READ, _P.CHANGE),
    Resource(f"{ORGANIZATION}/seats", _P.READ, _P.CHANGE),
    Resource(f"{ORGANIZATION}/credits", _P.READ, _P.CREDIT),
    Resource(f"{ORGANIZATION}/entitlements", _P.READ),
    Resource(f"{ORGANIZATION}/history", _P.READ),
    # With `record_usage` the route asks for CONSUME too, once it has read the body.
    Resource(f"{ORGANIZATION}/quotas", _P.READ, _P.READ),
    Resource(f"{ORGANIZATION}/leases", _P.READ, _P.CHANGE),
    Resource(f"{ORGANIZATION}/usage", _P.READ, _P.CHANGE),
    Resource("/api/billing/usage/events", None, _P.INGEST, Reach.NAMED),
    Resource("/api/billing/usage/sinks", _P.READ, reach=Reach.ALL),
    Resource("/api/billing/usage/quarantine", _P.READ, _P.CHANGE, Reach.ALL),
    Resource("/api/billing/usage/sources", _P.READ, reach=Reach.ALL),
    Resource(f"{ORGANIZATION}/snapshot", _P.READ, _P.CONFIGURE),
    Resource("/api/billing/snapshots", _P.READ, _P.CONFIGURE, Reach.ALL),
    Resource("/api/billing/break-glass", _P.READ, _P.BREAK_GLASS, Reach.ALL),
    Resource("/api/billing/audit", _P.AUDIT, reach=Reach.ALL),
    Resource("/api/billing/tokens", _P.ADMINISTER, _P.ADMINISTER, Reach.ALL),
)

_SNAPSHOTS, _QUOTAS = "/entitlement.v1.SnapshotService/", "/entitlement.v1.QuotaService/"

RPC: Mapping[str, Need] = {
    f"{_SNAPSHOTS}GetSnapshot": Need(_P.FEED, Reach.ONE),
    f"{_SNAPSHOTS}ConfirmSnapshots": Need(_P.FEED, Reach.ONE),
    f"{_SNAPSHOTS}GetCatalogue": Need(_P.FEED, Reach.NONE),
    f"{_SNAPSHOTS}WatchSnapshots": Need(_P.FEED, Reach.ALL),
    f"{_QUOTAS}Consume": Need(_P.CONSUME, Reach.ONE),
    f"{_QUOTAS}ConsumeAll": Need(_P.CONSUME, Reach.ONE),
    f"{_QUOTAS}ReportUnadmitted": Need(_P.CONSUME, Reach.ONE),
    f"{_QUOTAS}AcquireLease": Need(_P.CONSUME, Reach.ONE),
    f"{_QUOTAS}RenewLease": Need(_P.CONSUME, Reach.ONE),
    f"{_QUOTAS}SettleLease": Need(_P.CONSUME, Reach.ONE),
    f"{_QUOTAS}ReturnLease": Need(_P.CONSUME, Reach.ONE),
    f"{_QUOTAS}ReserveQuota": Need(_P.CONSUME, Reach.ONE),
    f"{_QUOTAS}SettleReservation": Need(_P.CONSUME, Reach.ONE),
    f"{_QUOTAS}ReleaseReservation": Need(_P.CONSUME, Reach.ONE),
    "/entitlement.v1.UsageIngestService/IngestBatch": Need(_P.DELIVER, Reach.ONE),
}

_READING = frozenset({"GET", "HEAD"})


def need_of(method: str, path: str) -> Need | None:
    """What a route needs, by its method and the path that it was declared with; None: it is not declared."""
    fitting = [r for r in REST if path == r.path or path.startswith(f"{r.path}/")]
    if not fitting:
        return None
    found = max(fitting, key=lambda resource: len(resource.path))
    # The tenant of a path is no part of the resource that lists them.
    if found.path == "/api/billing/organizations" and path != found.path:
        return None
    reading = method in _READING
    permission = found.read if reading else found.write
    # To change what belongs to no tenant is to change it for all of them.
    reach = Reach.ALL if found.reach is Reach.NONE and not reading else found.reach
    return None if permission is None else Need(permission, reach)


class Asked(msgspec.Struct, frozen=True):
    """A request as its route sees it: which one, and the tenant of the path, if it names one."""

    call: str
    need: Need | None
    tenant_id: str = ""

    def permit(self, principal: Principal) -> None:
        """Nothing, or an error.

        Raises:
            ForbiddenError: The principal lacks the permission or the tenant, or nobody may.
        """
        check(principal, self.need)
        if self.need is not None and self.need.reach is Reach.ONE:
            principal.require_tenant(self.tenant_id)


def check(principal: Principal, need: Need | None) -> None:
    """Nothing, or an error; the tenant of the call is not known here.

    Raises:
        ForbiddenError: The principal lacks the permission or the reach, or nobody may.
    """
    if need is None:
        raise ForbiddenError(UNDECLARED)
    principal.require(need.permission)
    if need.reach is Reach.ALL:
        principal.require_unscoped()


def asked(routes: Sequence[Route], scope: Scope) -> Asked | None:
    """What a request asks for; None where there is no such route, which the application answers."""
    for route in routes:
        match, found = route.matches(scope)
        if match is Match.FULL:
            tenant = str(found.get("path_params", {}).get("tenant_id", ""))
            need = need_of(scope["method"], route.path)
            return Asked(f"{scope['method']} {route.path}", need, tenant if is_tenant(tenant) else "")
    return None
