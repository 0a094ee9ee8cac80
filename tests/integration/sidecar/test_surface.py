"""What stands around the calls: every RPC, health, reflection, probes and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from entitlement_sidecar.wire.v1 import decision_pb2, usage_pb2, usage_pb2_grpc
from support.failures import failure
from support.processes import Sidecar
from support.waiting import until

SERVICES = [
    decision_pb2.DESCRIPTOR.services_by_name["EntitlementService"],
    usage_pb2.DESCRIPTOR.services_by_name["UsageService"],
]
RPCS = [
    pytest.param(f"/{service.full_name}/{method.name}", method.server_streaming, id=method.name)
    for service in SERVICES
    for method in service.methods
]


@pytest.mark.parametrize(("path", "streams"), RPCS)
def test_every_rpc_of_the_contract_is_built(beside: Sidecar, path: str, streams: bool) -> None:
    """Asked nothing at all, it names what is wrong: never an empty answer."""

    def call() -> list[bytes]:
        if streams:
            return list(beside.channel.unary_stream(path)(b"", timeout=10))
        return [beside.channel.unary_unary(path)(b"", timeout=10)]

    failed = failure(call)
    assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")


def test_reservations_need_a_plan_store(beside: Sidecar) -> None:
    """A sidecar that runs from a file says so, instead of holding what nobody else would know of."""
    stub = usage_pb2_grpc.UsageServiceStub(beside.channel)
    asked = usage_pb2.ReserveRequest(tenant_id="t0", feature="tasks", reservation_id="r", quantity=1)

    failed = failure(lambda: stub.Reserve(asked, timeout=10))

    assert (failed.code, failed.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED")
    assert "--planstore" in failed.message


def test_what_nobody_knows_is_answered_with_what_is_served(beside: Sidecar) -> None:
    """Also an RPC of the plan store, which a sidecar does not serve."""
    for path in ("/entitlement.v1.QuotaService/Consume", "/nothing.of/TheKind"):
        failed = failure(lambda path=path: beside.channel.unary_unary(path)(b"", timeout=10))
        assert failed.code is grpc.StatusCode.UNIMPLEMENTED
        assert path in failed.message
        assert "entitlement.v1.EntitlementService" in failed.message


@pytest.mark.parametrize("name", ["", *(service.full_name for service in SERVICES)])
def test_health(beside: Sidecar, name: str) -> None:
    """Each service is SERVING by its name, and the whole by none."""
    stub = health_pb2_grpc.HealthStub(beside.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(beside: Sidecar) -> None:
    """Tools find the contract through the one port."""

    def ask() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    stub = reflection_pb2_grpc.ServerReflectionStub(beside.channel)
    [answer] = stub.ServerReflectionInfo(ask(), timeout=10)
    names = {service.name for service in answer.list_services_response.service}
    assert {service.full_name for service in SERVICES} <= names


def test_probes(beside: Sidecar) -> None:
    """Alive; ready with what it holds, and degraded only until the file's first beat."""
    assert beside.http("/livez").status_code == 200
    until(lambda: not json.loads(beside.http("/readyz").text)["degraded"], "the first beat")
    answer = beside.http("/readyz")
    assert answer.status_code == 200
    state = answer.json()
    assert (state["ready"], state["draining"], state["catalogue_version"]) == (True, False, 1)
    assert state["tenants_held"] >= 400
    assert beside.http("/nothing").status_code == 404


def test_metrics_count_what_happened(beside: Sidecar, tenant: str) -> None:
    """Decisions by reason, calls that failed, events in the outbox."""
    decisions, failed = beside.metric("entitlement_decisions_total"), beside.metric(FAILED)
    beside.check(tenant, "sso")
    failure(lambda: beside.check("", "sso"))
    assert beside.metric("entitlement_decisions_total") == decisions + 1
    assert beside.metric(FAILED) == failed + 1
    beside.consume(tenant, "tokens")
    until(lambda: beside.metric("entitlement_outbox_events") > 0, "the outbox to be measured")
    text = beside.http("/metrics").text
    assert "# HELP entitlement_decisions_total" in text
    assert tenant not in text


FAILED = "entitlement_calls_failed_total"
