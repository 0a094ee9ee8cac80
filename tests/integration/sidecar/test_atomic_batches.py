"""Atomic batches: all consumed or none."""

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


def atomic(beside: Sidecar, checks: Sequence[Check]) -> decision_pb2.BatchCheckEntitlementsResponse:
    """One atomic batch."""
    stub = decision_pb2_grpc.EntitlementServiceStub(beside.channel)
    request = decision_pb2.BatchCheckEntitlementsRequest(checks=checks, atomic=True)
    response: decision_pb2.BatchCheckEntitlementsResponse = stub.BatchCheckEntitlements(request, timeout=10)
    return response


def use(tenant: str, feature: str, quantity: int, **more: object) -> Check:
    """A consuming check."""
    return Check(tenant_id=tenant, feature=feature, quantity=quantity, mode=CONSUME, **more)  # type: ignore[arg-type]


def test_everything_is_consumed_together(beside: Sidecar, tenant: str) -> None:
    """Metered, credits, a seat and a look, in one call and one admission."""
    response = atomic(
        beside,
        [
            use(tenant, "calls", 4),
            use(tenant, "gems", 30),
            use(tenant, "desks", 1, subject="ada"),
            Check(tenant_id=tenant, feature="sso"),
        ],
    )
    decisions = [one.decision for one in response.results]
    assert response.consumed
    assert [one.reason for one in decisions] == [*[Reason.WITHIN_LIMIT] * 3, Reason.ENABLED]
    assert [bool(one.consumption_id) for one in decisions] == [True, True, False, False]
    assert (beside.check(tenant, "calls").used, beside.check(tenant, "gems").remaining) == (4, 70)


def test_one_denial_consumes_nothing(beside: Sidecar, tenant: str) -> None:
    """The denied one says why; the others are answered as looks, without a consumption."""
    response = atomic(beside, [use(tenant, "gems", 10), use(tenant, "calls", 11), use(tenant, "capped", 1)])
    assert not response.consumed
    assert [one.decision.reason for one in response.results] == [
        *(Reason.WITHIN_LIMIT, Reason.EXCEEDS_LIMIT, Reason.WITHIN_LIMIT)
    ]
    assert not any(one.decision.consumption_id for one in response.results)
    assert [beside.check(tenant, name).used for name in ("gems", "calls", "capped")] == [0, 0, 0]


def test_two_uses_of_one_limit_count_together(beside: Sidecar, tenant: str) -> None:
    """6 and 6 of 10: each alone would fit."""
    response = atomic(beside, [use(tenant, "calls", 6), use(tenant, "calls", 6)])
    assert not response.consumed
    assert beside.check(tenant, "calls").used == 0


def test_a_batch_may_be_sent_again(beside: Sidecar, tenant: str) -> None:
    """The first answers, and nothing is consumed twice; a part of it, or with more, is a conflict."""
    checks = [use(tenant, "calls", 2, request_id="a"), use(tenant, "gems", 5, request_id="b")]
    first = atomic(beside, checks)
    assert atomic(beside, checks) == first
    assert beside.check(tenant, "calls").used == 2

    failed = failure(lambda: atomic(beside, [*checks, use(tenant, "calls", 1, request_id="c")]))
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "IDEMPOTENCY_CONFLICT")
    assert beside.check(tenant, "calls").used == 2


def test_a_malformed_check_consumes_nothing(beside: Sidecar, tenant: str) -> None:
    """It is answered in place, the others as looks."""
    response = atomic(beside, [use(tenant, "calls", 1), use(tenant, "", 1)])
    assert [one.WhichOneof("result") for one in response.results] == ["decision", "error"]
    assert not response.consumed
    assert beside.check(tenant, "calls").used == 0


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ([Check(tenant_id="other", feature="sso")], "checks[1].tenant_id"),
        ([use("T", "calls", 1, request_id="a")], "checks[1].request_id"),
        ([Check(tenant_id="T", feature="sso")] * 100, "checks"),
    ],
    ids=["tenants", "request ids", "size"],
)
def test_what_cannot_be_atomic_is_refused(
    beside: Sidecar, tenant: str, more: list[Check], field: str
) -> None:
    """Named by its place, and nothing is consumed."""
    checks = [use(tenant, "calls", 1, request_id="a")]
    for check in more:
        named = Check.FromString(check.SerializeToString())
        named.tenant_id = named.tenant_id.replace("T", tenant)
        checks.append(named)
    failed = failure(lambda: atomic(beside, checks))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == [field]
    assert beside.check(tenant, "calls").used == 0


def test_a_seat_is_taken_by_somebody(beside: Sidecar, tenant: str) -> None:
    """Without a subject nobody can hold it."""
    failed = failure(lambda: atomic(beside, [use(tenant, "desks", 1)]))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == ["subject"]
