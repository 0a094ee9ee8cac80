"""Keeps the store current from the feed. A lost feed never empties it: it only stops confirming.

States: connecting ── Began ──▶ following ── connection lost ──▶ connecting (pause with jitter)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from tenacity import RetryCallState, Retrying, wait_random_exponential

from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import EntitlementsError
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import (
    Beat,
    Began,
    CatalogueChanged,
    Changed,
    Feed,
    FeedEvent,
)
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.telemetry import metrics

REVALIDATIONS_AT_ONCE = 8
"""Loads in parallel when everything held has to be read again."""

_pause = wait_random_exponential(multiplier=0.1, max=5)
_log = logging.getLogger(__name__)


class Follower:
    """Applies feed events to the store."""

    def __init__(self, feed: Feed, store: SnapshotStore, loader: Loader, freshness: Freshness) -> None:
        self._feed = feed
        self._store = store
        self._loader = loader
        self._freshness = freshness
        # Tenacity keeps the count that its wait strategy reads.
        self._attempts = RetryCallState(Retrying(), None, (), {})
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follows the feed until cancelled."""
        try:
            while True:
                await self._follow()
                metrics.feed_interruptions.inc()
                await asyncio.sleep(_pause(self._attempts))
                self._attempts.attempt_number += 1
        finally:
            for task in self._background:
                task.cancel()

    async def _follow(self) -> None:
        try:
            async for event in self._feed.events():
                if isinstance(event, Beat):
                    # Not sooner: a feed that begins and is lost again and again must not do so in haste.
                    self._attempts.attempt_number = 1
                self.apply(event)
        except EntitlementsError as error:
            _log.warning("feed lost, going on with what is held: %s", error)
        except Exception:  # noqa: BLE001 - logged whole
            # A defect in reading the feed must not end a process that can still answer.
            _log.exception("feed lost unexpectedly, going on with what is held")

    def apply(self, event: FeedEvent) -> None:
        """Applies one event."""
        metrics.feed_events.labels(type(event).__name__.lower()).inc()
        match event:
            case Beat():
                self._freshness.beat(event.position.shard, event.true_at)
            case Changed():
                self._changed(event)
            case CatalogueChanged():
                self._catalogue_changed(event)
            case Began():
                self._began(event)

    def _changed(self, event: Changed) -> None:
        stale = self._store.raise_floor(event.tenant_id, event.version, self._freshness.as_of)
        if event.snapshot is not None and self._store.get(event.tenant_id) is not None:
            self._store.put(HeldTenant(event.snapshot, Source.MEMORY, None, followed=True))
        elif stale:
            self._start(self._reload(event.tenant_id, event.version))

    def _catalogue_changed(self, event: CatalogueChanged) -> None:
        if event.document is not None:
            self._store.put_catalogue(event.document)
        elif event.version > self._store.catalogue.version:
            self._start(self._reload_catalogue())

    def _began(self, event: Began) -> None:
        held = self._store.unfollow_all(self._freshness.as_of)
        self._freshness.begin(event.shards)
        self._loader.feed_began()
        self._start(self._revalidate(held))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _reload(self, tenant_id: str, version: int = 0) -> None:
        await self._loader.load(tenant_id, version)

    async def _reload_catalogue(self) -> None:
        await self._loader.load_catalogue()

    async def _revalidate(self, tenants: list[str]) -> None:
        """Reads everything held again, a few at a time, so that a lost feed becomes no stampede."""
        await self._reload_catalogue()
        for index in range(0, len(tenants), REVALIDATIONS_AT_ONCE):
            await asyncio.gather(*map(self._reload, tenants[index : index + REVALIDATIONS_AT_ONCE]))
