"""BatchCheckEntitlements and ListEntitlements."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import pytest

from entitlement_sidecar.domain.decision import Reason
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc
from support.failures import failure
from support.processes import Sidecar

Check = decision_pb2.CheckEntitlementRequest
CONSUME = decision_pb2.CHECK_MODE_CONSUME


def batch(
    beside: Sidecar, checks: Sequence[Check], *, atomic: bool = False
) -> list[decision_pb2.BatchCheckResult]:
    """One BatchCheckEntitlements."""
    stub = decision_pb2_grpc.EntitlementServiceStub(beside.channel)
    request = decision_pb2.BatchCheckEntitlementsRequest(checks=checks, atomic=atomic)
    return list(stub.BatchCheckEntitlements(request, timeout=10).results)


def listed(
    beside: Sidecar, tenant: str, *, with_usage: bool = False
) -> decision_pb2.ListEntitlementsResponse:
    """One ListEntitlements."""
    stub = decision_pb2_grpc.EntitlementServiceStub(beside.channel)
    request = decision_pb2.ListEntitlementsRequest(tenant_id=tenant, with_usage=with_usage)
    response: decision_pb2.ListEntitlementsResponse = stub.ListEntitlements(request, timeout=10)
    return response


def test_checks_are_answered_in_order(beside: Sidecar, tenant: str) -> None:
    """What waits and what does not, what is denied and what is malformed: each in its place."""
    results = batch(
        beside,
        [
            Check(tenant_id=tenant, feature="calls", quantity=6, mode=CONSUME),
            Check(tenant_id="", feature="sso"),
            Check(tenant_id=tenant, feature="sso"),
            Check(tenant_id=tenant, feature="calls", quantity=-1, mode=CONSUME),
            Check(tenant_id=tenant, feature="teleport"),
            Check(tenant_id=tenant, feature="tokens", mode=CONSUME),
        ],
    )
    assert [one.WhichOneof("result") for one in results] == [
        *("decision", "error", "decision", "error", "decision", "decision")
    ]
    reasons = [one.decision.reason for one in results if one.HasField("decision")]
    assert reasons == [Reason.WITHIN_LIMIT, Reason.ENABLED, Reason.FEATURE_UNKNOWN, Reason.UNLIMITED]
    for place, field in ((1, "tenant_id"), (3, "quantity")):
        error = results[place].error
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "INVALID_INPUT")
        assert error.message.startswith(f"{field}: expected ")
    assert beside.check(tenant, "calls").used == 6


def test_a_batch_consumes_no_more_than_the_limit(beside: Sidecar, tenant: str) -> None:
    """Checks that wait wait together, and share one limit."""
    results = batch(beside, [Check(tenant_id=tenant, feature="calls", mode=CONSUME)] * 30)
    assert sum(one.decision.allowed for one in results) == 10
    assert {one.decision.reason for one in results} == {Reason.WITHIN_LIMIT, Reason.QUOTA_EXCEEDED}


def test_a_conflict_is_answered_in_place(beside: Sidecar, tenant: str) -> None:
    """A request id that came before with another quantity fails alone."""
    beside.consume(tenant, "calls", quantity=1, request_id="r1")
    again, conflict = batch(
        beside,
        [
            Check(tenant_id=tenant, feature="calls", quantity=quantity, mode=CONSUME, request_id="r1")
            for quantity in (1, 2)
        ],
    )
    assert again.decision.used == 1
    code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert (conflict.error.code, conflict.error.reason) == (code, "IDEMPOTENCY_CONFLICT")


@pytest.mark.parametrize("number", [0, 1001])
def test_a_batch_has_a_size(beside: Sidecar, tenant: str, number: int) -> None:
    """Empty, or more than 1,000: said with what came."""
    failed = failure(lambda: batch(beside, [Check(tenant_id=tenant, feature="calls", mode=CONSUME)] * number))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == {"checks": f"expected 1 to 1000 checks, got {number}"}
    assert beside.check(tenant, "calls").used == 0


def test_the_largest_batch_is_answered(beside: Sidecar, tenant: str) -> None:
    """A thousand checks in one call."""
    results = batch(beside, [Check(tenant_id=tenant, feature="sso")] * 1000)
    assert sum(one.decision.allowed for one in results) == 1000


@pytest.mark.parametrize("with_usage", [False, True])
def test_a_tenant_sees_all_that_it_has(beside: Sidecar, tenant: str, with_usage: bool) -> None:
    """Every feature of the catalogue, sorted, as a PEEK would answer it, usage included."""
    beside.consume(tenant, "calls", quantity=4)
    response = listed(beside, tenant, with_usage=with_usage)
    decisions = {one.feature: one.decision for one in response.entitlements}
    assert [one.feature for one in response.entitlements] == [
        *("audit", "calls", "capped", "desks", "exports", "gems", "legacy"),
        *("projects", "regions", "sso", "tokens"),
    ]
    assert [name for name, decision in decisions.items() if not decision.allowed] == ["audit"]
    assert (decisions["calls"].used, decisions["calls"].remaining) == (4, 6)
    assert decisions["projects"].value_json == "10"
    assert response.snapshot_version == 1


def test_a_list_of_nobody_is_all_denied(beside: Sidecar) -> None:
    """An unknown tenant has nothing, and is told so."""
    decisions = [one.decision for one in listed(beside, "nobody").entitlements]
    assert {one.reason for one in decisions} == {Reason.TENANT_UNKNOWN}


def test_a_list_needs_a_tenant(beside: Sidecar) -> None:
    """INVALID_ARGUMENT names the field."""
    failed = failure(lambda: listed(beside, ""))
    assert (failed.code, list(failed.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["tenant_id"])
