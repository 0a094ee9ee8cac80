"""Redis loses what it had while leases are out: no token is granted twice, and another block follows.

A primary, its replica and three sentinels; sidecars whose callers do not stop.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from entitlement_sidecar.wire.redis_keys import BlockPlace
from support.hammer import FEATURE, Hammer, places
from support.leased_site import PATIENCE, LeasedSite, leased_site
from support.redis_server import RedisServer
from support.redis_servers import PRIMARY, SentinelServers
from support.waiting import until

SEED = random.SystemRandom().randrange(10**6)
LIMIT = 4_000
SIDECARS, CALLERS = 3, 4
CALLS = 60
"""Between two events."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[SentinelServers]:
    """A Redis that fails over."""
    with SentinelServers.running(tmp_path / "redis") as servers:
        yield servers


@pytest.fixture
def site(tmp_path: Path, postgres_dsn: str, servers: SentinelServers) -> Iterator[LeasedSite]:
    """Sidecars of that Redis."""
    with leased_site(tmp_path, postgres_dsn, servers.url, [LIMIT]) as site:
        site.start(SIDECARS, servers.url)
        yield site


class Blocks:
    """The block in Redis: which one it is, and that others follow those that were lost."""

    def __init__(self, site: LeasedSite, tenant: str) -> None:
        self.seen: set[str] = set()
        self._site, self._tenant = site, tenant

    def next(self, server: RedisServer) -> None:
        """Waits until there is one that was not there before, and that the database has open."""
        self.seen.add(until(lambda: self._another(server), "another block", PATIENCE))

    def _another(self, server: RedisServer) -> str:
        with closing(redis.Redis(port=server.port, decode_responses=True)) as client:
            found: Any = client.hget(BlockPlace(self._tenant, FEATURE, None).key, "id")
        known = {
            one["id"]
            for one in self._site.leases(self._tenant)
            if one["kind"] == "block" and one["state"] == "open"
        }
        return found if found in known - self.seen else ""


@pytest.mark.timeout(300)
def test_lost_blocks(site: LeasedSite, servers: SentinelServers) -> None:
    """Given FLUSHALL, an old dump and a failover that missed grants, then no more than the limit is used."""
    print(f"seed {SEED}")  # noqa: T201 - who repeats a failure needs it
    tenant = site.tenant(LIMIT)
    blocks = Blocks(site, tenant)
    with places(tenant, site.sidecars) as where:
        hammer = Hammer(where, CALLERS, SEED)
        with hammer.running(most=4):
            hammer.calls(CALLS)
            blocks.next(servers.primary)
            flush(servers.primary)
            hammer.calls(CALLS)
            blocks.next(servers.primary)
            go_back(servers, hammer)
            blocks.next(servers.primary)
            fail_over(servers, hammer)
            blocks.next(servers.replica)
        hammer.sweep()
    assert hammer.admitted <= LIMIT
    site.shipped()
    ledger = site.ledger(tenant)
    assert sum(quantity for _, quantity in ledger) <= LIMIT
    assert not hammer.allowed.items() - set(ledger)


def flush(server: RedisServer) -> None:
    """Empties it."""
    with closing(redis.Redis(port=server.port)) as client:
        client.flushall()


def go_back(servers: SentinelServers, hammer: Hammer) -> None:
    """The primary comes back with what it had before the last grants; nobody takes over meanwhile."""
    set_patience(servers, 600_000)
    with closing(redis.Redis(port=servers.primary.port)) as client:
        client.save()
    hammer.calls(CALLS)
    servers.primary.stop()
    servers.primary.start()
    (servers.primary.folder / "dump.rdb").unlink()
    hammer.calls(CALLS)
    servers.wait_for_replica()


def fail_over(servers: SentinelServers, hammer: Hammer) -> None:
    """The replica takes over, and has not heard of the last grants."""
    set_patience(servers, 1000)
    with servers.replica_apart():
        hammer.calls(CALLS)
        servers.primary.stop()
    hammer.calls(CALLS)


def set_patience(servers: SentinelServers, milliseconds: int) -> None:
    """How long a primary may be silent before the sentinels look for another."""
    for port in servers.ports:
        with closing(redis.Redis(port=port)) as sentinel:
            sentinel.execute_command("SENTINEL", "SET", PRIMARY, "down-after-milliseconds", str(milliseconds))
