"""Usage views: a metered PEEK is advisory and must not cost a call each (DESIGN 7).

Wraps an authority. A view is answered from memory and refreshed in the background, at most once a second per
key and one refresh at a time; every consume brings a fresh one for free. A view whose window has ended, or
whose limits came from an older snapshot, is no view.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.sidecar.leases.authority import QuotaAuthority

REFRESH_AFTER = 1.0
"""Seconds after which a view is refreshed when it is asked for."""

MAX_AGE = 5.0
"""Seconds after which a view is waited for instead of being answered old."""

MAX_VIEWS = 100_000
"""Views kept at most; the least recently refreshed goes first."""

_Key = tuple[str, str]


class _View(msgspec.Struct, frozen=True):
    """A view, what it was asked for, when it was taken (monotonic), and when its first window ends."""

    usage: QuotaUsage
    resolution: Resolution
    taken: float
    until: datetime | None


class UsageViews:
    """An authority whose views are answered from memory."""

    def __init__(self, authority: QuotaAuthority, clock: Clock) -> None:
        self._authority = authority
        self._clock = clock
        self._views: OrderedDict[_Key, _View] = OrderedDict()
        self._refreshing: dict[_Key, asyncio.Task[QuotaUsage]] = {}

    def view(
        self, tenant_id: str, ask: QuotaAsk, max_age: float | None
    ) -> QuotaUsage | Awaitable[QuotaUsage]:
        """Usage of every limit; at most `max_age` seconds old, 5 s when None.

        When the authority cannot be asked, a view of any age is better than none; its `as_of` tells.
        """
        key = (tenant_id, ask.feature.key)
        view = self._views.get(key)
        if view is None or not self._usable(view, ask):
            return self._refresh(key, ask)
        age = self._clock.monotonic() - view.taken
        if age > (MAX_AGE if max_age is None else max_age):
            return asyncio.ensure_future(self._fresher(key, ask, view))
        if age > REFRESH_AFTER:
            self._refresh(key, ask)
        return view.usage

    async def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:
        """Consumes at the authority, and keeps the view that its answer is."""
        outcome = self._authority.consume(tenant_id, ask, request_id)
        usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
        if not usage.unavailable:
            self._keep((tenant_id, ask.feature.key), ask, msgspec.structs.replace(usage, admitted=None))
        return usage

    def _usable(self, view: _View, ask: QuotaAsk) -> bool:
        """The view is of the limits asked about, and of windows that have not ended."""
        if view.until is not None and self._clock.now() >= view.until:
            return False
        return view.resolution is ask.resolution or _same_limits(view.usage, ask.resolution)

    async def _fresher(self, key: _Key, ask: QuotaAsk, view: _View) -> QuotaUsage:
        usage = await self._refresh(key, ask)
        return view.usage if usage.unavailable else usage

    def _refresh(self, key: _Key, ask: QuotaAsk) -> Awaitable[QuotaUsage]:
        task = self._refreshing.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(key, ask))
            self._refreshing[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        return asyncio.shield(task)

    def _done(self, key: _Key, task: asyncio.Task[QuotaUsage]) -> None:
        self._refreshing.pop(key, None)
        if not task.cancelled():
            # Whoever waited has it; a refresh that nobody waited for must not warn of an unread error.
            task.exception()

    async def _fetch(self, key: _Key, ask: QuotaAsk) -> QuotaUsage:
        outcome = self._authority.view(key[0], ask, 0)
        usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
        if not usage.unavailable:
            self._keep(key, ask, usage)
        return usage

    def _keep(self, key: _Key, ask: QuotaAsk, usage: QuotaUsage) -> None:
        until = first_end(usage.limits)
        self._views[key] = _View(usage, ask.resolution, self._clock.monotonic(), until)
        self._views.move_to_end(key)
        while len(self._views) > MAX_VIEWS:
            self._views.popitem(last=False)


def _same_limits(usage: QuotaUsage, resolution: Resolution) -> bool:
    return [(u.key, u.amount) for u in usage.limits] == [(li.key, li.amount) for li in resolution.limits]


def first_end(limits: Sequence[LimitUsage]) -> datetime | None:
    """When the first of several windows ends; None when none does."""
    return min((usage.reset_at for usage in limits if usage.reset_at is not None), default=None)
