"""Freezes of break-glass: which newer snapshots are held back, and what to read again when a freeze ends.

What is held of a frozen tenant stays; where nothing is held, what there is gets taken. A version that was
held back is remembered, so that it is neither read again meanwhile nor forgotten when the freeze is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import msgspec

from entitlement_sidecar.domain import break_glass
from entitlement_sidecar.domain.break_glass import BreakGlassAction, Entries
from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.telemetry import metrics

LOOK_EVERY = 0.5
"""Seconds between two looks for freezes that time has ended."""

_HELD = ("features", "metrics", "emitters", "rules", "task_metrics")
"""What of the document a freeze of all holds back."""


class Freezing:
    """What the newest catalogue document says of freezes, and what was held back by them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: Entries = ()
        self._held_back: dict[str, Snapshot] = {}
        self._document: CatalogueDocument | None = None
        for action in (BreakGlassAction.OPEN, BreakGlassAction.FREEZE):
            metrics.break_glass_active.labels(action.name.lower()).set_function(self._counter(action))

    def is_frozen(self, tenant_id: str) -> bool:
        """Whether a tenant is frozen now."""
        return bool(self._entries) and self._since(tenant_id) is not None

    def holds_back(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot must not replace an older one now; it is remembered if so."""
        if not (self._entries and self._is_too_new(snapshot)):
            return False
        known = self._held_back.get(snapshot.tenant_id)
        if known is None or known.version < snapshot.version:
            self._held_back[snapshot.tenant_id] = msgspec.structs.replace(
                snapshot, subscriptions=(), grants=()
            )
        return True

    def has_held_back(self, tenant_id: str, version: int) -> bool:
        """Whether a version of a tenant, or a newer one, was seen and held back."""
        newest = self._held_back.get(tenant_id)
        return newest is not None and 0 < version <= newest.version

    def forget(self, tenant_id: str) -> None:
        """Nothing is held of the tenant any more."""
        self._held_back.pop(tenant_id, None)

    def kept(self, held: CatalogueDocument, newest: CatalogueDocument) -> CatalogueDocument:
        """The newest document; while all are frozen, with features and registry as they are held."""
        self._entries = newest.break_glass
        self._document = None
        if not held.version or not break_glass.all_frozen(self._entries, self._clock.now()):
            return newest
        frozen = {name: getattr(held, name) for name in _HELD}
        if all(getattr(newest, name) == value for name, value in frozen.items()):
            return newest
        self._document = newest
        return msgspec.structs.replace(newest, **frozen)

    @property
    def document(self) -> CatalogueDocument | None:
        """The newest document, where its features or its registry are held back."""
        return self._document

    def thawed(self) -> list[str]:
        """Tenants of which something was held back that is so no longer; said once of each."""
        found = [tenant_id for tenant_id, one in self._held_back.items() if not self._is_too_new(one)]
        for tenant_id in found:
            del self._held_back[tenant_id]
        return found

    def all_thawed(self) -> CatalogueDocument | None:
        """The document that was held back, once nothing holds it back any more."""
        frozen = break_glass.all_frozen(self._entries, self._clock.now())
        return None if frozen else self._document

    def _is_too_new(self, snapshot: Snapshot) -> bool:
        since = self._since(snapshot.tenant_id)
        return since is not None and snapshot.compiled_at > since

    def _since(self, tenant_id: str) -> datetime | None:
        return break_glass.frozen_since(self._entries, tenant_id, self._clock.now())

    def _counter(self, action: BreakGlassAction) -> Callable[[], float]:
        def count() -> float:
            now = self._clock.now()
            return sum(one.action is action and one.is_active(now) for one in self._entries)

        return count


async def thaw_by_time(thaw: Callable[[], object]) -> None:
    """Calls `thaw` again and again, since nobody says when time has ended a freeze. Runs until cancelled."""
    while True:
        await asyncio.sleep(LOOK_EVERY)
        thaw()
