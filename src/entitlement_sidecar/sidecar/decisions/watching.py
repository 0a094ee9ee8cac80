"""Watches: the current state of one tenant, then each change of it.

A state is everything that the tenant has. It changes with the snapshot, with the catalogue, and by time
alone; usage changes no state. Whoever reads slowly finds the latest state, never a backlog.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import msgspec

from entitlement_sidecar.domain.break_glass import active, next_change
from entitlement_sidecar.domain.decision import CheckRequest, Decision
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.outage import refuses_stale
from entitlement_sidecar.domain.resolve import Resolution, resolve
from entitlement_sidecar.sidecar.decisions.check import Decisions
from entitlement_sidecar.sidecar.decisions.knowing import Knowing

LOOK_SOON = timedelta(seconds=2)
"""After this a watch of a tenant that nobody could say anything of looks again."""

LOOK_AGAIN = 60.0
"""Seconds after which a watch looks at the latest, should time alone change something sooner or later."""


class State(msgspec.Struct, frozen=True):
    """Everything that a tenant has: a look at each feature, sorted by feature."""

    version: int
    features: list[str]
    decisions: list[Decision]


_Content = tuple[int, int, bool, tuple[object, ...]]
"""Version, version of the catalogue, whether the tenant is unknown, and what else a state rests on."""


class Watching:
    """Follows tenants for callers."""

    def __init__(self, decisions: Decisions, knowing: Knowing) -> None:
        self._decisions = decisions
        self._knowing = knowing
        self._store = knowing.knowledge.store

    async def list(self, tenant_id: str, *, fresh_usage: bool = False) -> State:
        """The state now; `fresh_usage` asks the authority for the usage of every counted feature."""
        held = await self._knowing.in_time(CheckRequest(tenant_id, ""))
        features = sorted(self._knowing.catalogue.features)
        looks = (
            self._decisions.look_at(CheckRequest(tenant_id, feature), held, fresh_usage=fresh_usage)
            for feature in features
        )
        decisions = await asyncio.gather(*looks)
        return State(held.snapshot.version if held.snapshot else 0, features, list(decisions))

    async def states(self, tenant_id: str, after_version: int) -> AsyncIterator[State]:
        """The current state, unless the caller has seen a later version, and every later one.

        A change of the catalogue, and time alone, keep the version: who comes back is told the state again.
        """
        with self._store.watchers.watch(tenant_id) as changed:
            held, content, until = await self._content(tenant_id)
            if content[0] >= after_version:
                yield await self.list(tenant_id)
            while True:
                await self._wait(changed, until)
                before = content
                held, content, until = await self._content(tenant_id)
                known = held.snapshot is not None or held.tenant_unknown
                if content != before and known and content[0] >= after_version:
                    yield await self.list(tenant_id)

    async def _wait(self, changed: asyncio.Event, until: datetime | None) -> None:
        """Until something is told to have changed, or time may have changed it."""
        seconds = LOOK_AGAIN
        if until is not None:
            seconds = min(seconds, max(0.0, (until - self._knowing.clock.now()).total_seconds()))
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return
        changed.clear()

    async def _content(self, tenant_id: str) -> tuple[Held, _Content, datetime | None]:
        """What a state would say, without usage, and when time alone changes it next."""
        held = await self._knowing.in_time(CheckRequest(tenant_id, ""))
        now = self._knowing.clock.now()
        entries = held.catalogue.break_glass
        emergency = active(entries, tenant_id, now)
        changing = next_change(entries, tenant_id, now)
        if held.snapshot is None:
            # Where nobody could say anything, nobody may tell of it either once somebody can.
            soon = now + LOOK_SOON
            until = changing if held.tenant_unknown else min(soon, changing or soon)
            return held, (0, held.catalogue.version, held.tenant_unknown, emergency), until
        features = held.catalogue.features.values()
        resolutions = [resolve(held.snapshot, one, now) for one in features]
        refused = tuple(refuses_stale(one, held.stale_for) for one in features)
        ends = [changing, *(one.valid_until for one in resolutions)]
        ends += [held.as_of + timedelta(seconds=one.outage.serve_stale_for) for one in features if held.as_of]
        until = min((end for end in ends if end is not None and end > now), default=None)
        content = (*map(_lasting, resolutions), refused, emergency)
        return held, (held.snapshot.version, held.catalogue.version, False, content), until


def _lasting(resolution: Resolution) -> Resolution:
    return msgspec.structs.replace(resolution, valid_until=None)
