"""Fills the store on a miss: memory → Redis → plan store, one load per tenant at a time, bounded in time.

Where neither answers and nothing is held, what was last known is read from the disk.

Many callers that miss the same tenant share one load. A load honours the version floors that were set while
it ran: what it brings is asked for again when the feed has named a newer version meanwhile.

A cache may hold what was true once: what it says counts as current when the feed has named that version since
it began, or when the plan store confirms it. Where there is no plan store to ask, the cache is believed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import EntitlementsError, TenantUnknownError
from entitlement_sidecar.sidecar.snapshots.last_known import LastKnown, NothingKept
from entitlement_sidecar.sidecar.snapshots.ports import Fetched, SnapshotSource
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.telemetry import metrics

_log = logging.getLogger(__name__)


class Loader:
    """Reads snapshots from the sources, nearest first."""

    def __init__(
        self,
        store: SnapshotStore,
        sources: Sequence[SnapshotSource],
        clock: Clock,
        confirmed_by: SnapshotSource | None = None,
        last_known: LastKnown | None = None,
    ) -> None:
        """`confirmed_by`: the source that knows what is newest, where others of `sources` are its caches.

        `last_known` is asked where no source says anything and nothing is held.
        """
        self._store = store
        self._sources = sources
        self._confirmed_by = confirmed_by
        self._last_known = last_known or NothingKept()
        self.clock = clock
        self._running: dict[str, asyncio.Task[HeldTenant | None]] = {}
        self._catalogue: asyncio.Task[None] | None = None
        self.beginnings = 0
        """How often the feed has (re)started; what was asked before the last time is not covered by it."""

    async def load(self, tenant_id: str, min_version: int = 0, *, fresh: bool = False) -> HeldTenant | None:
        """What is held of a tenant after asking the sources; None when nobody could say.

        A tenant that does not exist is dropped, noted in the store, and answered as None. `fresh` passes by
        sources that cannot say as of when their word is true, where one that can answers.
        """
        if fresh:
            return await self._load(tenant_id, min_version, fresh=True)
        held = await self._shared(tenant_id, min_version)
        if min_version and (held is None or held.snapshot.version < min_version):
            # The load that was joined may have begun before the version was asked for.
            held = await self._shared(tenant_id, min_version)
        return held

    async def _shared(self, tenant_id: str, min_version: int) -> HeldTenant | None:
        task = self._running.get(tenant_id)
        if task is None:
            task = asyncio.create_task(self._load(tenant_id, min_version))
            self._running[tenant_id] = task
            task.add_done_callback(lambda _: self._running.pop(tenant_id, None))
        # A caller that gives up must not take the load away from the others.
        return await asyncio.shield(task)

    def feed_began(self) -> None:
        """The feed is read from here on: loads that begin now are covered by it, those under way are not."""
        self.beginnings += 1

    async def _load(self, tenant_id: str, min_version: int, *, fresh: bool = False) -> HeldTenant | None:
        self._store.begin_load(tenant_id)
        try:
            if self._store.freezing.is_frozen(tenant_id) and self._store.get(tenant_id) is None:
                # What was held before this process began is what the freeze keeps.
                await self._recalled(tenant_id)
            held = await self._ask(tenant_id, min_version, fresh=fresh)
            behind = self._store.floor(tenant_id) > (held.snapshot.version if held else 0)
            if behind and not self._store.is_kept(tenant_id):
                held = await self._ask(tenant_id, min_version, fresh=fresh)
        finally:
            self._store.end_load(tenant_id)
        return held

    async def _ask(self, tenant_id: str, min_version: int, *, fresh: bool = False) -> HeldTenant | None:
        beginnings = self.beginnings
        floor = self._store.floor(tenant_id)
        wanted = max(min_version, floor)
        for source in self._order(knowing_first=fresh or self._store.is_disowned(tenant_id)):
            asked = self.clock.monotonic()
            try:
                fetched = await source.snapshot(tenant_id, wanted)
            except TenantUnknownError:
                if self._store.floor(tenant_id) > floor:
                    # The feed has named it meanwhile: someone who just paid must not stay locked out.
                    return self._store.get(tenant_id)
                self.disown(tenant_id)
                metrics.snapshot_lookups.labels("unknown").inc()
                return None
            except EntitlementsError as error:
                _log.debug("no snapshot of %s from %s: %s", tenant_id, type(source).__name__, error)
                continue
            if fetched is None or await self._is_set_back(fetched) or fetched.snapshot.version < wanted:
                continue
            covered = 0 < beginnings == self.beginnings
            held = self._hold(fetched, asked, followed=covered and self._is_newest(fetched))
            if fetched.true_at is not None or not fresh:
                return held
        return self._store.get(tenant_id) or await self._recalled(tenant_id)

    async def _is_set_back(self, fetched: Fetched) -> bool:
        """Whether a cache has less than was seen before: then it was set back, and that is counted."""
        if fetched.true_at is not None:
            return False
        tenant_id, version = fetched.snapshot.tenant_id, fetched.snapshot.version
        held = self._store.get(tenant_id)
        known = held or await self._last_known.snapshot(tenant_id)
        if version >= max(self._store.floor(tenant_id), known.snapshot.version if known else 0):
            return False
        metrics.snapshots_refused.labels("rolled_back").inc()
        return True

    async def _recalled(self, tenant_id: str) -> HeldTenant | None:
        """What was last known, while nobody can say more. Nobody confirms it now: it is as old as it is."""
        fetched = await self._last_known.snapshot(tenant_id)
        if self._store.get(tenant_id) is None and fetched is not None:
            received = self._heard_at(fetched.true_at)
            self._store.put(HeldTenant(fetched.snapshot, fetched.source, fetched.true_at, False, received))
            metrics.snapshot_lookups.labels("disk").inc()
        elif fetched is None:
            metrics.snapshot_lookups.labels("none").inc()
        return self._store.get(tenant_id)

    def _heard_at(self, true_at: datetime | None) -> float | None:
        """An instant of the disk's on the monotonic clock: from here on no jump makes it look younger.

        One that is still to come was noted before the wall clock was set back, nobody knows how long ago.
        """
        if true_at is None:
            return None
        return self.clock.monotonic() - abs((self.clock.now() - true_at).total_seconds())

    def disown(self, tenant_id: str) -> None:
        """A source that knows says that there is no such tenant."""
        self._store.note_unknown(tenant_id, self.clock.monotonic())

    async def read_again(self, tenant_id: str) -> None:
        """Reads what is held of a tenant again, so that it is confirmed, or gives way to what is newer."""
        held = self._store.get(tenant_id)
        floor = self._store.floor(tenant_id)
        behind = held is None or held.snapshot.version < floor
        # The version that the feed has named is believed from wherever it comes.
        await self.load(tenant_id, floor, fresh=self._confirmed_by is not None and not behind)

    def _order(self, *, knowing_first: bool) -> Sequence[SnapshotSource]:
        """Nearest first, but the one that knows first where a cache's word is not enough."""
        first = self._confirmed_by
        if first is None or not knowing_first:
            return self._sources
        return [first, *(source for source in self._sources if source is not first)]

    def _is_newest(self, fetched: Fetched) -> bool:
        if self._confirmed_by is None or fetched.true_at is not None:
            return True
        return self._store.is_named(fetched.snapshot.tenant_id, fetched.snapshot.version)

    def _hold(self, fetched: Fetched, asked: float, *, followed: bool) -> HeldTenant | None:
        """`asked`: a monotonic instant at which the source had not answered yet."""
        metrics.snapshot_lookups.labels(fetched.source.name.lower()).inc()
        received = None if fetched.true_at is None else asked
        tenant = HeldTenant(fetched.snapshot, fetched.source, fetched.true_at, followed, received)
        self._store.put(tenant, fetched.envelope)
        return self._store.get(fetched.snapshot.tenant_id)

    async def begin(self, patience: float) -> None:
        """Reads the catalogue before anything is asked.

        Where it is not there within `patience` seconds, the last known one is held until it is, and answers
        say STALE.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.load_catalogue()
        if self._store.catalogue.version:
            return
        document = await self._last_known.catalogue()
        if document is not None and not self._store.catalogue.version:
            self._store.put_catalogue(document)
            self._store.doubt_catalogue()

    async def load_catalogue(self) -> bool:
        """Reads the catalogue document, the nearest that is not below its floor; many callers share one read.

        Says whether any is held now.
        """
        if self._catalogue is None:
            self._catalogue = asyncio.get_running_loop().create_task(self._load_catalogue())
            self._catalogue.add_done_callback(self._catalogue_ended)
        # A caller that gives up must not take the read away from the others.
        await asyncio.shield(self._catalogue)
        return self._store.catalogue.version > 0

    def _catalogue_ended(self, _: asyncio.Task[None]) -> None:
        self._catalogue = None

    async def _load_catalogue(self) -> None:
        beginnings = self.beginnings
        for source in self._order(knowing_first=self._store.catalogue_doubted):
            try:
                document = await source.catalogue()
            except EntitlementsError as error:
                _log.debug("no catalogue from %s: %s", type(source).__name__, error)
                continue
            if document is None:
                continue
            self._store.put_catalogue(document)
            knows = self._confirmed_by is None or source is self._confirmed_by
            newest = knows or self._store.is_catalogue_named(document.version)
            if newest and beginnings == self.beginnings:
                self._store.trust_catalogue()
            if document.version >= self._store.catalogue_floor:
                return
