"""A plan store's tables, and both ways from there to a sidecar: through Redis, and by WatchSnapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Protocol

import grpc
import grpc.aio
from sqlalchemy import update

from entitlement_sidecar.domain.clock import SystemClock
from entitlement_sidecar.planstore.access import Gate, register_first
from entitlement_sidecar.planstore.api.rpc_auth import TokenInterceptor
from entitlement_sidecar.planstore.api.rpc_snapshots import SnapshotServicer
from entitlement_sidecar.planstore.catalogue import apply_catalogue
from entitlement_sidecar.planstore.db import (
    Database,
    SnapshotOutboxRow,
    TenantSnapshotRow,
)
from entitlement_sidecar.planstore.snapshots import SignedSnapshots, redis_client
from entitlement_sidecar.planstore.snapshots import feed as database_feed
from entitlement_sidecar.planstore.snapshots.feed import Beats, FeedSignal, Sequencer
from entitlement_sidecar.planstore.snapshots.publisher import RedisPublisher
from entitlement_sidecar.planstore.snapshots.redis_feed import RedisFeedWriter
from entitlement_sidecar.planstore.subscriptions import SubscriptionRequest, Subscriptions
from entitlement_sidecar.sidecar.adapters.grpc_snapshots import PlanStoreFeed, PlanStoreSnapshots
from entitlement_sidecar.sidecar.adapters.redis_client import connect
from entitlement_sidecar.sidecar.adapters.redis_feed import RedisFeed
from entitlement_sidecar.sidecar.adapters.redis_snapshots import RedisSnapshots
from entitlement_sidecar.sidecar.snapshots.ports import Began, Feed, FeedEvent, SnapshotSource
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.wire.catalogue_file import parse_catalogue
from entitlement_sidecar.wire.envelopes import open_snapshot
from entitlement_sidecar.wire.redis_keys import snapshot_key
from entitlement_sidecar.wire.redis_target import RedisTarget, redis_target
from entitlement_sidecar.wire.signing import KeyRing, SigningKey
from entitlement_sidecar.wire.v1 import snapshot_pb2_grpc

TOKEN = "of-this-test"
PATIENCE = 15.0
"""Seconds after which a test gives up waiting for an event."""

CATALOGUE = """
catalogue: shop
features:
  calls: {kind: metered, metric: calls}
metrics:
  calls: {domain: api, unit: call, aggregation: sum, window: month, classification: billable, feature: calls}
plans:
  basic:
    title: Basic
    price: {amount: "29.90", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 5, window: day}]}
add_ons:
  more:
    title: More calls
    entitlements:
      calls: {limits: [{amount: 3, window: day}]}
"""


class Store:
    """What a plan store holds, without its servers."""

    def __init__(self, database: Database, shards: int = 1) -> None:
        self.database = database
        self.shards = shards
        self.clock = SystemClock()
        self.key = SigningKey.generate()
        self.ring = KeyRing({self.key.key_id: self.key.public_bytes}, pinned=True)
        self.sign_with(self.key)
        self._bought = 0
        with database.writing() as session:
            register_first(session, TOKEN, self.clock.now())
        self.apply()

    def sign_with(self, key: SigningKey) -> None:
        """Signs from now on with another key."""
        self.key = key
        self.subscriptions = Subscriptions(SignedSnapshots(key, self.clock), self.clock)

    def apply(self, content: str = CATALOGUE) -> None:
        """Puts a catalogue into force."""
        with self.database.writing() as session:
            catalogue = parse_catalogue(content, "test")
            apply_catalogue(session, catalogue, self.key, self.clock.now(), self.shards)

    def change(self, tenant: str = "acme") -> int:
        """Commits a change of a tenant, never the same twice; its new version."""
        self._bought += 1
        with self.database.writing() as session:
            wanted = SubscriptionRequest(plan="basic", add_ons={"more": self._bought})
            self.subscriptions.upsert(session, tenant, wanted)
            return session.get_one(TenantSnapshotRow, tenant).version

    def now(self) -> datetime:
        """The database's clock."""
        return database_feed.read_clock(self.database)

    def envelope(self, tenant: str = "acme") -> bytes:
        """The tenant's newest signed snapshot."""
        with self.database.reading() as session:
            return session.get_one(TenantSnapshotRow, tenant).envelope

    def version(self, tenant: str = "acme") -> int:
        """The tenant's newest version, as signed."""
        return open_snapshot(self.ring, self.envelope(tenant), tenant).version

    def replace(self, envelope: bytes, tenant: str = "acme") -> None:
        """Puts other bytes in the place of a tenant's snapshot."""
        with self.database.writing() as session:
            session.get_one(TenantSnapshotRow, tenant).envelope = envelope

    def unmark(self) -> None:
        """Forgets that anything was published, as a crash before the mark would."""
        with self.database.writing() as session:
            session.execute(update(SnapshotOutboxRow).values(published_at=None))


class Transport(Protocol):
    """One way from the tables to a sidecar."""

    store: Store

    def publish(self) -> None:
        """Publishes all that waits, and beats."""

    def feed(self, ring: KeyRing | None = None) -> Feed:
        """A sidecar's feed."""

    def source(self, ring: KeyRing | None = None) -> SnapshotSource:
        """A sidecar's source of one snapshot at a time."""

    def cut(self) -> None:
        """Ends every connection; new ones work."""

    def replace(self, envelope: bytes, tenant: str = "acme") -> None:
        """Puts other bytes where sidecars read a tenant's snapshot."""


class ThroughRedis:
    """The publisher, run step by step, and what reads Redis."""

    def __init__(self, store: Store, redis: str | RedisTarget, stack: AsyncExitStack) -> None:
        self.store = store
        self.target = redis_target(redis) if isinstance(redis, str) else redis
        self.redis: Any = redis_client.connect(self.target)
        self.writer = RedisFeedWriter(self.redis)
        self.clock = FakeClock()
        self.publisher = RedisPublisher(store.database, self.writer, store.key, store.shards, self.clock)
        self._stack = stack
        stack.callback(self.redis.close)

    def publish(self) -> None:
        self.clock.advance(1.0)
        self.publisher.step()

    def feed(self, ring: KeyRing | None = None) -> RedisFeed:
        feed = RedisFeed(self.target, self.store.ring if ring is None else ring)
        self._stack.push_async_callback(feed.aclose)
        return feed

    def source(self, ring: KeyRing | None = None) -> RedisSnapshots:
        client = connect(self.target, PATIENCE)
        self._stack.push_async_callback(client.aclose)
        return RedisSnapshots(client, self.store.ring if ring is None else ring, patience=PATIENCE)

    def cut(self) -> None:
        if isinstance(self.redis, redis_client.Cluster):
            for node in self.redis.get_primaries():
                self.redis.client_kill_filter(_type="normal", skipme=True, target_nodes=node)
        else:
            self.redis.client_kill_filter(_type="normal", skipme=True)

    def replace(self, envelope: bytes, tenant: str = "acme") -> None:
        self.redis.hset(snapshot_key(tenant), "envelope", envelope)


class ByWatching:
    """A plan store's SnapshotService on a port, and what calls it."""

    def __init__(self, store: Store, port: int, stack: AsyncExitStack) -> None:
        self.store = store
        self.address = f"127.0.0.1:{port}"
        self.beats = Beats(store.database, store.key, store.clock)
        self._stack = stack
        self._start()
        stack.callback(self._stop)

    def _start(self) -> None:
        self.signal = FeedSignal()
        self._threads = ThreadPoolExecutor(8)
        self._server = grpc.server(
            self._threads,
            interceptors=[TokenInterceptor(Gate(self.store.database, self.store.clock))],
            options=[("grpc.so_reuseport", 0)],
        )
        servicer = SnapshotServicer(self.store.database, self._announced(), self.beats, self.signal)
        snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(servicer, self._server)
        self._server.add_insecure_port(self.address)
        self._server.start()

    def _stop(self) -> None:
        self.signal.close()
        self._server.stop(0).wait()
        self._threads.shutdown()

    def _announced(self) -> KeyRing:
        return KeyRing({self.store.key.key_id: self.store.key.public_bytes})

    def renew(self) -> None:
        """The next server signs with the store's present key."""
        self.beats = Beats(self.store.database, self.store.key, self.store.clock)

    def publish(self) -> None:
        self.signal.announce(Sequencer(self.store.database).drain().sequence)

    def channel(self) -> grpc.aio.Channel:
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 50)]
        channel = grpc.aio.insecure_channel(self.address, options=options)
        self._stack.push_async_callback(channel.close)
        return channel

    def feed(self, ring: KeyRing | None = None, token: str = TOKEN) -> PlanStoreFeed:
        return PlanStoreFeed(self.channel(), self.store.ring if ring is None else ring, token)

    def source(self, ring: KeyRing | None = None, token: str = TOKEN) -> PlanStoreSnapshots:
        return PlanStoreSnapshots(self.channel(), self.store.ring if ring is None else ring, token)

    def cut(self) -> None:
        self._stop()
        self._start()

    def replace(self, envelope: bytes, tenant: str = "acme") -> None:
        self.store.replace(envelope, tenant)


class Reader:
    """Iterates a feed as the follower does, and remembers what it heard."""

    def __init__(self, feed: Feed) -> None:
        self.heard: list[FeedEvent] = []
        self._feed = feed
        self._events: Any = feed.events()

    async def next(self) -> FeedEvent:
        """The next event."""
        async with asyncio.timeout(PATIENCE):
            event: FeedEvent = await anext(self._events)
        self.heard.append(event)
        return event

    async def until(self, found: Callable[[Any], bool]) -> Any:
        """The next event that fits, after hearing all before it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                event = await self.next()
                if found(event):
                    return event

    async def began(self) -> Began:
        """The next beginning."""
        event = await self.until(lambda e: isinstance(e, Began))
        assert isinstance(event, Began)
        return event

    async def again(self) -> None:
        """Iterates anew, from the feed's own cursor."""
        await self._events.aclose()
        self._events = self._feed.events()


def refused(cause: str) -> float:
    """How many envelopes were refused for a cause."""
    return metrics.REGISTRY.get_sample_value("entitlement_snapshots_refused_total", {"cause": cause}) or 0.0
