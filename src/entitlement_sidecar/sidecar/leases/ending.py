"""Gives leases back, and settles for those of former starts. What is not confirmed is told again.

given up ──uses under way are known──▶ told: end ──confirmed──▶ closed in the journal, forgotten
                                        └─ its block is gone ──▶ told: the root adopts ──▶ the same
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from itertools import count
from typing import Any

import msgspec

from entitlement_sidecar.domain.errors import EntitlementsError
from entitlement_sidecar.domain.lease import Told
from entitlement_sidecar.sidecar.leases.asking import Means
from entitlement_sidecar.sidecar.leases.grantor import Opening, Request
from entitlement_sidecar.sidecar.leases.journal import LeaseAccount
from entitlement_sidecar.sidecar.leases.lease import Lease
from entitlement_sidecar.telemetry import metrics

AT_ONCE = 16
"""Leases that are given back at once."""

PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between two attempts; the last one goes on."""

ATTEMPTS = 60
"""After so many a lease is left to the journal, which knows it at the next start."""

LOOK = 0.05
"""Seconds between two looks while everything is given back."""

_log = logging.getLogger(__name__)


class _Due(msgspec.Struct):
    """Something to be told: what does it, whether it has to wait still, and how often it was tried."""

    tell: Callable[[], Coroutine[Any, Any, bool]]
    waits: Callable[[], bool]
    attempts: int = 0


class Endings:
    """Leases on their way back. `forget` is called with each that is confirmed."""

    def __init__(self, means: Means, forget: Callable[[Lease], None]) -> None:
        self._means = means
        self._forget = forget
        self._clock = means.clock
        self._due: list[tuple[float, int, _Due]] = []
        self._numbers = count()
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        """How many are not confirmed yet."""
        return len(self._due) + len(self._telling)

    def add(self, lease: Lease) -> None:
        """Uses nothing of a lease any more, and tells its grantor as soon as its uses under way are known."""
        lease.give_up()
        self._push(_Due(lambda: self._end(lease), lambda: _waits(lease)))

    async def settle_former(self) -> None:
        """Settles for what earlier starts had, as far as the journal proves what they used.

        Raises:
            SourceUnavailableError: The journal cannot be read now.
        """
        for account in await self._means.journal.former():
            self._push(_Due(self._former(account), _at_once))

    def tick(self, *, at_once: bool = False) -> None:
        """Tells what is due; `at_once`: also what would be tried again later."""
        now = float("inf") if at_once else self._clock.monotonic()
        waiting = []
        while self._due and self._due[0][0] <= now and len(self._telling) < AT_ONCE:
            one = heappop(self._due)[2]
            if one.waits():
                waiting.append(one)
                continue
            task = asyncio.get_running_loop().create_task(self._tell(one))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        for one in waiting:
            self._push(one, LOOK)

    async def soon(self, within: float) -> None:
        """Tells what is due, and waits so many seconds for it at most."""
        self.tick()
        if self._telling:
            await asyncio.wait(set(self._telling), timeout=within)

    async def drain(self, within: float) -> None:
        """Tells all of it, as far as it can be told in so many seconds."""
        try:
            async with asyncio.timeout(within):
                while self.pending:
                    self.tick(at_once=True)
                    if self._telling:
                        await asyncio.wait(self._telling)
                    if self._due:
                        await asyncio.sleep(LOOK)
        except TimeoutError:
            _log.warning("%d leases are not given back; the next start settles for them", self.pending)
        for task in list(self._telling):
            task.cancel()

    async def _tell(self, one: _Due) -> None:
        try:
            done = await one.tell()
        except EntitlementsError as error:
            _log.debug("a lease is not given back yet: %s", error)
            done = False
        if done or one.attempts >= ATTEMPTS:
            return
        one.attempts += 1
        self._push(one, PAUSES[min(one.attempts, len(PAUSES)) - 1])

    def _push(self, one: _Due, later: float = 0.0) -> None:
        heappush(self._due, (self._clock.monotonic() + later, next(self._numbers), one))

    async def _end(self, lease: Lease) -> bool:
        if not await self._is_known(lease):
            self._forget(lease)
            return True
        done = lease.estranged or await lease.grantor.end(lease.opening, lease.id, lease.finish())
        if lease.estranged or not done:
            lease.estranged = True
            done = await self._means.root.adopt(lease.id, lease.orphaned())
        if done:
            self._forget(lease)
            metrics.lease_tokens_returned.inc(lease.holding.returned)
            await self._means.journal.close([lease.id])
        return done

    async def _is_known(self, lease: Lease) -> bool:
        """Whether there is anything to end: what was asked for and not heard of is asked for once more."""
        if lease.id:
            return True
        if lease.holding.sent is None:
            return False
        told = lease.ask(self._clock.monotonic())
        heard = await lease.grantor.ask(lease.opening, "", Request(told, 1))
        if heard.terms is None or not heard.lease_id:
            return False
        lease.id = heard.lease_id
        lease.hear(heard.terms, heard.ends_at, 0)
        return True

    def _former(self, account: LeaseAccount) -> Callable[[], Coroutine[Any, Any, bool]]:
        async def settle() -> bool:
            done = not account.proved or await self._settled(account)
            if done:
                await self._means.journal.close([account.lease_id])
            return done

        return settle

    async def _settled(self, account: LeaseAccount) -> bool:
        name = account.lease_id.rpartition("#")[2]
        opening = Opening(account.tenant_id, account.feature, account.ends_at, account.holder, name)
        if not account.block:
            return await self._means.root.end(opening, account.lease_id, account.used)
        block = self._means.block
        if block is not None and await block.end(opening, account.lease_id, account.used):
            return True
        # What it had given up is not in the journal, so all of it counts as told to the lost block.
        return await self._means.root.adopt(account.lease_id, Told(0, account.used, 0))


def _waits(lease: Lease) -> bool:
    return lease.busy or lease.under_way > 0


def _at_once() -> bool:
    return False
