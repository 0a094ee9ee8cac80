"""What a sidecar asks the plan store while it has lost the feed, seldom and within bounds.

A change must not be missed for as long as Redis is away: the catalogue is read, which brings what an operator
does in an emergency, and the tenants that were looked at last are asked about in one call. What is held of
them is as old as the plan store's last word then, and whoever has paid meanwhile is let in.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress

from entitlement_sidecar.domain.errors import EntitlementsError
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import Confirmed, Confirmer
from entitlement_sidecar.sidecar.snapshots.revalidation import believable
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.telemetry import metrics

EVERY = 10.0
"""Seconds at least between two times; up to twice that, and not all sidecars at once."""

AT_ONCE = 500
"""Tenants asked about at a time."""

WITHIN = 5.0
"""Seconds that it may take before the feed is looked for again."""

_log = logging.getLogger(__name__)


class Meanwhile:
    """Takes its turn between two attempts to follow the feed."""

    def __init__(self, store: SnapshotStore, loader: Loader, confirmer: Confirmer | None) -> None:
        """`confirmer`: who can confirm many versions at once, if anybody can."""
        self._store = store
        self._loader = loader
        self._confirmer = confirmer
        self._due: float | None = None

    def feed_is_back(self) -> None:
        """The feed tells all this itself."""
        self._due = None

    async def step(self) -> None:
        """Asks, when it is time."""
        now = asyncio.get_running_loop().time()
        if self._due is not None and now >= self._due:
            with suppress(TimeoutError):
                async with asyncio.timeout(WITHIN):
                    await self._ask()
            self._due = None
        if self._due is None:
            self._due = now + random.uniform(EVERY, 2 * EVERY)  # noqa: S311 - spreads calls, hides nothing

    async def _ask(self) -> None:
        await self._loader.load_catalogue()
        if self._confirmer is None:
            return
        asked = self._last_looked_at()
        began = self._loader.clock.monotonic()
        floors = {tenant_id: self._store.floor(tenant_id) for tenant_id in asked}
        try:
            versions = {tenant_id: one.snapshot.version for tenant_id, one in asked.items()}
            told = await believable(self._confirmer, versions) if versions else None
        except EntitlementsError as error:
            _log.debug("what is held could not be confirmed while the feed is lost: %s", error)
            return
        if told is None:
            return
        for tenant_id, held in asked.items():
            if self._store.get(tenant_id) is held:
                await self._learn(held, told, began, floors[tenant_id])

    def _last_looked_at(self) -> dict[str, HeldTenant]:
        found = ((tenant_id, self._store.get(tenant_id)) for tenant_id in self._store.tenants()[-AT_ONCE:])
        return {tenant_id: held for tenant_id, held in found if held is not None}

    async def _learn(self, held: HeldTenant, told: Confirmed, began: float, floor: int) -> None:
        tenant_id = held.snapshot.tenant_id
        outcome = told.outcome(tenant_id)
        metrics.revalidations.labels(outcome).inc()
        if outcome == "confirmed":
            self._store.confirm(held, told.true_at, began, followed=held.followed)
        elif outcome == "outdated":
            await self._loader.load(tenant_id, fresh=True)
        elif self._store.floor(tenant_id) == floor:
            self._loader.disown(tenant_id)
