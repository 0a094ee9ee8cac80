"""Consumptions without a request id, which sidecars have ready: whoever was told yes is in the ledger, once.

Many are under way when the sidecar ends, in order or not. One that was not answered may have been counted.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc
from support.leased_site import CATALOGUE, PLAN
from support.outbox_books import dead, queued
from support.processes import Planstore, Sidecar
from support.waiting import until

FEATURE = "calls"
LIMIT = 1_000_000
ANSWERED, UNDER_WAY = 1_000, 64
PATIENCE = 60.0


class Callers:
    """Ask for one more all the time, until they are not answered any more; what each was told."""

    def __init__(self, beside: Sidecar, tenant: str) -> None:
        self._tenant = tenant
        self._channel = grpc.insecure_channel(f"127.0.0.1:{beside.port}")
        self._ask = decision_pb2_grpc.EntitlementServiceStub(self._channel).CheckEntitlement
        self.allowed: list[str] = []
        self.unanswered = 0
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        request = decision_pb2.CheckEntitlementRequest(
            tenant_id=self._tenant, feature=FEATURE, mode=decision_pb2.CHECK_MODE_CONSUME
        )
        while not self.unanswered:
            for answer in [self._ask.future(request, timeout=30) for _ in range(UNDER_WAY)]:
                try:
                    decision = answer.result().decision
                except grpc.RpcError:
                    self.unanswered += 1
                else:
                    assert decision.allowed, decision
                    self.allowed.append(decision.consumption_id)

    def join(self) -> None:
        """Waits until they have stopped."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._channel.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planstore]:
    """A plan store where everybody has plenty."""
    folder = tmp_path_factory.mktemp("site")
    store = Planstore(folder / "planstore")
    try:
        store.start()
        catalogue = folder / "leased.yaml"
        catalogue.write_text(CATALOGUE + PLAN.format(limit=LIMIT))
        store.apply(catalogue)
        yield store
    finally:
        store.kill()


@pytest.fixture
def beside(request: pytest.FixtureRequest, store: Planstore, tmp_path: Path) -> Iterator[Sidecar]:
    """A sidecar with a front, which holds the tenant of that name."""
    front = request.param
    upstream = ("--planstore", f"127.0.0.1:{store.grpc_port}", "--token-file", str(store.state / "token"))
    beside = Sidecar(tmp_path / "sidecar", *upstream, front=front)
    store.subscribe(front, f"of-{LIMIT}")
    try:
        beside.start()
        until(lambda: beside.check(front, FEATURE).allowed, "the tenant to be held", PATIENCE)
        yield beside
    finally:
        beside.kill()


def ledger(store: Planstore, tenant: str) -> Counter[str]:
    """How often each event is there."""
    found: Counter[str] = Counter()
    path, cursor = f"/api/billing/organizations/{tenant}/usage/events?limit=1000", ""
    while True:
        answer = store.rest("GET", path + (f"&cursor={cursor}" if cursor else ""))
        assert answer.is_success, answer.text
        page = answer.json()
        found.update(event["event_id"] for event in page["events"])
        cursor = page.get("next_cursor") or ""
        if not cursor:
            return found


def outstanding(store: Planstore, tenant: str) -> int:
    """Tokens that sidecars may still be using, by the root's word."""
    answer = store.rest("GET", f"/api/billing/organizations/{tenant}/leases")
    assert answer.is_success, answer.text
    return sum(one["outstanding"] for one in answer.json()["leases"])


@pytest.mark.parametrize("beside", ["fast", "aio"], indirect=True)
def test_whoever_was_told_yes_is_in_the_ledger(store: Planstore, beside: Sidecar, request: Any) -> None:
    """Given callers that go on, when their sidecar is stopped, and killed, then their yes is there."""
    tenant = request.node.callspec.params["beside"]
    told, unanswered = list[str](), 0
    for end in (Sidecar.stop, Sidecar.kill):
        callers = Callers(beside, tenant)
        try:
            until(lambda callers=callers: len(callers.allowed) >= ANSWERED, "many answers", PATIENCE)
            end(beside)
        finally:
            beside.kill()
            callers.join()
        told += callers.allowed
        unanswered += callers.unanswered
        if end is Sidecar.stop:
            assert outstanding(store, tenant) == 0
        beside.start()
    until(lambda: not queued(beside.state), "all of it to be shipped", PATIENCE)
    found = ledger(store, tenant)
    assert not dead(beside.state)
    assert set(found.values()) == {1}
    assert len(told) == len(set(told))
    assert found.keys() >= set(told)
    assert len(found) <= len(told) + unanswered
    until(lambda: outstanding(store, tenant) == 0, "what was leased to be settled for", PATIENCE)
