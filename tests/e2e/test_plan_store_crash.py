"""Plan stores killed at any instant: what was committed is in Redis in the end, and nothing else.

Two of them share a database, both publish, and either is killed while changes are under way. More kills:
`KILLS=100 pytest tests/e2e/test_plan_store_crash.py`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from sqlalchemy import select

from entitlement_sidecar.planstore.db import (
    Database,
    OrganizationRow,
    SubscriptionRow,
    TenantSnapshotRow,
    create_engine_for,
)
from entitlement_sidecar.planstore.snapshots import Stamp
from entitlement_sidecar.planstore.snapshots.verification import Verification
from entitlement_sidecar.planstore.snapshots.writer import compiled
from entitlement_sidecar.wire.envelopes import open_snapshot
from entitlement_sidecar.wire.redis_keys import feed_key, snapshot_key
from entitlement_sidecar.wire.signing import KeyRing
from support.processes import Planstore
from support.waiting import until

KILLS = int(os.environ.get("KILLS", "12"))
CHANGES = max(500, 40 * KILLS)
CLIENTS = 4
TENANTS_EACH = 3
SEED = int(os.environ.get("KILL_SEED", "20260"))

PATH = "/api/billing/organizations/{}/subscription"


class Client:
    """Changes tenants that nobody else changes, so that it knows what each of them should be at."""

    def __init__(self, number: int, stores: list[Planstore], budget: Budget) -> None:
        self._random = random.Random(SEED * 100 + number)  # noqa: S311 - a test's dice
        self._stores = stores
        self._budget = budget
        self.versions = {f"tenant-{number}-{n}": 0 for n in range(TENANTS_EACH)}
        self.unanswered = 0

    def run(self) -> None:
        """Changes until there is nothing left to do."""
        while self._budget.take():
            self._change(self._random.choice(sorted(self.versions)))

    def _change(self, tenant: str) -> None:
        path, body = self._wanted(tenant)
        try:
            answer = self._random.choice(self._stores).rest("POST", path, json=body)
        except httpx.TransportError:
            self.unanswered += 1
            self._settle(tenant)
            return
        if answer.is_success:
            told = answer.json()["snapshot_version"]
            assert told in {self.versions[tenant], self.versions[tenant] + 1}, answer.text
            self.versions[tenant] = told
        else:
            # Not possible as things are: nobody to suspend, a plan of one who is suspended.
            assert answer.status_code in {404, 409}, answer.text

    def _wanted(self, tenant: str) -> tuple[str, dict[str, Any]]:
        path = PATH.format(tenant)
        what = self._random.choice(["plan", "plan", "suspend", "resume", "resume", "cancel"])
        if what == "plan":
            return path, {"plan": self._random.choice(["small", "large", "team"])}
        if what == "cancel":
            return f"{path}/cancel", {"at_period_end": self._random.random() < 0.5}
        return f"{path}/{what}", {}

    def _settle(self, tenant: str) -> None:
        """Nobody answered: it was done as a whole, or not at all."""

        def found() -> dict[str, Any] | None:
            store, path = self._random.choice(self._stores), PATH.format(tenant)
            try:
                # Refused, and only once it holds the tenant: after a commit that the database still works on.
                barrier = store.rest("POST", path, json={"plan": "small", "expected_version": 10**6})
                answer = store.rest("GET", path)
            except httpx.TransportError:
                return None
            assert barrier.status_code in {409, 503}, barrier.text
            if answer.status_code == 404:
                return {"snapshot_version": 0}
            return answer.json() if answer.is_success else None

        now: dict[str, Any] = until(found, "a plan store to answer", timeout=60) or {}
        assert now["snapshot_version"] in {self.versions[tenant], self.versions[tenant] + 1}
        self.versions[tenant] = now["snapshot_version"]


class Budget:
    """How many changes are left, for all clients together."""

    def __init__(self, changes: int) -> None:
        self._left = changes
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Changes that nobody has begun."""
        return self._left

    def take(self) -> bool:
        """Takes one; whether there was one."""
        with self._lock:
            self._left -= 1
            return self._left >= 0


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind, by its URL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shared.db"
    url: str = request.getfixturevalue("postgres_dsn")
    return url


@pytest.mark.timeout(180 + 15 * KILLS)
def test_what_was_committed_is_in_redis_and_nothing_else(
    database_url: str,
    redis_db: str,
    planstore: Callable[..., Planstore],
    ending: ExitStack,
) -> None:
    """Five hundred changes by four clients, a dozen kills of two plan stores that both publish."""
    first = planstore(database=database_url, redis=redis_db)
    second = Planstore(first.state, database=database_url, redis=redis_db)
    ending.callback(second.kill)
    stores = [first, second.start(migrated=True)]
    budget = Budget(CHANGES)
    clients = [Client(number, stores, budget) for number in range(CLIENTS)]

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client.run) for client in clients]
        dice = random.Random(SEED)  # noqa: S311 - a test's dice
        _kill_again_and_again(stores, budget, dice, lambda: all(each.done() for each in running))
        for each in running:
            each.result()

    database = Database(create_engine_for(database_url))
    ending.callback(database.close)
    client = ending.enter_context(redis.Redis.from_url(redis_db))
    ring = KeyRing.load(first.state / "trusted.keys")
    expected = {tenant: version for one in clients for tenant, version in one.versions.items() if version}
    _assert_published(Verification(database, ring, client), sorted(expected))
    _assert_whole(database, ring, client, expected)
    _assert_nothing_else(client, expected)


def _kill_again_and_again(
    stores: list[Planstore], budget: Budget, rng: random.Random, over: Callable[[], bool]
) -> None:
    """Kills spread over the changes, each at an instant that has nothing to do with where a change is."""
    for kill in range(1, KILLS + 1):
        at = CHANGES - kill * CHANGES // (KILLS + 1) + rng.randint(-5, 5)
        until(lambda at=at: budget.left <= at or over(), "changes to be made", timeout=90)
        time.sleep(rng.random() * 0.02)
        one = rng.choice(stores)
        one.kill()
        if rng.random() < 0.3:
            # Neither is there for a while.
            other = stores[1 - stores.index(one)]
            other.kill()
            other.start(migrated=True)
        one.start(migrated=True)


def _assert_published(verification: Verification, tenants: list[str]) -> None:
    until(lambda: not verification.these(tenants).waiting, "all changes to be published")
    assert verification.catalogue() == ()
    found = verification.tenants("", 1000)
    assert (sorted(found.checked), found.faults) == (tenants, ())


def _assert_whole(database: Database, ring: KeyRing, client: redis.Redis, expected: dict[str, int]) -> None:
    """Organization, subscription and snapshot say the same, and so does Redis."""
    with database.reading() as session:
        organizations = {
            row.tenant_id: row.snapshot_version for row in session.scalars(select(OrganizationRow))
        }
        assert organizations == expected
        subscribed = set(session.scalars(select(SubscriptionRow.tenant_id)))
        assert subscribed == set(expected)
        for row in session.scalars(select(TenantSnapshotRow)):
            stored = open_snapshot(ring, row.envelope, row.tenant_id)
            stamp = Stamp(row.tenant_id, row.version, row.compiled_at, stored.catalogue_version)
            assert stored == compiled(session, stamp)
            held: Any = client.hget(snapshot_key(row.tenant_id), "envelope")
            assert open_snapshot(ring, held, row.tenant_id) == stored


def _assert_nothing_else(client: redis.Redis, expected: dict[str, int]) -> None:
    """No tenant and no version was ever told that the database does not know."""
    keys: Any = client.keys("ent:{tenant*")
    assert {key.decode() for key in keys} == {snapshot_key(tenant) for tenant in expected}
    for shard in range(4):
        entries: Any = client.xrange(feed_key(shard))
        for _, fields in entries:
            if fields[b"kind"] == b"snapshot":
                assert int(fields[b"version"]) <= expected[fields[b"tenant"].decode()]
