"""From a REST call to a sidecar's answer: through Redis, and through WatchSnapshots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from entitlement_sidecar.domain.decision import Degradation, Reason
from entitlement_sidecar.wire.v1 import decision_pb2
from support.processes import Planstore, Sidecar
from support.waiting import until


@pytest.fixture(params=[("redis", "fast"), ("watch", "aio")], ids=["redis-fast", "watch-aio"])
def site(
    request: pytest.FixtureRequest,
    planstore: Callable[..., Planstore],
    sidecar: Callable[..., Sidecar],
) -> tuple[Planstore, Sidecar]:
    """A plan store and a sidecar, with Redis between them or without, on either front."""
    transport, front = request.param
    if transport == "watch":
        store = planstore()
        return store, sidecar(store, front=front)
    url = request.getfixturevalue("redis_db")
    store = planstore(redis=url)
    return store, sidecar(store, "--redis", url, front=front)


def reason(decision: decision_pb2.Decision) -> Reason:
    return Reason(decision.reason)


def test_subscribe_upgrade_suspend(site: tuple[Planstore, Sidecar]) -> None:
    """Each change of a subscription is in the sidecar's answers within a second or so (S1.5)."""
    store, beside = site
    unknown = beside.check("acme", "calls")
    assert (unknown.allowed, reason(unknown)) == (False, Reason.TENANT_UNKNOWN)

    store.subscribe("acme", "small")
    until(lambda: beside.check("acme", "calls").allowed, "the new tenant to be allowed", timeout=5)

    used_up = beside.consume("acme", "calls", quantity=50, request_id="all")
    assert (used_up.allowed, used_up.used, used_up.remaining) == (True, 50, 0)
    denied = beside.consume("acme", "calls")
    assert reason(denied) is Reason.QUOTA_EXCEEDED
    assert (denied.limit, denied.used, denied.remaining) == (50, 50, 0)
    assert denied.HasField("reset_at")

    upgraded = store.subscribe("acme", "large")
    allowed = beside.consume("acme", "calls", min_snapshot_version=upgraded["snapshot_version"])
    assert (allowed.allowed, allowed.limit, allowed.used) == (True, 100, 51)
    assert beside.check("acme", "sso").allowed

    answer = store.rest("POST", "/api/billing/organizations/acme/subscription/suspend", json={})
    assert answer.is_success, answer.text
    until(
        lambda: reason(beside.check("acme", "sso")) is Reason.SUBSCRIPTION_SUSPENDED,
        "the suspension to be known",
        timeout=5,
    )
    store.rest("POST", "/api/billing/organizations/acme/subscription/resume", json={})
    until(lambda: beside.check("acme", "sso").allowed, "the resumption to be known", timeout=5)


def test_an_upgrade_counts_at_once_for_a_consume(site: tuple[Planstore, Sidecar]) -> None:
    """Also when the caller does not wait for a version: the authority knows the limit in force."""
    store, beside = site
    store.subscribe("acme", "small")
    until(lambda: beside.check("acme", "calls").allowed, "the new tenant to be allowed", timeout=5)
    beside.consume("acme", "calls", quantity=50)
    assert not beside.consume("acme", "calls").allowed
    store.subscribe("acme", "large")
    decision = beside.consume("acme", "calls")
    assert (decision.allowed, decision.limit) == (True, 100)


def test_answers_say_what_they_rest_on(site: tuple[Planstore, Sidecar]) -> None:
    """Version, provenance, freshness, and no degradation while the feed beats."""
    store, beside = site
    changed = store.subscribe("acme", "small")
    until(lambda: beside.check("acme", "regions").allowed, "the new tenant to be allowed", timeout=5)

    def fresh() -> bool:
        return beside.check("acme", "regions").degradation == Degradation.NONE

    until(fresh, "the feed to confirm what is held")
    decision = beside.check("acme", "regions")
    assert decision.snapshot_version == changed["snapshot_version"]
    assert [p.id for p in decision.provenance] == ["small@1"]
    assert decision.value_json == '["eu"]'
    assert decision.HasField("as_of")


def test_a_consume_is_repeated_by_its_request_id(site: tuple[Planstore, Sidecar]) -> None:
    """The first allowed answer again, also after a restart; another quantity is a conflict."""
    store, beside = site
    store.subscribe("acme", "small")
    until(lambda: beside.check("acme", "calls").allowed, "the new tenant to be allowed", timeout=5)
    first = beside.consume("acme", "calls", quantity=7, request_id="r1")
    again = beside.consume("acme", "calls", quantity=7, request_id="r1")
    assert (first.used, again.used, again.consumption_id) == (7, 7, first.consumption_id)
    beside.kill()
    beside.start()
    restarted = beside.consume("acme", "calls", quantity=7, request_id="r1")
    assert (restarted.used, restarted.consumption_id) == (7, first.consumption_id)
    until(lambda: _total(store.usage("acme"), "calls") == 7, "the ledger to add up")


def _total(summary: dict[str, Any], metric: str) -> int:
    return sum(row["value"] for row in summary["usage"] if row["metric"] == metric)
