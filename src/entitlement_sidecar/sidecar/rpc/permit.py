"""Which tenants one caller may ask about, as the callers file says now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import TypeVar

from entitlement_sidecar.domain.errors import ForbiddenError
from entitlement_sidecar.telemetry import metrics

_Item = TypeVar("_Item")

Tenants = frozenset[str] | None
"""Ids of tenants; None: every tenant."""


class Permit:
    """What one caller may. It is the same object while the file only changes the caller's tenants.

    Args:
        caller: The caller's name, for messages.
        tenants: Whom it may ask about.
    """

    def __init__(self, caller: str, tenants: Tenants) -> None:
        self.caller = caller
        self._tenants = tenants
        self._changed = asyncio.Event()

    def change(self, tenants: Iterable[str] | None) -> None:
        """Other tenants from now on. What follows a tenant that is not among them ends."""
        self._tenants = None if tenants is None else frozenset(tenants)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def end(self) -> None:
        """Nothing from now on: the caller has gone, or is known by something else."""
        self.change(())

    def refusal(self, tenant_id: str) -> str:
        """Why the caller may not ask about a tenant, counted; empty: it may."""
        if self._tenants is None or tenant_id in self._tenants:
            return ""
        metrics.calls_denied.labels("tenant").inc()
        return f"caller {self.caller!r} may not ask about tenant {tenant_id!r}"

    def require(self, tenant_id: str) -> None:
        """Lets pass what may be asked. Says the same of tenants that exist and of those that do not.

        Raises:
            ForbiddenError: The caller may not ask about the tenant.
        """
        if refusal := self.refusal(tenant_id):
            raise ForbiddenError(refusal)

    async def following(
        self, tenant_id: str, items: AsyncGenerator[_Item, None] | AsyncIterator[_Item]
    ) -> AsyncIterator[_Item]:
        """The items, for as long as the tenant may be asked about.

        Raises:
            ForbiddenError: From the start, or from now on, it may not.
        """
        self.require(tenant_id)
        lost = asyncio.ensure_future(self._lost(tenant_id))
        coming: asyncio.Future[_Item] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(anext(items))
                await asyncio.wait((coming, lost), return_when=asyncio.FIRST_COMPLETED)
                if lost.done():
                    self.require(tenant_id)
                try:
                    item = await coming
                except StopAsyncIteration:
                    return
                yield item
        finally:
            await _ended(lost, coming)

    async def _lost(self, tenant_id: str) -> None:
        while self._tenants is None or tenant_id in self._tenants:
            await self._changed.wait()


async def _ended(*tasks: asyncio.Future[_Item] | asyncio.Future[None] | None) -> None:
    """Cancels what still runs, and waits until it has let go of what it holds."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
