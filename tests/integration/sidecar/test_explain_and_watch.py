"""ExplainEntitlement and WatchEntitlements."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import grpc
import pytest

from entitlement_sidecar.domain.decision import ProvenanceKind, Reason
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc
from support.failures import failure
from support.processes import Sidecar

Check = decision_pb2.CheckEntitlementRequest


def explained(beside: Sidecar, **check: object) -> decision_pb2.ExplainEntitlementResponse:
    """One ExplainEntitlement."""
    stub = decision_pb2_grpc.EntitlementServiceStub(beside.channel)
    request = decision_pb2.ExplainEntitlementRequest(check=Check(**check))  # type: ignore[arg-type]
    response: decision_pb2.ExplainEntitlementResponse = stub.ExplainEntitlement(request, timeout=10)
    return response


def test_a_decision_is_explained(beside: Sidecar, tenant: str) -> None:
    """Every step in order, the deciding one marked; the decision is the one that a check gives."""
    beside.consume(tenant, "calls", quantity=10)
    response = explained(beside, tenant_id=tenant, feature="calls")
    assert response.decision.reason == Reason.QUOTA_EXCEEDED
    assert [step.rule for step in response.steps] == [
        *("tenant", "feature", "subscription", "plan entitlement", "limit", "decision")
    ]
    [decisive] = [step for step in response.steps if step.decisive]
    assert decisive.rule == "limit"
    assert decisive.outcome.startswith("year: 10 of 10, 0 left, until ")
    granting = response.steps[3]
    assert (granting.provenance.kind, granting.provenance.id) == (ProvenanceKind.PLAN, "pro@1")
    assert granting.outcome == "grants 10 per year"


def test_an_explanation_consumes_nothing(beside: Sidecar, tenant: str) -> None:
    """Also of a CONSUME: it is judged as a look."""
    response = explained(beside, tenant_id=tenant, feature="calls", mode=decision_pb2.CHECK_MODE_CONSUME)
    assert response.decision.allowed
    assert beside.check(tenant, "calls").used == 0


def test_what_is_wrong_in_the_check_is_named_by_its_place(beside: Sidecar, tenant: str) -> None:
    """The field inside the request."""
    failed = failure(lambda: explained(beside, tenant_id=tenant, feature="A"))
    assert list(failed.fields) == ["check.feature"]


class File:
    """A snapshot file that changes, and a sidecar that runs from it."""

    def __init__(self, folder: Path, front: str) -> None:
        self.path = folder / "tenants.yaml"
        self.write(limit=10)
        self.sidecar = Sidecar(folder / "state", "--snapshot-file", str(self.path), front=front)

    def write(self, *, limit: int, tenants: str = "acme: {plan: pro}") -> None:
        """Replaces the file as a whole."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(
            f"""
catalogue: shop
features: {{calls: {{kind: metered, metric: calls}}}}
metrics: {{calls: {{domain: api, unit: call}}}}
plans:
  pro:
    price: {{amount: "1.00", currency: EUR}}
    billing_period: month
    entitlements: {{calls: {{limits: [{{amount: {limit}, window: year}}]}}}}
tenants:
  {tenants}
"""
        )
        fresh.rename(self.path)


@pytest.fixture(params=["fast", "aio"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[File]:
    """A file of this test's own, watched through each front."""
    own = File(tmp_path, request.param)
    own.sidecar.start()
    yield own
    own.sidecar.stop()


Watch = Iterator[decision_pb2.WatchEntitlementsResponse]


def watch(file: File, tenant: str = "acme", after_version: int = 0) -> Watch:
    """One WatchEntitlements."""
    stub = decision_pb2_grpc.EntitlementServiceStub(file.sidecar.channel)
    request = decision_pb2.WatchEntitlementsRequest(tenant_id=tenant, after_version=after_version)
    states: Watch = stub.WatchEntitlements(request, timeout=30)
    return states


def limit_of(state: decision_pb2.WatchEntitlementsResponse) -> int:
    """The one limit of a state."""
    return int(state.entitlements[0].decision.limit)


def test_the_first_message_is_the_state_and_then_each_change(file: File) -> None:
    """Also that a tenant is gone."""
    states = watch(file)
    assert limit_of(next(states)) == 10
    file.write(limit=20)
    changed = next(states)
    assert (limit_of(changed), changed.snapshot_version) == (20, 2)
    file.write(limit=20, tenants="globex: {plan: pro}")
    gone = next(states)
    assert not gone.entitlements[0].decision.allowed


def test_a_watch_goes_on_where_it_was(file: File) -> None:
    """The current state at once, also where its version is the one seen; never one older than that."""
    states = watch(file, after_version=1)
    assert limit_of(next(states)) == 10
    file.write(limit=30)
    assert limit_of(next(states)) == 30
    ahead = watch(file, after_version=3)
    file.write(limit=40)
    assert limit_of(next(ahead)) == 40


def test_an_unknown_tenant_is_watched_until_it_subscribes(file: File) -> None:
    """First that it has nothing, then what it has."""
    states = watch(file, "newcomer")
    assert next(states).entitlements[0].decision.reason == Reason.TENANT_UNKNOWN
    file.write(limit=5, tenants="newcomer: {plan: pro}")
    for _ in count():
        state = next(states)
        if state.entitlements[0].decision.allowed:
            break
    assert limit_of(state) == 5


def test_a_slow_reader_gets_the_latest(file: File) -> None:
    """Many changes while nobody reads are few messages, and the last one is the newest state."""
    states = watch(file)
    assert limit_of(next(states)) == 10
    for limit in range(11, 15):
        file.write(limit=limit)
        file.sidecar.check("acme", "calls", min_snapshot_version=limit - 9)
    seen = []
    while not seen or seen[-1] != 14:
        seen.append(limit_of(next(states)))
    assert seen == sorted(seen)


def test_a_watch_needs_a_tenant(file: File) -> None:
    """INVALID_ARGUMENT names the field."""
    failed = failure(lambda: next(watch(file, "")))
    assert (failed.code, list(failed.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["tenant_id"])
