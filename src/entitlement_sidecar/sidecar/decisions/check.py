"""The main path of a check.

When everything is in memory, `check` returns a decision and no coroutine is made. Where it has to wait (a
tenant not held, quota to admit, an answer fresher than what is held) it returns how to go on: nothing begins
until that is called, so a caller that leaves first leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision, Degradation, Reason, Source
from entitlement_sidecar.domain.errors import TenantUnknownError, VersionNotReachedError
from entitlement_sidecar.domain.evaluate import Held, evaluate
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.sidecar.decisions.basis import Basis, Knowledge
from entitlement_sidecar.sidecar.decisions.consumption import Consumptions
from entitlement_sidecar.sidecar.leases.authority import QuotaAuthority
from entitlement_sidecar.sidecar.snapshots.freshness import STALE_AFTER
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant
from entitlement_sidecar.telemetry import metrics

Later = Callable[[], Coroutine[Any, Any, Decision]]
"""How to go on where a decision has to wait."""

_REPEATABLE = frozenset({FeatureKind.BOOLEAN, FeatureKind.CONFIG, FeatureKind.METERED})


class Decisions:
    """Answers checks."""

    def __init__(
        self, knowledge: Knowledge, loader: Loader, authority: QuotaAuthority, consumptions: Consumptions
    ) -> None:
        self._knowledge = knowledge
        self._store = knowledge.store
        self._freshness = knowledge.freshness
        self._clock = knowledge.clock
        self._loader = loader
        self._authority = authority
        self._consumptions = consumptions

    def check(self, request: CheckRequest) -> Decision | Later:
        """Decides one request, or says how to go on where it has to wait.

        Raises:
            VersionNotReachedError: `min_snapshot_version` cannot be had now.
            IdempotencyConflictError: The request id came before with another quantity.
            OutboxFullError: A CONSUME could not be kept; nothing was answered.
        """
        tenant = self._store.get(request.tenant_id)
        if not self._suffices(tenant, request):
            return partial(self._after_load, request)
        now = self._clock.now()
        held = self._told(tenant, now) if tenant is not None else self._without(request.tenant_id)
        return self._judge(request, held, now)

    def basis(self, request: CheckRequest, decision: Decision) -> Basis | None:
        """What a decision just made rests on; None when it must be made again each time."""
        tenant = self._store.get(request.tenant_id)
        as_of = decision.as_of
        if tenant is None or not tenant.followed or as_of is None or not _repeatable(request, decision):
            return None
        now = self._clock.now()
        if as_of > now:
            # The clock was set back: `as_of` is of the time before, and would stay young for too long.
            return None
        feature = self._store.catalogue.features[request.feature]
        resolution = tenant.resolver.resolve(feature, now)
        stale_at = as_of + timedelta(seconds=STALE_AFTER)
        basis = Basis(
            knowledge=self._knowledge,
            tenant=tenant,
            catalogue=self._store.catalogue,
            since=now,
            until=min(stale_at, resolution.valid_until or stale_at),
            count=_counter(decision.reason, decision.degradation),
        )
        return self._on_usage(basis, request, QuotaAsk(feature, 0, resolution), decision)

    def _on_usage(
        self, basis: Basis, request: CheckRequest, ask: QuotaAsk, decision: Decision
    ) -> Basis | None:
        """A metered decision also rests on the view that it tells."""
        if not ask.resolution.limits:
            return basis
        look = partial(self._authority.view, request.tenant_id, ask, None)
        usage = look()
        if not isinstance(usage, QuotaUsage) or usage.as_of != decision.usage_as_of:
            return None
        return msgspec.structs.replace(basis, usage=usage, look=look)

    async def list(self, tenant_id: str, max_staleness: float | None) -> tuple[list[str], list[Decision]]:
        """A PEEK of every feature of the catalogue, sorted by feature."""
        if self._store.get(tenant_id) is None:
            await self._load(tenant_id, 0)
        features = sorted(self._store.catalogue.features)
        outcomes = [
            self.check(CheckRequest(tenant_id, feature, max_staleness=max_staleness)) for feature in features
        ]
        return features, [o if isinstance(o, Decision) else await o() for o in outcomes]

    def _suffices(self, tenant: HeldTenant | None, request: CheckRequest) -> bool:
        if tenant is None:
            return self._store.is_unknown(request.tenant_id, self._clock.monotonic())
        if tenant.snapshot.version < request.min_snapshot_version:
            return False
        return request.max_staleness is None or self._age(tenant) <= request.max_staleness

    async def _after_load(self, request: CheckRequest) -> Decision:
        tenant = await self._load(request.tenant_id, request.min_snapshot_version)
        version = tenant.snapshot.version if tenant else 0
        if version < request.min_snapshot_version:
            raise VersionNotReachedError(
                f"min_snapshot_version {request.min_snapshot_version} of tenant {request.tenant_id!r} "
                f"is not known yet: version {version} is held",
                retry_after=0.1,
            )
        held = self._held(tenant, tenant.source) if tenant else self._without(request.tenant_id)
        outcome = self._judge(request, held, self._clock.now())
        return outcome if isinstance(outcome, Decision) else await outcome()

    async def _load(self, tenant_id: str, min_version: int) -> HeldTenant | None:
        if not self._store.catalogue.version:
            await self._loader.load_catalogue()
        return await self._loader.load(tenant_id, min_version)

    def _told(self, tenant: HeldTenant, now: datetime) -> Held:
        """As `_held` from memory, remembered while the feed confirms the tenant and says nothing new."""
        if not (tenant.followed and self._freshness.is_fresh(now)):
            return self._held(tenant, Source.MEMORY)
        told = tenant.told
        if (
            told is None
            or tenant.told_generation != self._freshness.generation
            or told.catalogue is not self._store.catalogue
        ):
            told = tenant.told = self._held(tenant, Source.MEMORY)
            tenant.told_generation = self._freshness.generation
        return told

    def _held(self, tenant: HeldTenant, source: Source) -> Held:
        """What `evaluate` is told about a tenant and how well it is known."""
        age = self._age(tenant)
        return Held(
            self._store.catalogue,
            tenant.snapshot,
            tenant.source if tenant.source is Source.DISK else source,
            self._as_of(tenant),
            stale=age > STALE_AFTER,
            stale_for=age,
            resolver=tenant.resolver,
        )

    def _without(self, tenant_id: str) -> Held:
        """Nothing is held: either the plan store said that there is no such tenant, or nobody could say."""
        unknown = self._store.is_unknown(tenant_id, self._clock.monotonic())
        source = Source.PLAN_STORE if unknown else Source.FALLBACK
        return Held(self._store.catalogue, None, source, tenant_unknown=unknown)

    def _as_of(self, tenant: HeldTenant) -> datetime | None:
        followed = self._freshness.as_of if tenant.followed else None
        if followed is None or tenant.confirmed_at is None:
            return followed or tenant.confirmed_at
        return max(followed, tenant.confirmed_at)

    def _age(self, tenant: HeldTenant) -> float:
        as_of = self._as_of(tenant)
        return float("inf") if as_of is None else self._freshness.age_of(as_of)

    def _judge(self, request: CheckRequest, held: Held, now: datetime) -> Decision | Later:
        outcome = evaluate(held, request, None, now)
        consuming = request.mode is CheckMode.CONSUME
        if isinstance(outcome, QuotaAsk):
            if consuming:
                return partial(self._consume, request, held, outcome)
            return self._peek(request, held, outcome)
        if consuming and outcome.allowed and outcome.kind == FeatureKind.METERED:
            return partial(self._record, request, held, outcome)
        return _counted(outcome)

    def _peek(self, request: CheckRequest, held: Held, ask: QuotaAsk) -> Decision | Later:
        usage = self._authority.view(request.tenant_id, ask, request.max_staleness)
        if isinstance(usage, QuotaUsage):
            return _counted(self._with_usage(request, held, usage))
        return partial(self._peek_later, request, held, usage)

    async def _peek_later(self, request: CheckRequest, held: Held, usage: Awaitable[QuotaUsage]) -> Decision:
        try:
            return _counted(self._with_usage(request, held, await usage))
        except TenantUnknownError:
            return self._tenant_unknown(request)

    async def _consume(self, request: CheckRequest, held: Held, ask: QuotaAsk) -> Decision:
        """Replays an earlier answer to the same request id, or consumes at the authority."""
        async with self._consumptions.claim(request) as claim:
            if claim.earlier is not None:
                return _counted(claim.earlier)
            try:
                outcome = self._authority.consume(request.tenant_id, ask, claim.event_id)
                usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
            except TenantUnknownError:
                return self._tenant_unknown(request)
            held = await self._caught_up(request, held, usage)
            decision = self._with_usage(request, held, usage)
            if decision.allowed:
                decision = await self._consumptions.keep(
                    request, held.catalogue, decision, claim, usage.lease_id
                )
            return _counted(decision)

    async def _record(self, request: CheckRequest, held: Held, decision: Decision) -> Decision:
        """Keeps what an unlimited feature used: it needs no quota, and still is usage."""
        async with self._consumptions.claim(request) as claim:
            if claim.earlier is None:
                decision = await self._consumptions.keep(
                    request, held.catalogue, decision, claim, lease_id=""
                )
            return _counted(claim.earlier or decision)

    async def _caught_up(self, request: CheckRequest, held: Held, usage: QuotaUsage) -> Held:
        """The authority decided by a newer snapshot than is held: its answer has to be told by that one."""
        if held.snapshot is None or usage.snapshot_version <= held.snapshot.version:
            return held
        tenant = await self._loader.load(request.tenant_id, usage.snapshot_version)
        return held if tenant is None else self._held(tenant, tenant.source)

    def _with_usage(self, request: CheckRequest, held: Held, usage: QuotaUsage) -> Decision:
        outcome = evaluate(held, request, usage, self._clock.now())
        if isinstance(outcome, QuotaAsk):
            raise TypeError("evaluate asked again for the quota that it was given")
        return outcome

    def _tenant_unknown(self, request: CheckRequest) -> Decision:
        held = Held(self._store.catalogue, None, Source.PLAN_STORE, tenant_unknown=True)
        return _counted(self._with_usage(request, held, QuotaUsage()))


def _repeatable(request: CheckRequest, decision: Decision) -> bool:
    """A look whose answer says nothing that changes with every instant."""
    return (
        request.mode is CheckMode.PEEK
        and decision.degradation is Degradation.NONE
        and request.max_staleness is None
        and decision.retry_after is None
        and decision.kind in _REPEATABLE
    )


@cache
def _counter(reason: Reason, degradation: Degradation) -> Callable[[], None]:
    """Binds a metric's labels once: looking them up costs more than counting."""
    child = metrics.decisions.labels(reason.name, degradation.name)
    return child.inc


def _counted(decision: Decision) -> Decision:
    _counter(decision.reason, decision.degradation)()
    return decision
