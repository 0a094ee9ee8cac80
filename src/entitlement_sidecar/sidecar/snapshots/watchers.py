"""Tells those who wait that something of a tenant, or the catalogue, has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from entitlement_sidecar.domain.errors import ExhaustedError

MAX_WATCHERS = 1000
"""Watches at once; further ones are RESOURCE_EXHAUSTED."""


class Watchers:
    """Wakes, and says nothing: who is woken looks at what is held. Changes that come together wake once."""

    def __init__(self, limit: int = MAX_WATCHERS) -> None:
        self._limit = limit
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._count = 0

    @contextmanager
    def watch(self, tenant_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when something has changed; whoever waits clears it.

        Raises:
            ExhaustedError: Too many watch already.
        """
        if self._count >= self._limit:
            raise ExhaustedError(
                f"{self._count} watches are open already: close some, or ask for states", 1.0
            )
        event = asyncio.Event()
        self._count += 1
        self._waiting.setdefault(tenant_id, set()).add(event)
        try:
            yield event
        finally:
            self._count -= 1
            waiting = self._waiting[tenant_id]
            waiting.discard(event)
            if not waiting:
                del self._waiting[tenant_id]

    def changed(self, tenant_id: str) -> None:
        """A tenant has changed, or is known to have."""
        for event in self._waiting.get(tenant_id, ()):
            event.set()

    def all_changed(self) -> None:
        """What belongs to no tenant has changed."""
        for waiting in self._waiting.values():
            for event in waiting:
                event.set()
