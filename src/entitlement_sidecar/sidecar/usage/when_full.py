"""What becomes of usage while the outbox has no room for it: each metric says (`when_full`, DESIGN 8).

REFUSE         the call fails at once
BLOCK          it waits for room, then fails; who leaves earlier waits no longer
ALLOW_UNMETERED  a consumption goes on without a record (`decisions.consumption`); a report is refused
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from entitlement_sidecar.domain.catalogue import Metric
from entitlement_sidecar.domain.errors import OutboxFullError
from entitlement_sidecar.domain.registry import WhenFull

BLOCK_WITHIN = 2.0
"""Seconds that usage waits for room at most; the deadline of its call may be shorter, and ends it."""

LOOK_EVERY = 0.05
"""Seconds between two attempts."""

_T = TypeVar("_T")


def may_wait(metrics: Iterable[Metric]) -> bool:
    """Whether usage that is kept together waits for room: it does where any of it may."""
    return any(metric.when_full is WhenFull.BLOCK for metric in metrics)


def may_go_unmetered(metrics: Iterable[Metric]) -> bool:
    """Whether usage that is kept together may go without a record: all of it has to."""
    return all(metric.when_full is WhenFull.ALLOW_UNMETERED for metric in metrics)


async def with_room(attempt: Callable[[], Awaitable[_T]], *, wait: bool) -> _T:
    """Does what needs room; with `wait` again and again, for 2 s.

    Raises:
        OutboxFullError: There was none.
    """
    if not wait:
        return await attempt()
    loop = asyncio.get_running_loop()
    until = loop.time() + BLOCK_WITHIN
    while True:
        try:
            return await attempt()
        except OutboxFullError:
            if loop.time() >= until:
                raise
        await asyncio.sleep(LOOK_EVERY)
