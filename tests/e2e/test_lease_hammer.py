"""One limit, eight sidecars with eight callers each, and callers over REST: all of it is used, and not more.

What callers were told is what counts. Sidecars and the plan store are killed meanwhile, the ways to Redis and
to the plan store fail, and Redis is emptied. `HAMMER_SEED=7 pytest tests/e2e/test_lease_hammer.py` repeats
the choices of a run; `make soak` goes on for longer.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from entitlement_sidecar.testing.fault_proxy import FaultProxy
from support.hammer import Hammer, places
from support.leased_site import LeasedSite, leased_site
from support.redis_server import RedisServer
from support.waiting import until

ROUNDS = 20 if os.environ.get("SOAK") else 1
"""How often each kind of fault comes."""

SEED = int(os.environ.get("HAMMER_SEED") or random.SystemRandom().randrange(10**6))
LIMIT = 10_000
SIDECARS, CALLERS = 8, 8
CALLS = (40, 120)
"""How many there are from one fault to the next."""


@pytest.fixture
def site(tmp_path: Path, postgres_dsn: str, redis_server: RedisServer) -> Iterator[LeasedSite]:
    """A limit of ten thousand."""
    with leased_site(tmp_path, postgres_dsn, redis_server.url, LIMIT * ROUNDS) as site:
        yield site


@pytest.mark.timeout(300)
def test_all_of_it_is_admitted_and_not_more(site: LeasedSite) -> None:
    """Given no faults, then callers are allowed the limit to the token, and the ledger has just that."""
    site.start(SIDECARS)
    with places(site.sidecars, [site.store]) as where:
        hammer = Hammer(where, CALLERS, SEED)
        with hammer.running(most=20):
            pass
        # What one sidecar has, another one's callers do not get until it is given back.
        until(lambda: hammer.sweep() == site.limit, "all of it to be admitted", 60)
        assert hammer.sweep() == site.limit
    assert not hammer.unanswered
    site.shipped()
    assert Counter(site.ledger()) == Counter(hammer.allowed.items())
    for one in site.sidecars:
        one.stop()
    until(lambda: site.counter().admitted == site.limit, "the root to be told all", 60)
    assert site.counter() == (site.limit, 0, 0)


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
def test_never_more_than_the_limit(site: LeasedSite, redis_server: RedisServer) -> None:
    """Given faults of every kind, then callers are never allowed more, and the ledger has what they were."""
    print(f"HAMMER_SEED={SEED}")  # noqa: T201 - who repeats a failure needs it
    to_redis = site.proxy(redis_server.port)
    site.start(SIDECARS, f"redis://127.0.0.1:{to_redis.port}/0")
    with places(site.sidecars, [site.store]) as where:
        hammer = Hammer(where, CALLERS, SEED)
        with hammer.running(most=10):
            Faults(site, hammer, to_redis, redis_server).all()
        hammer.sweep()
    site.shipped()
    allowed, unanswered = hammer.allowed, hammer.unanswered
    ledger = site.ledger()
    assert hammer.admitted <= site.limit
    assert sum(quantity for _, quantity in ledger) <= site.limit
    assert len({id_ for id_, _ in ledger}) == len(ledger), "counted twice"
    assert not allowed.items() - set(ledger), "allowed, and not in the ledger"
    assert not set(ledger) - allowed.items() - unanswered.items(), "in the ledger, and never asked for"
