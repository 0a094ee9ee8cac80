"""A minute of plan changes while everything fails in turn: nobody claims what was not true, and all converge.

Half an hour by `make soak`. A failure names its seed; `CONVERGENCE_SEED` sets it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from entitlement_sidecar.domain.decision import Degradation
from entitlement_sidecar.testing.fault_proxy import FaultProxy
from support.convergence import Answers, Changes, Faults
from support.processes import Planstore, Sidecar
from support.redis_server import RedisServer
from support.waiting import until

SECONDS = 1800 if os.environ.get("SOAK") else 60
SEED = os.environ.get("CONVERGENCE_SEED", "20261")
TENANTS = [f"tenant-{number}" for number in range(20)]
CATALOGUE = Path(__file__).parent / "catalogue.yaml"
CONVERGED_WITHIN = 120.0
"""Seconds after the last fault: pauses between attempts may have grown to several seconds each."""

Fault = tuple[Callable[[], Any], Callable[[], Any]]


class Site:
    """Two plan stores of one database, a Redis, three sidecars, and proxies between them."""

    def __init__(self, folder: Path, database: str, server: RedisServer, ending: ExitStack) -> None:
        self._ending = ending
        self.redis = server
        self.proxies: dict[str, FaultProxy] = {}
        self.stores = [self._store(folder, database, number) for number in range(2)]
        self.stores[0].apply(CATALOGUE)
        token = ("--token-file", str(self.stores[0].state / "token"))
        keys = ("--trusted-keys", str(self.stores[0].state / "trusted.keys"))

        def planstore(name: str, number: int) -> tuple[str, ...]:
            port = self._proxy(f"{name} to plan store", self.stores[number].grpc_port)
            return ("--planstore", f"127.0.0.1:{port}", *token)

        def through_redis(name: str) -> tuple[str, str]:
            return ("--redis", _url(self._proxy(f"{name} to Redis", server.port)))

        self.sidecars = {
            "both": Sidecar(folder / "both", *planstore("both", 0), *through_redis("both")),
            "watching": Sidecar(folder / "watching", *planstore("watching", 1)),
            "redis": Sidecar(folder / "alone", *keys, *through_redis("redis")),
        }

    def _store(self, folder: Path, database: str, number: int) -> Planstore:
        url = _url(self._proxy(f"publisher {number} to Redis", self.redis.port))
        store = Planstore(folder / "planstore", database=database, redis=url)
        self._ending.callback(store.kill)
        return store.start(migrated=number > 0)

    def _proxy(self, name: str, port: int) -> int:
        proxy = self.proxies[name] = FaultProxy(port)
        self._ending.callback(proxy.close)
        return proxy.start().port

    def start_sidecars(self) -> None:
        """All of them."""
        for beside in self.sidecars.values():
            self._ending.callback(beside.kill)
            beside.start()

    def faults(self) -> dict[str, Fault]:
        """Every way to break something here, with how it is put right."""
        kinds: dict[str, Fault] = {
            "Redis restarts, empty": (self.redis.stop, self.redis.start),
            "Redis is emptied": (self._flush, lambda: None),
        }
        for number, store in enumerate(self.stores):
            kinds[f"plan store {number} is killed"] = (store.kill, lambda s=store: s.start(migrated=True))
        for name, beside in self.sidecars.items():
            kinds[f"sidecar {name} is killed"] = (beside.kill, beside.start)
        for name, proxy in self.proxies.items():
            kinds[name] = (_breaking(proxy, random.Random(f"{SEED} {name}")), proxy.heal)  # noqa: S311 - dice
        return kinds

    def _flush(self) -> None:
        with redis.Redis(port=self.redis.port) as client:
            client.flushall()


def _url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def _breaking(proxy: FaultProxy, dice: random.Random) -> Callable[[], None]:
    """Sets one of the proxy's faults, another each time."""
    faults: list[Callable[[], None]] = [
        proxy.black_hole,
        proxy.refuse,
        proxy.reset,
        lambda: proxy.latency(0.4),
        lambda: proxy.bandwidth(2048),
    ]

    def break_it() -> None:
        dice.choice(faults)()

    return break_it


@pytest.fixture
def site(tmp_path: Path, postgres_dsn: str, redis_server: RedisServer, ending: ExitStack) -> Site:
    """The plan stores run; the sidecars wait for tenants."""
    return Site(tmp_path, postgres_dsn, redis_server, ending)


@pytest.mark.timeout(SECONDS + 400)
def test_whatever_fails_nobody_claims_what_was_not_true_and_all_converge(site: Site) -> None:
    """Every claimed `as_of` holds against every answered change; after the last fault all are current."""
    changes = Changes(site.stores, TENANTS, SEED)
    for tenant in TENANTS:
        changes.change(tenant, "large", site.stores[0])
    site.start_sidecars()
    heard = {name: Answers(beside, TENANTS) for name, beside in site.sidecars.items()}
    faults = Faults(site.faults(), SEED)

    with ExitStack() as running:
        for answers in heard.values():
            running.enter_context(answers)
        with changes:
            faults.go_on_for(SECONDS)
        assert_converges(site)

    made = sum(map(len, changes.made.values()))
    story = f"seed {SEED}: {made} changes answered; {', '.join(faults.done)}"
    print(story)  # noqa: T201 - a failed test shows it
    assert made > SECONDS, story
    for name, answers in heard.items():
        assert answers.wrong == [], f"{name}, {story}"
        assert answers.degradations[Degradation.NONE] > SECONDS, f"{name} {answers.degradations}, {story}"
        assert untrue(answers, changes) == [], f"{name}, {story}"


def assert_converges(site: Site) -> None:
    """Every sidecar has the plan store's version of every tenant, confirmed."""
    wanted = newest(site.stores[0])
    for name, beside in site.sidecars.items():
        until(lambda beside=beside: behind(beside, wanted) == [], f"{name} to converge", CONVERGED_WITHIN)


def newest(store: Planstore) -> dict[str, int]:
    """The plan store's version of each tenant."""
    path = "/api/billing/organizations/{}/subscription"
    return {tenant: store.rest("GET", path.format(tenant)).json()["snapshot_version"] for tenant in TENANTS}


def behind(beside: Sidecar, wanted: dict[str, int]) -> Sequence[str]:
    """Tenants of which a sidecar has another version, or one that is not confirmed."""
    told = {tenant: beside.check(tenant, "sso") for tenant in wanted}
    return [
        f"{tenant} {told[tenant].snapshot_version} {Degradation(told[tenant].degradation).name}"
        for tenant, version in wanted.items()
        if told[tenant].snapshot_version != version or told[tenant].degradation != Degradation.NONE
    ]


def untrue(answers: Answers, changes: Changes) -> list[str]:
    """Claims that a change, answered before the instant that was claimed, had made untrue."""
    return [
        f"{tenant} version {version} as of {as_of}, but {newer.version} was answered at {newer.answered}"
        for (tenant, version), as_of in answers.claimed.items()
        if (newer := changes.newer_before(tenant, version, as_of))
    ]
