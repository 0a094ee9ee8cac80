"""What is behind a sidecar is away, hangs or is slow: the checks of DESIGN 10, row by row.

Each test names how the answers say it (reason, degradation, source) and the metric that shows it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from entitlement_sidecar.domain.decision import Reason, Source
from entitlement_sidecar.testing.fault_proxy import FaultProxy
from support.faulty_site import (
    AGED,
    CLOSED,
    CURRENT,
    OPEN,
    PATIENCE,
    FaultySite,
    await_confirmed,
    await_told,
    first_told,
    told,
)
from support.processes import Sidecar
from support.waiting import until

Fault = Callable[[FaultProxy], None]
"""How one way to a server fails."""

HANGS: dict[str, Fault] = {
    "black hole": lambda proxy: proxy.black_hole(),
    "latency": lambda proxy: proxy.latency(2.0),
    "bandwidth": lambda proxy: proxy.bandwidth(64),
}
"""Faults that nobody is told of: whoever asks has to give up by itself."""

AWAY: dict[str, Fault] = {"refused": lambda proxy: proxy.refuse(), **HANGS}


@pytest.fixture
def site(faulty_site: FaultySite) -> FaultySite:
    """What is broken here."""
    return faulty_site


def is_seen_to_be_away(site: FaultySite) -> bool:
    """Whether the sidecar shows that its plan store is away: of a tenant nobody knows, it has to be asked."""
    assert told(site.beside, "nobody") == OPEN
    return site.beside.metric('entitlement_circuit_open{source="plan_store"}') == 1


def answers_while(beside: Sidecar, tenant: str, waiting: Callable[[], object]) -> list[object]:
    """What was told of a tenant, again and again, from before a call began until it had ended."""
    call = threading.Thread(target=waiting)
    heard: list[object] = [told(beside, tenant)]
    call.start()
    while call.is_alive():
        heard.append(told(beside, tenant))
    call.join()
    return heard


@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
def test_plan_store_away(site: FaultySite, fault: Fault) -> None:
    """Checks are full: the feed comes from Redis, so that what is held stays current, and changes arrive.

    A tenant not held is read from Redis. Nobody who knows has confirmed it, and its answers say so.
    """
    held, cold = site.held(), site.subscribed()

    fault(site.to_store)

    read = first_told(site.beside, cold)
    assert (read.allowed, read.source) == (True, Source.REDIS)
    await_confirmed(site.beside, held)
    site.store.subscribe(held, "small")
    denied = CURRENT._replace(allowed=False, reason=Reason.NOT_IN_PLAN)
    await_told(site.beside, held, denied)
    until(lambda: is_seen_to_be_away(site), "the metric", PATIENCE)


def test_plan_store_killed(site: FaultySite) -> None:
    """Where no plan store is left to publish, nobody confirms: full, from memory and Redis, and STALE."""
    held, cold = site.held(), site.subscribed()

    site.store.kill()

    read = first_told(site.beside, cold)
    assert (read.allowed, read.source) == (True, Source.REDIS)
    await_told(site.beside, held, AGED)
    assert site.beside.metric("entitlement_freshness_seconds") > 3
    site.store.start(migrated=True)
    await_told(site.beside, held, CURRENT)
    await_told(site.beside, cold, CURRENT)


@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
def test_redis_away(site: FaultySite, fault: Fault) -> None:
    """What is held is served from memory, STALE after three seconds; cold tenants are the plan store's."""
    held, cold = site.held(), site.subscribed()
    lost = site.beside.metric("entitlement_feed_interruptions_total")

    fault(site.to_redis)

    read = first_told(site.beside, cold)
    assert (read.allowed, read.source) == (True, Source.PLAN_STORE)
    await_told(site.beside, held, AGED)
    assert site.beside.metric("entitlement_freshness_seconds") > 3
    until(lambda: site.beside.metric("entitlement_feed_interruptions_total") > lost, "the metric", PATIENCE)
    site.to_redis.heal()
    await_told(site.beside, held, CURRENT)


def test_redis_killed(site: FaultySite) -> None:
    """The same; when it comes back empty, it is refilled and answers are current again."""
    held, cold = site.held(), site.subscribed()

    site.redis.stop()

    read = first_told(site.beside, cold)
    assert (read.allowed, read.source) == (True, Source.PLAN_STORE)
    await_told(site.beside, held, AGED)
    site.redis.start()
    await_told(site.beside, held, CURRENT)
    site.await_in_redis(cold)


def test_redis_resets_connections(site: FaultySite) -> None:
    """The feed is taken up again; what is held is served meanwhile, and current again after."""
    held = site.held()
    lost = site.beside.metric("entitlement_feed_interruptions_total")

    site.to_redis.reset()

    await_told(site.beside, held, CURRENT)
    until(lambda: site.beside.metric("entitlement_feed_interruptions_total") > lost, "the metric", PATIENCE)
    site.store.subscribe(held, "small")
    until(lambda: not site.beside.check(held, "sso").allowed, "the change, through Redis", PATIENCE)


@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
def test_both_away(site: FaultySite, fault: Fault) -> None:
    """What is held is served, STALE; of other tenants nobody knows, and each feature's policy answers."""
    held, cold = site.held(), site.subscribed()
    kept = 'entitlement_decisions_total{degradation="FAIL_OPEN",reason="UNDETERMINED"}'
    opened = site.beside.metric(kept)

    fault(site.to_redis)
    fault(site.to_store)

    await_told(site.beside, cold, OPEN)
    await_told(site.beside, cold, CLOSED, "calls")
    await_told(site.beside, held, AGED)
    assert site.beside.metric(kept) > opened
    site.to_redis.heal()
    site.to_store.heal()
    await_told(site.beside, held, CURRENT)
    await_told(site.beside, cold, CURRENT)


@pytest.mark.parametrize("fault", HANGS.values(), ids=HANGS)
def test_slow_upstream(site: FaultySite, fault: Fault) -> None:
    """While a check of a tenant not held waits for what hangs, checks of held ones are answered."""
    held, cold = site.held(), site.subscribed()

    fault(site.to_redis)
    fault(site.to_store)
    heard = answers_while(site.beside, held, lambda: told(site.beside, cold))

    assert len(heard) > 3, "a call that waits must not hold up the others"
    assert set(heard) <= {CURRENT, AGED}
