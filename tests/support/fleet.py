"""Many sidecars in one process: the real feed, store, loader and follower of each, on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import grpc.aio
import httpx
import pytest
import redis

from entitlement_sidecar.domain.clock import SystemClock
from entitlement_sidecar.sidecar.adapters import grpc_snapshots, redis_client, redis_feed, redis_snapshots
from entitlement_sidecar.sidecar.adapters.grpc_snapshots import PlanStoreFeed, PlanStoreSnapshots
from entitlement_sidecar.sidecar.adapters.redis_feed import RedisFeed
from entitlement_sidecar.sidecar.adapters.redis_snapshots import RedisSnapshots
from entitlement_sidecar.sidecar.process import cancelled
from entitlement_sidecar.sidecar.snapshots.follower import Follower
from entitlement_sidecar.sidecar.snapshots.freshness import STALE_AFTER, Freshness
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import Feed, SnapshotSource
from entitlement_sidecar.sidecar.snapshots.store import SnapshotStore
from entitlement_sidecar.wire.redis_target import redis_target
from entitlement_sidecar.wire.signing import KeyRing
from support.processes import Planstore

LONG = 120.0
"""Seconds: a loop for all is slower than one for each would be, which must not count as an outage."""


AT_ONCE = 2
"""Reads of Redis at once: connections cost a loop more than reads do."""


class Member:
    """What of a sidecar holds snapshots."""

    def __init__(self, plan_store: Planstore, redis_url: str, stack: AsyncExitStack) -> None:
        clock = SystemClock()
        # A connection of its own, as a process has.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{plan_store.grpc_port}", options=options)
        stack.push_async_callback(channel.close)
        ring = KeyRing()
        knows = PlanStoreSnapshots(channel, ring, plan_store.token)
        self.store, self.freshness = SnapshotStore(), Freshness(clock)
        sources: list[SnapshotSource] = [knows]
        feed: Feed = PlanStoreFeed(channel, ring, plan_store.token)
        if redis_url:
            target = redis_target(redis_url)
            client = redis_client.connect(target, LONG)
            through_redis = RedisFeed(target, ring, knows.learn_keys)
            stack.push_async_callback(client.aclose)
            stack.push_async_callback(through_redis.aclose)
            sources = [RedisSnapshots(client, ring, patience=LONG), knows]
            feed = through_redis
        self.loader = Loader(self.store, sources, clock, knows if redis_url else None)
        self.follower = Follower(feed, self.store, self.loader, self.freshness, knows)
        self._clock = clock

    async def ask(self, tenants: Sequence[str]) -> None:
        """As after a start: the catalogue, and every tenant at once; as often as callers have to."""
        await self.loader.load_catalogue()
        while missing := [tenant for tenant in tenants if self.store.get(tenant) is None]:
            await asyncio.gather(*(self.loader.load(tenant) for tenant in missing))
            await asyncio.sleep(0.2)

    def holds(self, tenants: Sequence[str]) -> bool:
        """Whether all of them can be answered for."""
        return all(self.store.get(tenant) is not None for tenant in tenants)

    def followed(self, tenants: Sequence[str]) -> bool:
        """Whether all are held, and the feed covers them."""
        held = [self.store.get(tenant) for tenant in tenants]
        return self.store.catalogue_current and all(one is not None and one.followed for one in held)

    def stale(self, tenant: str) -> bool:
        """Whether a tenant's last confirmation is old, or never was."""
        held = self.store.get(tenant)
        if held is None or held.confirmed_at is None:
            return held is not None
        return self.freshness.age_of(held.confirmed_at, held.received) > STALE_AFTER

    @property
    def fresh(self) -> bool:
        """Whether the feed has confirmed what it covers a moment ago."""
        return self.freshness.is_fresh(self._clock.now())


class Fleet:
    """Members that run until the end."""

    def __init__(self, plan_store: Planstore, redis_url: str, size: int, stack: AsyncExitStack) -> None:
        self.members = [Member(plan_store, redis_url, stack) for _ in range(size)]
        self.running: list[asyncio.Task[None]] = []
        stack.push_async_callback(self._end)

    def start(self) -> None:
        """All of them begin to follow at once."""
        self.running = [asyncio.create_task(member.follower.run()) for member in self.members]

    async def _end(self) -> None:
        await cancelled(self.running)


async def each(members: Sequence[Member], condition: Callable[[Member], bool], what: str) -> None:
    """Waits until each has met a condition, not all of them at the same instant; but not for ever."""
    left = list(members)
    try:
        async with asyncio.timeout(LONG):
            while left := [member for member in left if not condition(member)]:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{len(left)} of {len(members)} sidecars wait in vain for {what}") from None


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts that the fleet's own loop does not reach."""
    monkeypatch.setattr(redis_client, "TIMEOUT", LONG)
    monkeypatch.setattr(redis_snapshots, "AT_ONCE", AT_ONCE)
    for name in ("SOCKET_TIMEOUT", "SILENCE"):
        monkeypatch.setattr(redis_feed, name, LONG)
    for name in ("TIMEOUT", "CONFIRM_TIMEOUT", "SILENCE"):
        monkeypatch.setattr(grpc_snapshots, name, LONG)


class Calls:
    """What a plan store and a Redis were asked since this was made."""

    def __init__(self, plan_store: Planstore, redis_url: str = "") -> None:
        self._plan_store = plan_store
        self._redis_url = redis_url
        self._rpcs, self._commands = self._rpcs_now(), self._commands_now()

    def rpcs(self, method: str, code: str = "") -> int:
        """Calls of a method of SnapshotService that were answered, with a code or with any."""
        return _count(self._rpcs_now(), method, code) - _count(self._rpcs, method, code)

    def commands(self, name: str) -> int:
        """Commands that Redis has run."""
        return self._commands_now().get(name, 0) - self._commands.get(name, 0)

    def _rpcs_now(self) -> list[str]:
        url = f"http://127.0.0.1:{self._plan_store.http_port}/metrics"
        lines = httpx.get(url, timeout=LONG, trust_env=False).text.splitlines()
        return [line for line in lines if line.startswith("entitlement_rpc_requests_total")]

    def _commands_now(self) -> dict[str, int]:
        if not self._redis_url:
            return {}
        with redis.Redis.from_url(self._redis_url) as client:
            told: Any = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(stats["calls"]) for name, stats in told.items()}


def _count(lines: Sequence[str], method: str, code: str) -> int:
    wanted = (f'method="SnapshotService/{method}"', f'code="{code}' if code else "")
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if all(one in line for one in wanted))


@contextmanager
def watched(members: Sequence[Member], tenants: Sequence[str]) -> Iterator[list[str]]:
    """Looks again and again whether every member holds every tenant; who did not."""
    lost: list[str] = []

    async def look() -> None:
        while True:
            lost.extend(tenant for m in members for tenant in tenants if m.store.get(tenant) is None)
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield lost
    finally:
        looking.cancel()
