"""Heartbeats while changes never end: they go on, and say no more than what is published."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import pytest

from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.snapshots import publisher as publishing
from entitlement_sidecar.wire.envelopes import open_heartbeat
from entitlement_sidecar.wire.redis_keys import feed_key, snapshot_key
from support.transports import Store, ThroughRedis


class Load:
    """Commits a change after every batch, and holds each heartbeat against what Redis has then."""

    def __init__(self, transport: ThroughRedis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.transport = transport
        self.committed: list[tuple[str, int, datetime]] = []
        self.beats: list[int] = []
        """How many changes were published at each heartbeat."""
        self._rounds = 0
        self._beat = transport.writer.beat
        monkeypatch.setattr(publishing, "BATCH", 1)
        monkeypatch.setattr(transport.writer, "beat", self._checked)
        monkeypatch.setattr(
            transport.publisher, "_publish_some", self._then_more(transport.publisher._publish_some)
        )

    def commit(self, tenant: str) -> None:
        """A change, and an instant at which it is committed."""
        version = self.transport.store.change(tenant)
        self.committed.append((tenant, version, self.transport.store.now()))

    def _then_more(self, publish: Callable[[], bool]) -> Callable[[], bool]:
        def published() -> bool:
            more = publish()
            self._rounds += 1
            if self._rounds > 20:
                return False
            self.commit(f"later-{self._rounds}")
            return more

        return published

    def _checked(self, shard: int, envelope: bytes) -> None:
        beat = open_heartbeat(self.transport.store.ring, envelope)
        redis: Any = self.transport.redis
        told = {
            (fields[b"tenant"].decode(), int(fields[b"version"])): int(fields[b"sequence"])
            for _, fields in redis.xrange(feed_key(shard))
        }
        for tenant, version, at in self.committed:
            if at <= beat.true_at:
                assert int(redis.hget(snapshot_key(tenant), "version") or 0) >= version
                assert told[tenant, version] <= beat.sequence
        self.beats.append(self._rounds)
        self._beat(shard, envelope)


async def test_heartbeats_go_on_while_changes_never_end(
    database: Database, redis_db: str, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited at an instant is all that the heartbeat about it waits for, and it does wait for that."""
    transport = ThroughRedis(Store(database), redis_db, stack)
    transport.publish()
    load = Load(transport, monkeypatch)
    for tenant in ("one", "two", "three"):
        load.commit(tenant)

    transport.publish()

    # After the three that waited, and long before the changes end.
    assert load.beats == [3]


@pytest.mark.parametrize("beats_before", [0, 1])
async def test_a_change_that_another_replica_holds_is_waited_for(
    postgres_database: Database,
    redis_db: str,
    stack: AsyncExitStack,
    monkeypatch: pytest.MonkeyPatch,
    beats_before: int,
) -> None:
    """Its number is lower than that of what is published, and its rows are locked: nothing is said."""
    store = Store(postgres_database)
    transport = ThroughRedis(store, redis_db, stack)
    for _ in range(1 + beats_before):
        transport.publish()
    load = Load(transport, monkeypatch)
    load.commit("held")
    with postgres_database.writing() as session:
        session.execute(publishing.select(publishing.SnapshotOutboxRow.id).with_for_update()).all()
        transport.publish()
        assert load.beats == []

    transport.publish()

    assert load.beats
