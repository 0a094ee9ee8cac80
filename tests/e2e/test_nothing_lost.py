"""Accepted means kept (C3): the plan store away, the sidecar killed, and each acked event arrives once."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.wire.v1 import usage_pb2
from support.processes import Planstore, Sidecar
from support.waiting import until

EVENTS = 10_000
BATCH = 100


def events(first: int) -> list[usage_pb2.UsageEvent]:
    return [
        usage_pb2.UsageEvent(
            id=f"e{number}", tenant_id="acme", metric="exports", value=1, correlation_id=f"c{number}"
        )
        for number in range(first, first + BATCH)
    ]


def test_ten_thousand_events_survive_two_kills_and_an_outage(
    planstore: Callable[..., Planstore], sidecar: Callable[..., Sidecar]
) -> None:
    """Events that were not acked are sent again with the same ids, as a service would."""
    store = planstore()
    store.subscribe("acme", "large")
    beside = sidecar(store)
    store.kill()

    acked: set[str] = set()
    first = 0
    kills = {EVENTS // 3, 2 * EVENTS // 3}
    while first < EVENTS:
        if kills and first >= min(kills):
            kills.remove(min(kills))
            # The kill lands while a report may be under way.
            call = _report_async(beside, events(first))
            beside.kill()
            _ended(call)
            beside.start()
        for result in beside.report(events(first)):
            assert result.outcome in {UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE}, result
            acked.add(result.id)
        first += BATCH
    assert len(acked) == EVENTS

    store.start()

    def stored() -> bool:
        rows = store.usage("acme")["usage"]
        return sum(row["event_count"] for row in rows if row["metric"] == "exports") >= EVENTS

    until(stored, "every event to reach the ledger", timeout=60)
    [row] = [row for row in store.usage("acme")["usage"] if row["metric"] == "exports"]
    assert (row["event_count"], row["value"]) == (EVENTS, EVENTS)
    until(lambda: beside.metric("entitlement_outbox_events") == 0, "the outbox to be empty")


def _report_async(beside: Sidecar, batch: list[usage_pb2.UsageEvent]) -> grpc.Future:
    from entitlement_sidecar.wire.v1 import usage_pb2_grpc  # noqa: PLC0415 - used here alone

    stub = usage_pb2_grpc.UsageServiceStub(beside.channel)
    future: grpc.Future = stub.ReportUsage.future(usage_pb2.ReportUsageRequest(events=batch), timeout=10)
    return future


def _ended(call: grpc.Future) -> None:
    """Whether it was answered or cut does not matter here."""
    call.exception(timeout=15)
