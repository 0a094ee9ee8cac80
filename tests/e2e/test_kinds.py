"""Seats, credits and atomic batches through a real plan store: REST and sidecars share what there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from entitlement_sidecar.domain.decision import Reason
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc
from support.processes import Planstore, Sidecar
from support.waiting import until

Check = decision_pb2.CheckEntitlementRequest
CONSUME = decision_pb2.CHECK_MODE_CONSUME


class Shared:
    """A plan store with two sidecars of it, and a tenant that has a team plan."""

    def __init__(self, store: Planstore, beside: Sequence[Sidecar]) -> None:
        self.store = store
        self.beside = beside

    def rest(self, feature: str, quantity: int = 1, **more: Any) -> dict[str, Any]:
        """One consuming check at the plan store itself."""
        body = {"feature": feature, "quantity": quantity, "record_usage": True, **more}
        answer = self.store.rest("POST", "/api/billing/organizations/acme/quotas/check", json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


@pytest.fixture(params=["sqlite", "postgres"])
def shared(
    request: pytest.FixtureRequest,
    planstore: Callable[..., Planstore],
    sidecar: Callable[..., Sidecar],
) -> Shared:
    """One of each database; the sidecars on either front."""
    engine = request.param
    options = {"database": request.getfixturevalue("postgres_dsn")} if engine == "postgres" else {}
    store = planstore(**options)
    beside = [sidecar(store, name=front, front=front) for front in ("fast", "aio")]
    store.subscribe("acme", "team")
    for one in beside:
        until(lambda one=one: one.check("acme", "desks").allowed, "the tenant to be held", timeout=5)
    return Shared(store, beside)


def test_seats_are_shared(shared: Shared) -> None:
    """Three seats, nine people, three ways in: three of them have one, and everybody agrees who."""
    fast, aio = shared.beside

    def take(number: int) -> tuple[str, bool]:
        subject = f"p{number % 9}"
        match number % 3:
            case 0:
                return subject, fast.consume("acme", "desks", subject=subject).allowed
            case 1:
                return subject, aio.consume("acme", "desks", subject=subject).allowed
            case _:
                return subject, shared.rest("desks", subject=subject)["allowed"]

    with ThreadPoolExecutor(18) as pool:
        answers = list(pool.map(take, range(18)))
    holders = {subject for subject, allowed in answers if allowed}
    assert len(holders) == 3
    for subject in holders:
        assert all(one.consume("acme", "desks", subject=subject).allowed for one in shared.beside)
    denied = fast.consume("acme", "desks", subject="nobody")
    assert (denied.reason, denied.used, denied.remaining) == (Reason.SEATS_EXHAUSTED, 3, 0)


def test_credits_are_shared_and_in_the_ledger(shared: Shared) -> None:
    """60 ask for one of 50, who is refused again while others lease: exactly 50 burn, as the ledger says."""

    def burn(number: int) -> bool:
        if number % 3 == 2:
            return bool(shared.rest("gems", correlation_id="c")["allowed"])
        return bool(shared.beside[number % 3].consume("acme", "gems", correlation_id="c").allowed)

    burnt = 0

    def ask_all() -> bool:
        nonlocal burnt
        with ThreadPoolExecutor(30) as pool:
            more = sum(pool.map(burn, range(60)))
        burnt += more
        return burnt >= 50 and not more

    until(ask_all, "nothing to be left anywhere")
    assert burnt == 50
    answer = shared.rest("gems")
    assert (answer["reason"], answer["credits"][0]["remaining"]) == ("CREDITS_EXHAUSTED", 0)
    until(
        lambda: sum(r["value"] for r in shared.store.usage("acme")["usage"] if r["metric"] == "gems") == 50,
        "the ledger to hold every credit",
    )


def test_one_consumption_is_one_whichever_way_it_comes(shared: Shared) -> None:
    """The same request id at a sidecar and over REST burns once."""
    first = shared.beside[0].consume("acme", "gems", quantity=5, request_id="job-1", correlation_id="c")
    again = shared.rest("gems", 5, request_id="job-1", correlation_id="c")
    assert (first.used, again["used"], again["allowed"]) == (5, 5, True)
    until(
        lambda: [(r["value"], r["event_count"]) for r in shared.store.usage("acme")["usage"]] == [(5, 1)],
        "one event in the ledger",
    )


def test_an_atomic_batch_is_consumed_or_not(shared: Shared) -> None:
    """Twenty batches of two calls and one gem at once, 20 calls there are: ten are consumed, whole."""

    def batch(number: int) -> bool:
        stub = decision_pb2_grpc.EntitlementServiceStub(shared.beside[number % 2].channel)
        checks = [
            Check(tenant_id="acme", feature="gems", mode=CONSUME, correlation_id="c"),
            Check(tenant_id="acme", feature="calls", quantity=2, mode=CONSUME, correlation_id="c"),
        ]
        if number % 4 > 1:
            checks.reverse()
        request = decision_pb2.BatchCheckEntitlementsRequest(checks=checks, atomic=True)
        return bool(stub.BatchCheckEntitlements(request, timeout=20).consumed)

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(batch, range(20))) == 10
    assert (shared.rest("calls", 1)["reason"], shared.rest("gems", 1)["used"]) == ("QUOTA_EXCEEDED", 11)
