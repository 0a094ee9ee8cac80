"""The authority of a sidecar that has no plan store: it counts alone, in memory.

Its truth ends with the process: a restart begins every window anew. Sites that share a limit between
sidecars, or need it to survive, run a plan store. It is also the twin that the contract suite holds the root
authority against.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta

import msgspec

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import IdempotencyConflictError
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.sidecar.leases.views import first_end

MAX_COUNTERS = 1_000_000
"""Counters kept at most, over all tenants, features and windows; the least recently used goes first."""

MAX_VIEWS = 100_000
"""Views remembered at most."""

VIEWED_FOR = timedelta(seconds=5)
"""How long a view is given again while nothing is consumed: nobody else counts, so it stays true."""

MAX_REQUESTS = 100_000
"""Request ids remembered at most."""

_Key = tuple[str, str, str, datetime]


class _View(msgspec.Struct, frozen=True):
    """What was counted during `[since, until)`, while nothing was consumed."""

    usage: QuotaUsage
    resolution: Resolution
    since: datetime
    until: datetime


class LocalAuthority:
    """Counts what it admitted, per tenant, feature, limit and window."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._admitted: OrderedDict[_Key, int] = OrderedDict()
        self._views: OrderedDict[tuple[str, str], _View] = OrderedDict()
        self._requests: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()

    def view(self, tenant_id: str, ask: QuotaAsk, max_age: float | None) -> QuotaUsage:
        """Usage now. Asked again, the same view for a while, unless something was consumed meanwhile."""
        now = self._clock.now()
        view = self._views.get((tenant_id, ask.feature.key))
        if (
            view is not None
            and max_age is None
            and view.resolution is ask.resolution
            and view.since <= now < view.until
        ):
            return view.usage
        limits = tuple(self._usage(tenant_id, ask, limit, now) for limit in ask.resolution.limits)
        usage = QuotaUsage(limits, as_of=now)
        until = min(now + VIEWED_FOR, first_end(limits) or datetime.max.replace(tzinfo=UTC))
        self._views[tenant_id, ask.feature.key] = _View(usage, ask.resolution, now, until)
        while len(self._views) > MAX_VIEWS:
            self._views.popitem(last=False)
        return usage

    def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:
        """Admits all or nothing; an admitted request id is admitted once.

        Raises:
            IdempotencyConflictError: The request id came before with another feature or quantity.
        """
        now = self._clock.now()
        before = [self._usage(tenant_id, ask, limit, now) for limit in ask.resolution.limits]
        repeated = self._repeated(tenant_id, ask, request_id)
        admitted = repeated or all(usage.soft or _fits(usage, ask.quantity) for usage in before)
        if admitted and not repeated:
            self._add(tenant_id, ask, before)
            self._remember((tenant_id, request_id), (ask.feature.key, ask.quantity))
        after = tuple(self._usage(tenant_id, ask, limit, now) for limit in ask.resolution.limits)
        return QuotaUsage(after, admitted=admitted, as_of=now, lease_id="local" if admitted else "")

    def _repeated(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> bool:
        first = self._requests.get((tenant_id, request_id))
        if first is not None and first != (ask.feature.key, ask.quantity):
            raise IdempotencyConflictError(
                f"request_id {request_id!r} was used for {first[1]} of {first[0]!r}, "
                f"not {ask.quantity} of {ask.feature.key!r}"
            )
        return first is not None

    def _remember(self, key: tuple[str, str], content: tuple[str, int]) -> None:
        self._requests[key] = content
        while len(self._requests) > MAX_REQUESTS:
            self._requests.popitem(last=False)

    def _add(self, tenant_id: str, ask: QuotaAsk, usages: list[LimitUsage]) -> None:
        self._views.pop((tenant_id, ask.feature.key), None)
        for usage in usages:
            key = (tenant_id, ask.feature.key, usage.key, usage.window_start)
            self._admitted[key] = usage.used + ask.quantity
            self._admitted.move_to_end(key)
        while len(self._admitted) > MAX_COUNTERS:
            self._admitted.popitem(last=False)

    def _usage(self, tenant_id: str, ask: QuotaAsk, limit: Limit, now: datetime) -> LimitUsage:
        window = window_at(limit.window, now)
        used = self._admitted.get((tenant_id, ask.feature.key, limit.key, window.start), 0)
        return LimitUsage(limit.key, limit.amount, limit.soft, window.start, window.end, used)


class NoAuthority:
    """Stands where no authority is configured: metered features answer by their outage policy."""

    def view(self, tenant_id: str, ask: QuotaAsk, max_age: float | None) -> QuotaUsage:  # noqa: ARG002
        """Nobody can say."""
        return QuotaUsage(unavailable=True)

    def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:  # noqa: ARG002
        """Nobody can admit."""
        return QuotaUsage(unavailable=True)


def _fits(usage: LimitUsage, quantity: int) -> bool:
    return usage.remaining is None or quantity <= usage.remaining
