"""What this sidecar knows of a tenant, how well, and waiting for what a caller demands to know."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import CheckRequest, Source
from entitlement_sidecar.domain.errors import TooStaleError, VersionNotReachedError
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.sidecar.decisions.basis import Knowledge
from entitlement_sidecar.sidecar.snapshots.freshness import STALE_AFTER
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant

DEMANDED_WITHIN = 5.0
"""Seconds that a call waits at most for a version or a freshness that it demands (its own deadline may be
shorter, and ends it)."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
"""Seconds between two looks for what is demanded."""


class Knowing:
    """Turns what is held into what `evaluate` is told."""

    def __init__(self, knowledge: Knowledge, loader: Loader, within: float = DEMANDED_WITHIN) -> None:
        self.knowledge = knowledge
        self.clock = knowledge.clock
        self._store = knowledge.store
        self._freshness = knowledge.freshness
        self._loader = loader
        self._within = within

    @property
    def catalogue(self) -> CatalogueDocument:
        """The catalogue document as it is held."""
        return self._store.catalogue

    def at_once(self, request: CheckRequest) -> Held | None:
        """What is known from memory; None where it is nothing, or not what the caller demands."""
        tenant = self._store.get(request.tenant_id)
        demanding = request.min_snapshot_version or request.max_staleness is not None
        if tenant is None:
            unknown = self._store.is_unknown(request.tenant_id, self.clock.monotonic())
            return self._without(request.tenant_id) if unknown and not demanding else None
        if demanding and not self._meets(tenant, request):
            return None
        return self._told(tenant, self.clock.now())

    def holds(self, tenant_id: str) -> bool:
        """Whether anything is held of a tenant."""
        return tenant_id in self._store

    def generation(self, now: datetime) -> int | None:
        """Names what is confirmed now of everything that the feed covers; None: it is not confirmed."""
        current = self._store.catalogue_current and self._freshness.is_fresh(now)
        return self._freshness.generation if current else None

    def is_still(self, tenant_id: str, held: Held, generation: int | None) -> bool:
        """Whether `in_memory` would be this very object; it may be where this says no."""
        tenant = self._store.get(tenant_id)
        return (
            tenant is not None
            and tenant.told is held
            and tenant.told_generation == generation
            and tenant.followed
            and held.catalogue is self._store.catalogue
        )

    def in_memory(self, tenant_id: str) -> Held | None:
        """What is known of a tenant that is held; the same object while nothing was heard of it."""
        tenant = self._store.get(tenant_id)
        return None if tenant is None else self._told(tenant, self.clock.now())

    async def in_time(self, request: CheckRequest) -> Held:
        """What is known once it is what the caller demands; from the sources where memory does not do.

        Raises:
            VersionNotReachedError: `min_snapshot_version` did not arrive in time.
            TooStaleError: Nothing as fresh as `max_staleness` could be had in time.
        """
        held = self.at_once(request)
        if held is not None:
            return held
        if not request.min_snapshot_version and request.max_staleness is None:
            tenant = await self._load(request.tenant_id, 0)
            return self.held(tenant, tenant.source) if tenant else self._without(request.tenant_id)
        try:
            async with asyncio.timeout(self._within):
                return await self._demanded(request)
        except TimeoutError:
            raise self._not_in_time(request) from None

    def disowned(self) -> Held:
        """What is known of a tenant that the plan store itself does not know."""
        return Held(self._store.catalogue, None, Source.PLAN_STORE, tenant_unknown=True)

    async def caught_up(self, request: CheckRequest, held: Held, usage: QuotaUsage) -> Held:
        """The authority decided by a newer snapshot than is held: its answer has to be told by that one."""
        if held.snapshot is None or usage.snapshot_version <= held.snapshot.version:
            return held
        if self._store.is_kept(request.tenant_id):
            return held
        tenant = await self._loader.load(request.tenant_id, usage.snapshot_version)
        if tenant is None or tenant.snapshot.version <= held.snapshot.version:
            return held
        return self.held(tenant, tenant.source)

    def held(self, tenant: HeldTenant, source: Source) -> Held:
        """What `evaluate` is told about a tenant and how well it is known."""
        age = self.knowledge.age(tenant)
        return Held(
            self._store.catalogue,
            tenant.snapshot,
            tenant.source if tenant.source is Source.DISK else source,
            self.knowledge.true_at(tenant),
            stale=age > STALE_AFTER or not self._store.catalogue_current,
            stale_for=age,
            resolver=tenant.resolver,
        )

    async def _demanded(self, request: CheckRequest) -> Held:
        for pause in _pauses():
            began = self.clock.monotonic()
            fresh = request.max_staleness is not None
            tenant = await self._load(request.tenant_id, request.min_snapshot_version, fresh=fresh)
            if tenant is not None and self._meets(tenant, request, began):
                return self.held(tenant, tenant.source)
            if tenant is None and not request.min_snapshot_version:
                # The plan store has just said so, or nobody could: then the outage policy answers.
                return self._without(request.tenant_id)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _not_in_time(self, request: CheckRequest) -> VersionNotReachedError | TooStaleError:
        tenant = self._store.get(request.tenant_id)
        version = tenant.snapshot.version if tenant else 0
        if version < request.min_snapshot_version:
            return VersionNotReachedError(
                f"min_snapshot_version {request.min_snapshot_version} of tenant {request.tenant_id!r} "
                f"is not known yet: version {version} is held",
                retry_after=1.0,
            )
        return TooStaleError(
            f"max_staleness {request.max_staleness:g} s cannot be had of tenant {request.tenant_id!r} now: "
            f"what is held was confirmed {self.knowledge.age(tenant) if tenant else 0:.1f} s ago",
            retry_after=1.0,
        )

    def _meets(self, tenant: HeldTenant, request: CheckRequest, began: float | None = None) -> bool:
        """Whether what is held is as new as demanded; `began`: what was confirmed since is fresh enough."""
        if tenant.snapshot.version < request.min_snapshot_version:
            return False
        demanded = request.max_staleness
        # Zero asks the source, however young what is held may be.
        if demanded is None or (demanded and self.knowledge.age(tenant) <= demanded):
            return True
        return began is not None and tenant.confirmed_since(began)

    async def _load(self, tenant_id: str, min_version: int, *, fresh: bool = False) -> HeldTenant | None:
        if not self._store.catalogue.version:
            await self._loader.load_catalogue()
        return await self._loader.load(tenant_id, min_version, fresh=fresh)

    def _told(self, tenant: HeldTenant, now: datetime) -> Held:
        """As `held` from memory, remembered while the feed confirms the tenant and says nothing new."""
        if not self.knowledge.is_current(tenant, now):
            return self.held(tenant, Source.MEMORY)
        told = tenant.told
        if (
            told is None
            or tenant.told_generation != self._freshness.generation
            or told.catalogue is not self._store.catalogue
        ):
            told = tenant.told = self.held(tenant, Source.MEMORY)
            tenant.told_generation = self._freshness.generation
        return told

    def _without(self, tenant_id: str) -> Held:
        """Nothing is held: either the plan store said that there is no such tenant, or nobody could say."""
        unknown = self._store.is_unknown(tenant_id, self.clock.monotonic())
        source = Source.PLAN_STORE if unknown else Source.FALLBACK
        return Held(self._store.catalogue, None, source, tenant_unknown=unknown)


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 2, _LONGEST_PAUSE)
