"""Accepted means kept (C3): whoever is killed, and when, each acked event is in the ledger exactly once.

A sidecar and a plan store are killed under load, and batches between them are doubled, late, cut off or
lost. Services send again what was not answered. `USAGE_SEED=7 pytest tests/e2e/test_usage_kills.py` repeats
the choices of a run; `make soak` kills 300 times.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.clock import SystemClock
from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.planstore.db import (
    Database,
    UsageEventRow,
    UsageLedgerRow,
    UsageQuarantineRow,
    UsageSourceRow,
    create_engine_for,
)
from entitlement_sidecar.planstore.usage.rebuild import Rebuild, RebuildRequest
from support.careless_network import CarelessNetwork
from support.outbox_books import epochs, queued
from support.processes import Planstore, Sidecar
from support.usage_load import TENANTS, Fact, Identity, Permits, Service
from support.waiting import until

KILLS = (300 if os.environ.get("SOAK") else 20) // 2
"""Per kind of database."""

SEED = int(os.environ.get("USAGE_SEED") or random.SystemRandom().randrange(10**6))
SERVICES = 4
CALLS = (15, 50)
"""How many there are between two kills."""

CATALOGUE = Path(__file__).parent / "kills_catalogue.yaml"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind, by its URL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/usage.db"
    url: str = request.getfixturevalue("postgres_dsn")
    return url


@pytest.fixture
def store(database_url: str, tmp_path: Path, ending: ExitStack) -> Planstore:
    """A plan store with tenants that may use all there is."""
    store = Planstore(tmp_path / "planstore", database=database_url)
    ending.callback(store.kill)
    store.start()
    store.apply(CATALOGUE)
    for tenant in TENANTS:
        store.subscribe(tenant, "large")
    return store


@pytest.fixture
def network(store: Planstore) -> Iterator[CarelessNetwork]:
    """What is between it and the sidecar."""
    with CarelessNetwork(store.grpc_port, SEED) as network:
        yield network


@pytest.mark.timeout(240 + 30 * KILLS)
def test_each_acked_event_is_counted_once(
    store: Planstore, network: CarelessNetwork, database_url: str, tmp_path: Path, ending: ExitStack
) -> None:
    """Ten kills on each kind of database; conservation holds on both ends, and sums are those of the list."""
    print(f"USAGE_SEED={SEED}")  # noqa: T201 - who repeats a failure needs it
    token = ("--token-file", str(store.state / "token"))
    beside = Sidecar(tmp_path / "sidecar", "--planstore", f"127.0.0.1:{network.port}", *token)
    ending.callback(beside.kill)
    beside.start()
    until(lambda: beside.check("acme", "pages").allowed, "the tenant to be held")
    permits = Permits()
    services = [Service(number, beside.port, SEED, permits) for number in range(SERVICES)]

    with ThreadPoolExecutor(SERVICES) as pool:
        running = [pool.submit(service.run) for service in services]
        try:
            _kill_again_and_again(store, beside, permits, lambda: any(each.done() for each in running))
        finally:
            permits.end()
        for each in running:
            each.result()
    network.honest = True
    until(lambda: queued(beside.state) == 0, "the outbox to be empty", timeout=120)
    network.deliver_late()
    beside.stop()

    expected = Expected(services)
    database = Database(create_engine_for(database_url))
    ending.callback(database.close)
    stored = _stored(database)
    _assert_ledger(stored, expected)
    _assert_held(database, expected)
    _assert_aggregates(database, stored)
    _assert_conserved(beside.state, database, len(stored))
    assert set(network.fates) >= {"on", "twice", "unanswered"}, network.fates
    assert sum(service.unanswered for service in services)


def _kill_again_and_again(
    store: Planstore, beside: Sidecar, permits: Permits, over: Callable[[], bool]
) -> None:
    """Each kill comes at an instant that has nothing to do with where a call or a batch is."""
    dice = random.Random(SEED)  # noqa: S311 - a test's dice
    for kill in range(KILLS):
        calls = dice.randint(*CALLS)
        at = permits.made + dice.randrange(calls)
        permits.grant(calls)
        until(lambda at=at: permits.made >= at or over(), "calls to be made", timeout=120)
        time.sleep(dice.random() * 0.3)
        victims: list[Planstore | Sidecar] = [(store, beside)[kill % 2]]
        if dice.random() < 0.2:
            victims = [store, beside]
        # Some calls are under way when it comes, however quick they are.
        permits.grant(4 * SERVICES)
        for victim in victims:
            victim.kill()
        # They come back while calls are made, the plan store the later the longer the outbox has to wait.
        permits.grant(dice.randint(*CALLS) // 2)
        for victim in reversed(victims):
            _restart(victim)


def _restart(victim: Planstore | Sidecar) -> None:
    if isinstance(victim, Planstore):
        victim.start(migrated=True)
    else:
        victim.start()


class Expected:
    """What all services together expect."""

    def __init__(self, services: Sequence[Service]) -> None:
        self.counted = {identity: fact for one in services for identity, fact in one.counted.items()}
        self.held = {identity for one in services for identity in one.held}
        self.rolled = {key: rolled for one in services for key, rolled in one.rolled.items()}


def _stored(database: Database) -> Sequence[UsageEventRow]:
    with database.reading() as session:
        return session.scalars(select(UsageEventRow)).all()


def _assert_ledger(stored: Sequence[UsageEventRow], expected: Expected) -> None:
    """Each identity once, with what was acked; and nothing else."""
    identities = Counter((row.tenant_id, row.event_id) for row in stored)
    assert not [identity for identity, times in identities.items() if times > 1]
    facts = {(row.tenant_id, row.event_id): Fact(row.metric, row.value) for row in stored}
    plain = {identity: fact for identity, fact in facts.items() if fact.metric != "hits"}
    assert not expected.counted.keys() - plain.keys(), "acked, and lost"
    assert not plain.keys() - expected.counted.keys(), "never acked, and counted"
    assert plain == expected.counted
    sums: Counter[Identity] = Counter()
    for row in stored:
        if row.metric == "hits":
            sums[row.tenant_id, row.subject] += row.value
            assert row.value == 2 * row.count
    assert sums.keys() == expected.rolled.keys()
    for key, rolled in expected.rolled.items():
        assert rolled.sure <= sums[key] <= rolled.at_most, key


def _assert_held(database: Database, expected: Expected) -> None:
    """What no catalogue names is kept for operators, once."""
    with database.reading() as session:
        rows = session.scalars(select(UsageQuarantineRow)).all()
    held = {(row.tenant_id, row.event_id): row.rule for row in rows}
    assert held == dict.fromkeys(expected.held, RuleName.METRIC)


def _assert_aggregates(database: Database, stored: Sequence[UsageEventRow]) -> None:
    """They are what the ledger adds up to, and what a rebuild makes of it."""
    expected: Counter[tuple[str, str, int]] = Counter()
    counts: Counter[tuple[str, str, int]] = Counter()
    for row in stored:
        key = (row.tenant_id, row.metric, row.classification)
        expected[key] += row.value
        counts[key] += row.count
    with database.reading() as session:
        for aggregate in session.scalars(select(UsageLedgerRow)):
            key = (aggregate.tenant_id, aggregate.metric, aggregate.classification)
            expected[key] -= aggregate.value
            counts[key] -= aggregate.event_count
    assert not any(expected.values()), expected
    assert not any(counts.values()), counts
    assert Rebuild(database, SystemClock()).run(RebuildRequest(check=True)).differences == []


def _assert_conserved(outbox: Path, database: Database, stored: int) -> None:
    """Of every start, what was accepted was settled or refused; and the plan store has heard of all of it."""
    books = epochs(outbox)
    assert queued(outbox) == 0
    with database.reading() as session:
        sources = {row.epoch: row for row in session.scalars(select(UsageSourceRow))}
    assert sources.keys() == books.keys()
    for epoch, totals in books.items():
        source, accepted = sources[epoch], totals["accepted"]
        assert accepted == totals["settled"] + totals["dead"], totals
        assert totals["lost"] == source.declared == 0
        assert json.loads(source.received) == [[1, accepted]]
        assert source.accepted_total == accepted
        assert source.stored + source.duplicates + source.quarantined == totals["settled"]
        assert source.conflicts + source.refused == totals["dead"]
    assert sum(source.stored for source in sources.values()) == stored
