"""Usage views: a metered PEEK is advisory and must not cost a call each (DESIGN 7).

Wraps an authority. A view is answered from memory and refreshed in the background, at most once a second per
key and one refresh at a time; every consume brings a fresh one for free. A view whose window has ended, or
whose limits came from an older snapshot, is no view. While the authority does not answer nobody waits for it
twice: the held view is answered whatever its age, and where none is held, that there is none.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.sidecar.leases.authority import NothingLeased, QuotaAuthority

REFRESH_AFTER = 1.0
"""Seconds after which a view is refreshed when it is asked for; also between two refreshes that fail."""

MAX_AGE = 5.0
"""Seconds after which a view is waited for instead of being answered old."""

MAX_VIEWS = 100_000
"""Views kept at most; the least recently refreshed goes first."""

_Key = tuple[str, str, str]
"""Tenant, feature, and who wants a seat: of each subject there is another view."""

_T = TypeVar("_T")
_UNAVAILABLE = QuotaUsage(unavailable=True)


class _View(msgspec.Struct, frozen=True):
    """A view, what it was asked for, when it was taken (monotonic), and when its first window ends."""

    usage: QuotaUsage
    resolution: Resolution
    taken: float
    until: datetime | None


class UsageViews(NothingLeased):
    """An authority whose views, and whose seats once taken, are answered from memory."""

    def __init__(self, authority: QuotaAuthority, clock: Clock) -> None:
        self._authority = authority
        self._clock = clock
        self._views: OrderedDict[_Key, _View] = OrderedDict()
        self._refreshing: dict[_Key, asyncio.Task[QuotaUsage]] = {}
        # When (monotonic) a key's last refresh ended without an answer.
        self._failed_at: OrderedDict[_Key, float] = OrderedDict()

    def view(
        self, tenant_id: str, ask: QuotaAsk, max_age: float | None
    ) -> QuotaUsage | Awaitable[QuotaUsage]:
        """Usage of every limit; at most `max_age` seconds old, 5 s when None.

        When the authority cannot be asked, a view of any age is better than none; its `as_of` tells. Who
        gives no `max_age` then waits once, and after that not again until the authority has answered. Who
        gives one gets nothing older: the authority's own word, or that it cannot be had.
        """
        key = _key(tenant_id, ask)
        view = self._usable(key, ask)
        if view is None:
            return _UNAVAILABLE if self._failed_lately(key) else asyncio.shield(self._refresh(key, ask))
        age = self._clock.monotonic() - view.taken
        if max_age is not None and (age > max_age or not max_age):
            return _UNAVAILABLE if self._failed_lately(key) else self._demanded(key, ask)
        if age > MAX_AGE and key not in self._failed_at:
            return asyncio.ensure_future(self._fresher(key, ask, view))
        if age > REFRESH_AFTER and not self._failed_lately(key):
            self._refresh(key, ask)
        return view.usage

    def held(self, tenant_id: str, ask: QuotaAsk, max_age: float) -> QuotaUsage | None:
        """The view in memory, if it is at most `max_age` seconds old; calls nobody.

        While it is the same view, it is the same object.
        """
        view = self._usable(_key(tenant_id, ask), ask)
        if view is None or self._clock.monotonic() - view.taken > max_age:
            return None
        return view.usage

    async def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:
        """Consumes at the authority, and keeps the view that its answer is.

        A seat is asked for once per subject and window (DESIGN 5).
        """
        key = _key(tenant_id, ask)
        held = self._usable(key, ask) if ask.feature.kind is FeatureKind.SEATS else None
        if held is not None and held.usage.holds:
            return msgspec.structs.replace(held.usage, admitted=True)
        outcome = self._authority.consume(tenant_id, ask, request_id)
        usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
        self._learn(key, ask, usage)
        return usage

    async def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> tuple[bool, list[QuotaUsage]]:
        """Consumes everything or nothing at the authority, and keeps the views that its answers are."""
        outcome = self._authority.consume_all(tenant_id, asks)
        admitted, answers = outcome if isinstance(outcome, tuple) else await outcome
        for (ask, _), usage in zip(asks, answers, strict=True):
            # What was not admitted as a whole may tell what would have been.
            if admitted or usage.unavailable:
                self._learn(_key(tenant_id, ask), ask, usage)
        return admitted, answers

    def _usable(self, key: _Key, ask: QuotaAsk) -> _View | None:
        """The view that is held, if it is of the limits asked about, and of windows that have not ended."""
        view = self._views.get(key)
        if view is None or (view.until is not None and self._clock.now() >= view.until):
            return None
        same = view.resolution is ask.resolution or _is_of_same_limits(view, ask.resolution)
        return view if same else None

    def _failed_lately(self, key: _Key) -> bool:
        failed_at = self._failed_at.get(key)
        return failed_at is not None and self._clock.monotonic() - failed_at < REFRESH_AFTER

    async def _fresher(self, key: _Key, ask: QuotaAsk, view: _View) -> QuotaUsage:
        usage = await asyncio.shield(self._refresh(key, ask))
        return view.usage if usage.unavailable else usage

    async def _demanded(self, key: _Key, ask: QuotaAsk) -> QuotaUsage:
        """What the authority says now: an older view is no answer to who demands a younger one."""
        return await self._fetch(key, ask)

    def _refresh(self, key: _Key, ask: QuotaAsk) -> asyncio.Task[QuotaUsage]:
        task = self._refreshing.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(key, ask))
            self._refreshing[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        return task

    def _done(self, key: _Key, task: asyncio.Task[QuotaUsage]) -> None:
        self._refreshing.pop(key, None)
        if not task.cancelled():
            # Whoever waited has it; a refresh that nobody waited for must not warn of an unread error.
            task.exception()

    async def _fetch(self, key: _Key, ask: QuotaAsk) -> QuotaUsage:
        outcome = self._authority.view(key[0], ask, 0)
        usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
        self._learn(key, ask, usage)
        return usage

    def _learn(self, key: _Key, ask: QuotaAsk, usage: QuotaUsage) -> None:
        """Keeps an answer as a view, or remembers that there was none."""
        now = self._clock.monotonic()
        if usage.unavailable:
            _keep(self._failed_at, key, now)
            return
        self._failed_at.pop(key, None)
        if usage.admitted and ask.feature.kind is FeatureKind.SEATS:
            usage = msgspec.structs.replace(usage, holds=True)
        held = self._views.get(key)
        if held is not None and held.usage.as_of and usage.as_of and usage.as_of < held.usage.as_of:
            # A look that began before a consume may end after it: it knows less.
            return
        _keep(self._views, key, _View(_as_view(usage), ask.resolution, now, first_end(usage.limits)))


def _key(tenant_id: str, ask: QuotaAsk) -> _Key:
    return tenant_id, ask.feature.key, ask.subject if ask.feature.kind is FeatureKind.SEATS else ""


def _keep(kept: OrderedDict[_Key, _T], key: _Key, value: _T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > MAX_VIEWS:
        kept.popitem(last=False)


def _as_view(usage: QuotaUsage) -> QuotaUsage:
    """What an answer says to others than who consumed."""
    limits = tuple(msgspec.structs.replace(one, taken=0) if one.taken else one for one in usage.limits)
    return msgspec.structs.replace(usage, limits=limits, admitted=None)


def _is_of_same_limits(view: _View, resolution: Resolution) -> bool:
    if resolution.buckets or view.resolution.buckets:
        return view.resolution.buckets == resolution.buckets
    amounts = [(one.key, one.amount) for one in view.usage.limits]
    return amounts == [(one.key, one.amount) for one in resolution.limits] and _carrying(
        view.resolution
    ) == _carrying(resolution)


def _carrying(resolution: Resolution) -> list[tuple[str, int, int | None]]:
    """What decides how much of the window before is carried over."""
    return [(one.key, one.carry_over_cap, one.before) for one in resolution.limits]


def first_end(limits: Sequence[LimitUsage]) -> datetime | None:
    """When the first of several windows ends; None when none does."""
    return min((usage.reset_at for usage in limits if usage.reset_at is not None), default=None)
