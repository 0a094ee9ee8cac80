"""What is away must not be felt by checks (DESIGN 10)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc

from entitlement_sidecar.domain.decision import Degradation, Reason
from support.processes import Planstore, Sidecar
from support.waiting import until


def test_redis_stops_and_starts_under_load(
    redis_server: Any, planstore: Callable[..., Planstore], sidecar: Callable[..., Sidecar]
) -> None:
    """No check fails; answers say STALE while the feed is away, and stop saying so when it is back."""
    store = planstore(redis=redis_server.url)
    store.subscribe("acme", "large")
    beside = sidecar(store, "--redis", redis_server.url)
    until(lambda: _fresh(beside), "the feed to confirm what is held")
    failures: list[str] = []
    counts: Counter[int] = Counter()
    stopping = threading.Event()

    def load() -> None:
        while not stopping.is_set():
            try:
                for feature in ("sso", "calls"):
                    decision = beside.check("acme", feature)
                    counts[decision.degradation] += 1
                    if not decision.allowed:
                        failures.append(f"denied: {decision}")
            except grpc.RpcError as error:
                failures.append(f"failed: {error}")

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        redis_server.stop()
        until(lambda: not _fresh(beside), "answers to say STALE")
        redis_server.start()
        until(lambda: _fresh(beside), "answers to be fresh again", timeout=30)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert set(counts) == {Degradation.NONE, Degradation.STALE}
    store.subscribe("acme", "small")
    until(lambda: not beside.check("acme", "sso").allowed, "a change to come through Redis again")


def _fresh(beside: Sidecar) -> bool:
    return bool(beside.check("acme", "sso").degradation == Degradation.NONE)


def test_the_plan_store_stops_and_checks_go_on(
    planstore: Callable[..., Planstore], sidecar: Callable[..., Sidecar]
) -> None:
    """What is held is served as held; hard limits deny by policy, soft ones allow and are recorded."""
    store = planstore()
    store.subscribe("acme", "small")
    beside = sidecar(store)
    until(lambda: beside.check("acme", "regions").allowed, "the tenant to be held", timeout=5)
    store.kill()
    until(lambda: beside.check("acme", "regions").degradation == Degradation.STALE, "STALE to be said")
    assert beside.check("acme", "regions").allowed
    hard = beside.consume("acme", "calls")
    assert (hard.allowed, hard.reason, hard.degradation) == (
        False,
        Reason.UNDETERMINED,
        Degradation.FAIL_CLOSED,
    )
    soft = beside.consume("acme", "exports", quantity=3)
    assert (soft.allowed, soft.degradation) == (True, Degradation.FAIL_OPEN)
    store.start()

    def ledger() -> int:
        return sum(row["value"] for row in store.usage("acme")["usage"] if row["metric"] == "exports")

    until(lambda: ledger() == 3, "the usage of the outage to reach the ledger", timeout=60)


def test_sigterm_drains(planstore: Callable[..., Planstore], sidecar: Callable[..., Sidecar]) -> None:
    """It says so, ends with code 0, and ships what it holds."""
    store = planstore()
    store.subscribe("acme", "large")
    beside = sidecar(store)
    until(lambda: beside.check("acme", "sso").allowed, "the tenant to be held", timeout=5)
    for number in range(20):
        assert beside.consume("acme", "calls", request_id=f"r{number}").allowed
    process = beside.process
    assert process is not None
    assert process.stop() == 0, process.output
    process.wait_for("0 events stay in the outbox")
    assert sum(row["value"] for row in store.usage("acme")["usage"] if row["metric"] == "calls") == 20
