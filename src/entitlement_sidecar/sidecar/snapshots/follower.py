"""Keeps the store current from the feed. A lost feed never empties it: it only stops confirming.

What the feed does not confirm is confirmed by the plan store, many versions at once (`revalidation`), or read
again until the feed covers it (`backlog`), while the feed is followed.

States: connecting ── Began ──▶ following ── connection lost ──▶ connecting (pause with jitter)
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from tenacity import RetryCallState, Retrying, wait_random_exponential

from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import EntitlementsError, RetryableError
from entitlement_sidecar.sidecar.snapshots.backlog import Backlog
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.meanwhile import Meanwhile
from entitlement_sidecar.sidecar.snapshots.ports import (
    Beat,
    Began,
    CatalogueChanged,
    Changed,
    Confirmer,
    Feed,
    FeedEvent,
    Gone,
)
from entitlement_sidecar.sidecar.snapshots.revalidation import Revalidation
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.telemetry import metrics

_CATALOGUE = ""
"""The catalogue's name in the backlog: no tenant has it."""

_REASONS = 8
"""Reasons told of one outage at most."""

_pause = wait_random_exponential(multiplier=0.1, max=5)
_log = logging.getLogger(__name__)


class Follower:
    """Applies feed events to the store."""

    def __init__(
        self,
        feed: Feed,
        store: SnapshotStore,
        loader: Loader,
        freshness: Freshness,
        confirmer: Confirmer | None = None,
    ) -> None:
        """`confirmer`: who can confirm many versions at once, if anybody can."""
        self._feed = feed
        self._store = store
        self._loader = loader
        self._freshness = freshness
        # Tenacity keeps the count that its wait strategy reads.
        self._attempts = RetryCallState(Retrying(), None, (), {})
        self._told: set[str] = set()
        self._meanwhile = Meanwhile(store, loader, confirmer)
        self._following = False
        self.backlog = Backlog(self._read_again, self._settled)
        self.revalidation = Revalidation(store, loader, self.backlog, confirmer)
        store.on_unfollowed = self._unfollowed

    async def run(self) -> None:
        """Follows the feed until cancelled."""
        try:
            while True:
                wait = await self._follow()
                metrics.feed_interruptions.inc()
                await asyncio.sleep(max(wait, _pause(self._attempts)))
                self._attempts.attempt_number += 1
                await self._meanwhile.step()
        finally:
            self.revalidation.cancel()
            self.backlog.cancel()

    async def _follow(self) -> float:
        """Until the feed is lost; the seconds that whoever refuses it wants it left alone for."""
        try:
            async for event in self._feed.events():
                if isinstance(event, Beat):
                    # Not sooner: a feed that begins and is lost again and again must not do so in haste.
                    self._attempts.attempt_number = 1
                    self._told.clear()
                    self._meanwhile.feed_is_back()
                self.apply(event)
        except EntitlementsError as error:
            self._tell(str(error))
            wait = error.retry_after if isinstance(error, RetryableError) else None
            # Not all sidecars that were refused come back at the same instant.
            return random.uniform(1, 2) * (wait or 0.0)  # noqa: S311 - spreads calls, hides nothing
        except Exception:  # noqa: BLE001 - logged whole
            # A defect in reading the feed must not end a process that can still answer.
            _log.exception("feed lost unexpectedly, going on with what is held")
        finally:
            self._following = False
            self.revalidation.close()
            self.backlog.close()
        return 0.0

    def _tell(self, why: str) -> None:
        """Each reason once in an outage, however long it lasts."""
        is_news = why not in self._told and len(self._told) < _REASONS
        _log.log(
            logging.WARNING if is_news else logging.DEBUG, "feed lost, going on with what is held: %s", why
        )
        if is_news:
            self._told.add(why)

    def apply(self, event: FeedEvent) -> None:
        """Applies one event."""
        metrics.feed_events.labels(type(event).__name__.lower()).inc()
        if not self._following:
            self._follow_on()
        match event:
            case Beat():
                self._freshness.beat(event.position.shard, event.true_at)
            case Changed():
                self._changed(event)
            case Gone():
                self._loader.disown(event.tenant_id)
            case CatalogueChanged():
                self._catalogue_changed(event)
            case Began():
                self._began(event)

    def _follow_on(self) -> None:
        """The feed is heard (again): what was left to read again when it was lost is taken up."""
        self._following = True
        self.backlog.open()
        self.revalidation.open()
        if not self._settled(_CATALOGUE):
            self.backlog.add(_CATALOGUE)
        self._confirm_later([one for one in self._store.tenants() if not self._store.is_settled(one)])

    def _confirm_later(self, tenants: Sequence[str]) -> None:
        if not self.revalidation.add_later(tenants):
            for tenant_id in tenants:
                self.backlog.add_later(tenant_id)

    def _unfollowed(self, tenant_id: str) -> None:
        if not self.revalidation.add(tenant_id):
            self.backlog.add(tenant_id)

    def _changed(self, event: Changed) -> None:
        if event.snapshot is not None and self._store.get(event.tenant_id) is not None:
            tenant = HeldTenant(event.snapshot, Source.MEMORY, None, followed=True)
            self._store.put(tenant, event.envelope)
        freshness = self._freshness
        self._store.raise_floor(event.tenant_id, event.version, freshness.as_of, freshness.received)

    def _catalogue_changed(self, event: CatalogueChanged) -> None:
        # First: a freeze may hold the document back.
        self._store.raise_catalogue_floor(event.version, self._freshness.as_of)
        if event.document is not None:
            self._store.put_catalogue(event.document)
            self._store.trust_catalogue()
        if not self._settled(_CATALOGUE):
            self.backlog.add(_CATALOGUE)

    def _began(self, event: Began) -> None:
        as_of, received = self._freshness.as_of, self._freshness.received
        self._freshness.begin(event.shards)
        self._loader.feed_began()
        self._store.doubt_catalogue(as_of)
        # First: without it nothing can be decided.
        self.backlog.add(_CATALOGUE)
        self._confirm_later(self._store.unfollow_all(as_of, received))

    def _settled(self, name: str) -> bool:
        return self._store.catalogue_settled if name == _CATALOGUE else self._store.is_settled(name)

    async def _read_again(self, name: str) -> None:
        if name == _CATALOGUE:
            await self._loader.load_catalogue()
        else:
            await self._loader.read_again(name)
