"""Notes now and then on disk how long what is held has been current.

After a restart, what was last known is then as old as it really is, and not as old as its last change:
features that are denied once nothing has confirmed them for a day are not denied for a plan that has not
changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.last_known import LastKnown
from entitlement_sidecar.sidecar.snapshots.store import SnapshotStore

EVERY = 30.0
"""Seconds between two notes: as much older may what was last known seem after a crash."""

AT_ONCE = 1_000
"""Tenants noted before checks have their turn."""


class Keeping:
    """Tells `LastKnown` of which instant the feed has confirmed what it confirms."""

    def __init__(self, store: SnapshotStore, freshness: Freshness, last_known: LastKnown) -> None:
        self._store = store
        self._freshness = freshness
        self._last_known = last_known

    async def run(self) -> None:
        """Notes it until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            for _ in self._notes():
                await asyncio.sleep(0)

    def note(self) -> None:
        """Notes it now."""
        for _ in self._notes():
            pass

    def _notes(self) -> Iterator[None]:
        as_of = self._freshness.as_of
        if as_of is not None:
            # All as of now: what is followed a moment later may not have been so then.
            followed = self._store.followed()
            for first in range(0, len(followed), AT_ONCE):
                self._last_known.confirm(as_of, followed[first : first + AT_ONCE])
                yield
