"""One limit, eight sidecars with eight callers each, and callers over REST: all of it is used, and not more.

What callers were told is what counts. Sidecars and the plan store are killed meanwhile, the ways to Redis and
to the plan store fail, and Redis is emptied. `HAMMER_SEED=7 pytest tests/e2e/test_lease_hammer.py` repeats
the choices of a run; `make soak` goes on for longer.

With one greedy sidecar and seven modest ones, what is left when a caller is refused is what other sidecars
hold: each at most what it uses in a few seconds, and what it was granted at once (docs/leases.md).
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import redis

from entitlement_sidecar.sidecar.leases.sizing import AHEAD
from entitlement_sidecar.testing.fault_proxy import FaultProxy
from support.hammer import FEATURE, Hammer, Takers, places
from support.leased_site import PATIENCE, LeasedSite, leased_site
from support.outbox_books import instance
from support.postgres import fresh_database
from support.processes import Sidecar
from support.redis_server import RedisServer
from support.waiting import until

ROUNDS = 20 if os.environ.get("SOAK") else 1
"""How often each kind of fault comes."""

SEED = int(os.environ.get("HAMMER_SEED") or random.SystemRandom().randrange(10**6))
LIMIT = 10_000
HAMMERED = LIMIT * ROUNDS
SHARED = 4_000
SIDECARS, CALLERS = 8, 8

GREEDY, MODEST = 0.02, 0.1
"""Seconds that a caller of the greedy sidecar, and of a modest one, rests after each token."""

HELD_BY_GREEDY = round(AHEAD * CALLERS / GREEDY) + CALLERS
HELD_BY_MODEST = round(AHEAD / MODEST) + 1
"""Tokens that a sidecar holds at most, whatever the machine: its callers never use more in five seconds."""

CALLS = (40, 120)
"""How many there are from one fault to the next."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis of this file."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def to_redis(server: RedisServer) -> Iterator[FaultProxy]:
    """What is between it and the sidecars."""
    with FaultProxy(server.port).start() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def _running(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: str,
    server: RedisServer,
    to_redis: FaultProxy,
) -> Iterator[LeasedSite]:
    """Eight sidecars, started once for the tests of this file."""
    folder = tmp_path_factory.mktemp("site")
    with (
        fresh_database(postgres_server) as database,
        leased_site(folder, database, server.url, {LIMIT, HAMMERED, SHARED}) as site,
    ):
        site.start(SIDECARS, f"redis://127.0.0.1:{to_redis.port}/0")
        yield site


@pytest.fixture
def site(_running: LeasedSite) -> LeasedSite:
    """All of it runs when a test begins."""
    _running.run_all()
    return _running


@pytest.mark.timeout(300)
def test_all_of_it_is_admitted_and_not_more(site: LeasedSite) -> None:
    """Given no faults, then callers are allowed the limit to the token, and the ledger has just that."""
    tenant = site.tenant(LIMIT)
    with places(tenant, site.sidecars, [site.store]) as where:
        hammer = Hammer(where, CALLERS, SEED, again=True)
        with hammer.running(most=20):
            pass
        # What one sidecar has, another one's callers do not get until it is given back.
        until(lambda: hammer.sweep() == LIMIT, "all of it to be admitted", 2 * PATIENCE)
        assert hammer.sweep() == LIMIT
    assert not hammer.unanswered
    site.shipped()
    assert Counter(site.ledger(tenant)) == Counter(hammer.allowed.items())
    until(lambda: site.counter(tenant) == (LIMIT, 0, 0), "the root to be told all of it", PATIENCE)


class Faults:
    """What goes wrong while callers call, one after the other."""

    def __init__(self, site: LeasedSite, hammer: Hammer, to_redis: FaultProxy, server: RedisServer) -> None:
        self._site, self._hammer, self._server = site, hammer, server
        self._to_redis = to_redis
        self._dice = random.Random(SEED)  # noqa: S311 - a test's dice

    def all(self) -> None:
        """Each kind, in an order of its own; what was broken is whole again after."""
        kinds: list[Callable[[], None]] = [
            *[self._kill_a_sidecar] * 3,
            self._kill_the_plan_store,
            self._flush,
            *(self._break(self._to_redis, fault) for fault in _WAYS),
            *(self._break(self._site.to_store, fault) for fault in _WAYS),
        ]
        for _ in range(ROUNDS):
            self._dice.shuffle(kinds)
            for kind in kinds:
                self._calls()
                kind()

    def _calls(self) -> None:
        """Lets so many calls be made; what comes then comes at any instant of one of them."""
        self._hammer.calls(self._dice.randint(*CALLS))
        time.sleep(self._dice.random() * 0.1)

    def _kill_a_sidecar(self) -> None:
        victim = self._dice.choice(self._site.sidecars)
        victim.kill()
        self._calls()
        victim.start()

    def _kill_the_plan_store(self) -> None:
        self._site.store.kill()
        self._calls()
        self._site.store.start(migrated=True)

    def _flush(self) -> None:
        with redis.Redis(port=self._server.port) as client:
            client.flushall()

    def _break(self, proxy: FaultProxy, fault: Callable[[FaultProxy], None]) -> Callable[[], None]:
        def broken() -> None:
            fault(proxy)
            self._calls()
            proxy.heal()

        return broken


_WAYS: list[Callable[[FaultProxy], None]] = [
    FaultProxy.reset,
    FaultProxy.refuse,
    FaultProxy.black_hole,
    lambda proxy: proxy.latency(0.3),
]


@pytest.mark.timeout(300 * ROUNDS)
def test_never_more_than_the_limit(site: LeasedSite, to_redis: FaultProxy, server: RedisServer) -> None:
    """Given faults of every kind, then callers are never allowed more, and the ledger has what they were."""
    print(f"HAMMER_SEED={SEED}")  # noqa: T201 - who repeats a failure needs it
    tenant = site.tenant(HAMMERED)
    with places(tenant, site.sidecars, [site.store]) as where:
        hammer = Hammer(where, CALLERS, SEED)
        with hammer.running(most=10):
            Faults(site, hammer, to_redis, server).all()
        hammer.sweep()
    site.shipped()
    allowed, unanswered = hammer.allowed, hammer.unanswered
    ledger = site.ledger(tenant)
    assert hammer.admitted <= HAMMERED
    assert sum(quantity for _, quantity in ledger) <= HAMMERED
    assert len({id_ for id_, _ in ledger}) == len(ledger), "counted twice"
    assert not allowed.items() - set(ledger), "allowed, and not in the ledger"
    assert not set(ledger) - allowed.items() - unanswered.items(), "in the ledger, and never asked for"


@pytest.mark.timeout(300)
def test_nobody_starves(site: LeasedSite) -> None:
    """Given one sidecar that takes all it can, then nobody is refused before others hold all that is left."""
    tenant, takers = site.tenant(SHARED), Takers(SHARED)
    with places(tenant, site.sidecars) as (greedy, *modest):
        takers.take([*[(greedy, GREEDY)] * CALLERS, *[(one, MODEST) for one in modest]])
    print(f"left at each refusal: {takers.left} of {SHARED}")  # noqa: T201 - the measure that the page tells
    assert min(takers.had) > 0
    assert max(takers.left) <= (SIDECARS - 1) * HELD_BY_MODEST + HELD_BY_GREEDY
    assert min(takers.left) >= 0


@pytest.mark.timeout(300)
def test_a_stop_gives_everything_back(site: LeasedSite, server: RedisServer) -> None:
    """Given callers who go on calling, when a sidecar has ended by SIGTERM, then nothing is held for it."""
    tenant, stopped = site.tenant(LIMIT), site.sidecars[0]
    with places(tenant, site.sidecars[:2]) as where:
        hammer = Hammer(where, CALLERS, SEED)
        with hammer.running(most=3, to_the_end=False), ThreadPoolExecutor(1) as aside:
            hammer.calls(300)
            until(lambda: outstanding(site, tenant, stopped, server), "a lease to be out", PATIENCE)
            stopping = aside.submit(stopped.stop)
            while not stopping.done():
                hammer.calls(20)
            stopping.result()
            assert outstanding(site, tenant, stopped, server) == 0


def outstanding(site: LeasedSite, tenant: str, beside: Sidecar, server: RedisServer) -> int:
    """Tokens that the root or the block says a sidecar may be using."""
    name = instance(beside.state)
    at_root = sum(one["outstanding"] for one in site.leases(tenant) if one["holder"].startswith(name))
    with closing(redis.Redis(port=server.port, decode_responses=True)) as client:
        keys: Any = client.keys(f"ent:{{{tenant}}}:block:*:{FEATURE}")
        blocks: list[Any] = [client.hgetall(key) for key in keys]
    accounts = [
        [int(number) for number in account.split()]
        for block in blocks
        for field, account in block.items()
        if field.startswith(f"a:{name}")
    ]
    return int(at_root) + sum(granted - used - returned for granted, used, returned, *_ in accounts)
