"""Asks now and then which keys are trusted, so that one that was retired is not trusted until a restart."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from entitlement_sidecar.domain.errors import EntitlementsError

AT_FIRST_WITHIN = 5.0
"""Seconds within which they are asked for first: keys of an earlier run may be retired by now."""

EVERY = 300.0
"""Seconds at most between two questions; they come at random, and not from all sidecars at once."""


async def learn_again(learn: Callable[[], Awaitable[None]]) -> None:
    """Calls `learn` until cancelled. While the plan store is away, those that were trusted last are."""
    pause = random.uniform(0, AT_FIRST_WITHIN)  # noqa: S311 - spreads calls, hides nothing
    while True:
        await asyncio.sleep(pause)
        with suppress(EntitlementsError):
            await learn()
        pause = random.uniform(EVERY / 2, EVERY)  # noqa: S311 - spreads calls, hides nothing
