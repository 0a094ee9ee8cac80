"""Which tenants one caller may ask about, and as which emitter it reports, as the callers file says now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import TypeVar

from entitlement_sidecar.domain.errors import ForbiddenError, InvalidInputError
from entitlement_sidecar.telemetry import metrics

_Item = TypeVar("_Item")

_SHOWN = 64
"""Most characters of a wrong name that a message repeats."""

Tenants = frozenset[str] | None
"""Ids of tenants; None: every tenant."""


class Permit:
    """What one caller may. It is the same object while the file only changes the caller's tenants.

    Args:
        caller: The caller's name: in messages, and the emitter of the usage that it reports.
        tenants: Whom it may ask about.
        emitters: In whose names beside its own it may report usage.
    """

    def __init__(self, caller: str, tenants: Tenants, emitters: Iterable[str] = ()) -> None:
        self.caller = caller
        self._tenants = tenants
        self.report_as(emitters)
        self._changed = asyncio.Event()

    def change(self, tenants: Iterable[str] | None) -> None:
        """Other tenants from now on. What follows a tenant that is not among them ends."""
        self._tenants = None if tenants is None else frozenset(tenants)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def report_as(self, emitters: Iterable[str]) -> None:
        """Other emitters, beside itself, from now on."""
        self._emitters = frozenset({self.caller, *emitters})

    def end(self) -> None:
        """Nothing from now on: the caller has gone, or is known by something else."""
        self.change(())

    def covers(self, tenant_id: str) -> bool:
        """Whether the caller may ask about a tenant."""
        return self._tenants is None or tenant_id in self._tenants

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

    def emitter(self, claimed: str) -> str:
        """The emitter of usage that the caller reports: who it is, or one that it reports for.

        Raises:
            InvalidInputError: It may not report in that name (S0.7).
        """
        if not claimed:
            return self.caller
        if claimed in self._emitters:
            return claimed
        metrics.calls_denied.labels("emitter").inc()
        allowed = ", ".join(sorted(self._emitters))
        raise InvalidInputError.of(
            "emitter",
            f"caller {self.caller!r} may not report as {claimed[:_SHOWN]!r}; expected {allowed}, or none",
        )

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
