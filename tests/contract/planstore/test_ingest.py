"""UsageIngestService, on both databases, through grpcio-testing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc_testing
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.planstore.db import Database, create_engine_for
from entitlement_sidecar.planstore.ingest.servicer import UsageIngestServicer
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.queries import usage_summary
from entitlement_sidecar.wire.v1 import usage_pb2
from support.ingesting import sent_event as event

SERVICE = usage_pb2.DESCRIPTOR.services_by_name["UsageIngestService"]

Ingest = Callable[..., Any]


def batch(*events: usage_pb2.UsageEvent, instance: str = "i-1") -> usage_pb2.IngestBatchRequest:
    """A batch of one sidecar."""
    return usage_pb2.IngestBatchRequest(
        instance=instance,
        epoch=1,
        batch_id=1,
        events=[
            usage_pb2.SequencedEvent(sequence=sequence, event=one) for sequence, one in enumerate(events, 1)
        ],
    )


def caller(servicer: UsageIngestServicer) -> Ingest:
    """Calls IngestBatch; answers (response, code, details)."""
    server = grpc_testing.server_from_dictionary({SERVICE: servicer}, grpc_testing.strict_real_time())

    def call(request: usage_pb2.IngestBatchRequest) -> Any:
        method = SERVICE.methods_by_name["IngestBatch"]
        response, _, code, details = server.invoke_unary_unary(method, {}, request, None).termination()
        return response, code, details

    return call


@pytest.fixture
def ingest(shop: Any) -> Ingest:
    """The service over a shop with one tenant."""
    shop.subscribe()
    return caller(UsageIngestServicer(shop.database, Ledger(limits_of), shop.clock))


def outcomes(response: usage_pb2.IngestBatchResponse) -> list[tuple[str, int]]:
    """Ids and outcomes in order."""
    return [(result.id, result.outcome) for result in response.results]


def test_a_batch_is_settled(shop: Any, ingest: Ingest) -> None:
    """One outcome per event, in order; sending it again gets duplicates and counts nothing."""
    request = batch(event("a"), event("b", value=4))

    first, code, _ = ingest(request)
    again, _, _ = ingest(request)

    with shop.database.reading() as session:
        [total] = usage_summary(session, "acme")
    assert code is grpc.StatusCode.OK
    assert outcomes(first) == [
        ("a", usage_pb2.USAGE_OUTCOME_ACCEPTED),
        ("b", usage_pb2.USAGE_OUTCOME_ACCEPTED),
    ]
    assert {outcome for _, outcome in outcomes(again)} == {usage_pb2.USAGE_OUTCOME_DUPLICATE}
    assert (total.value, total.event_count) == (5, 2)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (event(""), "id"),
        (event("x" * 129), "id"),
        (event("x", tenant_id=""), "tenant_id"),
        (event("x", tenant_id="no spaces"), "tenant_id"),
        (event("x", metric=""), "metric"),
        (event("x", value=-1), "value"),
        (event("x", value=2**53), "value"),
        (event("x", subject="nul\0"), "subject"),
        (event("x", occurred_at=None), "occurred_at"),
        (event("x", recorded_at=None), "recorded_at"),
        (event("x", occurred_at=Timestamp(seconds=-1)), "occurred_at"),
        (event("x", occurred_at=Timestamp(seconds=253_402_300_799)), "occurred_at"),
        (event("x", occurred_at=Timestamp(seconds=2**62)), "occurred_at"),
        (event("x", classification=77), "event"),
        (event("x", dimensions={f"k{number}": "v" for number in range(17)}), "dimensions"),
        (event("x", dimensions={"nul": "\0"}), "dimensions"),
        (event("x", dimensions={"nul\0": "v"}), "dimensions"),
    ],
)
def test_a_malformed_event_never_fails_its_neighbours(
    ingest: Ingest, bad: usage_pb2.UsageEvent, field: str
) -> None:
    """It is INVALID, for good, and the reason names the field."""
    response, code, _ = ingest(batch(event("before"), bad, event("after")))

    before, invalid, after = response.results
    assert code is grpc.StatusCode.OK
    assert before.outcome == after.outcome == usage_pb2.USAGE_OUTCOME_ACCEPTED
    assert (invalid.outcome, invalid.retriable) == (usage_pb2.USAGE_OUTCOME_INVALID, False)
    assert invalid.id == bad.id
    assert invalid.reason.startswith(f"{field}")


def test_an_unknown_metric_is_told(ingest: Ingest) -> None:
    """It is settled for the sidecar: the plan store keeps it until a catalogue names the metric."""
    response, _, _ = ingest(batch(event("a", metric="faxes")))

    [result] = response.results
    assert (result.outcome, result.retriable) == (usage_pb2.USAGE_OUTCOME_QUARANTINED, False)
    assert (result.rule, result.registry_version) == ("usage:metric", 1)
    assert "faxes" in result.reason


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (batch(event("a"), instance=""), "instance"),
        (batch(event("a"), instance="x" * 129), "instance"),
        (batch(), "events"),
        (batch(*[event("a")] * 5001), "events"),
    ],
    ids=["no instance", "long instance", "no events", "too many events"],
)
def test_a_batch_refused_as_a_whole(
    ingest: Ingest, request_: usage_pb2.IngestBatchRequest, field: str
) -> None:
    """INVALID_ARGUMENT names the field."""
    _, code, details = ingest(request_)

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(field)


def test_a_database_that_is_away(shop: Any, tmp_path: Any) -> None:
    """Is UNAVAILABLE, which the sidecar waits out; nothing of the database shows."""
    away = Database(create_engine_for(f"sqlite:///{tmp_path}/no/such/folder.db"))
    call = caller(UsageIngestServicer(away, Ledger(limits_of), shop.clock))

    _, code, details = call(batch(event("a")))

    away.close()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert details == "the plan store's database is away or busy"
