"""Limits that are not leased: who admits what is used of them, by their mode (`domain.modes`).

    strict       ask the authority, each time
    local_deny   deny by a view that is held and at most a second old, else ask
    optimistic   admit from memory, at most a part of the limit and some seconds after the last look, else ask

Stands between the lease book and the views of usage; what is leased passes through. Optimistic usage has no
admission: the authority counts its events when they arrive.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Sequence

import msgspec

from entitlement_sidecar.domain.catalogue import FeatureKind, LimitMode
from entitlement_sidecar.domain.modes import mode_of, optimistic_bound
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage, fits
from entitlement_sidecar.sidecar.leases.authority import NothingLeased
from entitlement_sidecar.sidecar.leases.views import MAX_AGE, MAX_VIEWS, REFRESH_AFTER, UsageViews
from entitlement_sidecar.telemetry import metrics

_Key = tuple[str, str]


class _SinceLook(msgspec.Struct):
    """What was admitted since a view was taken, which does not know of it."""

    view: QuotaUsage
    tokens: int = 0


class ByMode(NothingLeased):
    """An authority that answers from memory what the mode of a feature's limits lets it."""

    def __init__(self, views: UsageViews) -> None:
        self._views = views
        self._since: OrderedDict[_Key, _SinceLook] = OrderedDict()

    def view(
        self, tenant_id: str, ask: QuotaAsk, max_age: float | None
    ) -> QuotaUsage | Awaitable[QuotaUsage]:
        """Usage of every limit; what was admitted here since then is `pending`, and used."""
        outcome = self._views.view(tenant_id, ask, max_age)
        if not isinstance(outcome, QuotaUsage) or _mode(ask) is not LimitMode.OPTIMISTIC:
            return outcome
        since = self._since.get((tenant_id, ask.feature.key))
        return _with_pending(outcome, ask, since.tokens if since and since.view is outcome else 0)

    def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage | Awaitable[QuotaUsage]:
        """Admits `ask.quantity` or nothing, from memory where the mode lets it."""
        match _mode(ask):
            case LimitMode.OPTIMISTIC:
                usage = self._optimistic(tenant_id, ask)
            case LimitMode.LOCAL_DENY:
                usage = self._denied(tenant_id, ask)
            case _:
                usage = None
        return self._views.consume(tenant_id, ask, request_id) if usage is None else usage

    def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> Awaitable[tuple[bool, list[QuotaUsage]]]:
        """Everything or nothing, which only the authority can say of limits that are not leased."""
        return self._views.consume_all(tenant_id, asks)

    def _denied(self, tenant_id: str, ask: QuotaAsk) -> QuotaUsage | None:
        view = self._views.held(tenant_id, ask, REFRESH_AFTER)
        if view is None or fits(view.limits, ask.quantity):
            return None
        metrics.lease_consumes.labels("denied").inc()
        return msgspec.structs.replace(view, admitted=False, lease_id="")

    def _optimistic(self, tenant_id: str, ask: QuotaAsk) -> QuotaUsage | None:
        view = self._views.held(tenant_id, ask, MAX_AGE)
        if view is None:
            return None
        since = self._since_look((tenant_id, ask.feature.key), view)
        if since.tokens + ask.quantity > optimistic_bound(ask.resolution.limits):
            return None
        since.tokens += ask.quantity
        # Has it refreshed for the next ones, where it is time.
        self._views.view(tenant_id, ask, None)
        metrics.lease_consumes.labels("optimistic").inc()
        return msgspec.structs.replace(_with_pending(view, ask, since.tokens), admitted=True)

    def _since_look(self, key: _Key, view: QuotaUsage) -> _SinceLook:
        since = self._since.get(key)
        if since is None or since.view is not view:
            since = self._since[key] = _SinceLook(view)
        self._since.move_to_end(key)
        while len(self._since) > MAX_VIEWS:
            self._since.popitem(last=False)
        return since


def _mode(ask: QuotaAsk) -> LimitMode:
    """Of metered features alone: seats and credits have no mode, and pass through."""
    return mode_of(ask.resolution.limits) if ask.feature.kind is FeatureKind.METERED else LimitMode.LEASED


def _with_pending(view: QuotaUsage, ask: QuotaAsk, pending: int) -> QuotaUsage:
    bound = optimistic_bound(ask.resolution.limits)
    limits = tuple(msgspec.structs.replace(one, used=one.used + pending) for one in view.limits)
    # A view may be what a consumption brought: its admission is not this one's.
    return msgspec.structs.replace(view, limits=limits, pending=pending, overshoot_bound=bound, lease_id="")
