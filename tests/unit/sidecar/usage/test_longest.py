"""What a sidecar takes at its longest, ingest takes too: what was acked is not refused for its form."""

from __future__ import annotations

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, CatalogueDocument
from entitlement_sidecar.planstore.ingest.arrivals import read_arrival
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.sidecar.rpc.usage_requests import parse_correction
from entitlement_sidecar.sidecar.usage.corrections import Corrections
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from entitlement_sidecar.wire.codec import event_to_proto
from entitlement_sidecar.wire.fields import MAX_NAME, MAX_REASON, MAX_REQUEST_ID
from entitlement_sidecar.wire.v1 import usage_pb2
from support.usage import next_batch

CATALOGUE = CatalogueDocument(1, {}, {})
ID, NAME = "i" * MAX_REQUEST_ID, "n" * MAX_NAME


async def arrivals(outbox: MemoryOutbox) -> list[object]:
    """What ingest makes of the events that are held."""
    batch = await next_batch(outbox, 10, 1 << 20)
    assert batch is not None
    request = usage_pb2.IngestBatchRequest(instance=batch.instance, epoch=batch.epoch)
    items = (
        usage_pb2.SequencedEvent(sequence=one.sequence, event=event_to_proto(one.event))
        for one in batch.events
    )
    return [read_arrival(request, item) for item in items]


async def test_an_event_as_long_as_it_may_be() -> None:
    """Every text and number of it, of a metric that no catalogue names."""
    outbox = MemoryOutbox()
    reporter = UsageReporter(outbox, lambda: CATALOGUE, FakeClock(), "i-1")
    dimensions = {f"{number:064}": NAME for number in range(16)}
    await reporter.report(
        [
            usage_pb2.UsageEvent(
                id=ID,
                tenant_id="t" * 128,
                metric="m" * 64,
                value=MAX_QUANTITY,
                consumption_id=ID,
                dimensions=dimensions,
                unit=NAME,
                actor_id=NAME,
                correlation_id=NAME,
                emitter=NAME,
                subject=NAME,
            )
        ]
    )

    [arrival] = await arrivals(outbox)

    assert isinstance(arrival, Arrival), arrival


async def test_a_correction_as_long_as_it_may_be() -> None:
    """Its reason is the longest of all texts."""
    outbox = MemoryOutbox()
    request = usage_pb2.CorrectUsageRequest(
        tenant_id="t" * 128, original_id=ID, reason="r" * MAX_REASON, request_id=ID, actor_id=NAME
    )
    corrections = Corrections(outbox, lambda: CATALOGUE, FakeClock(), "i-1")
    await corrections.correct(parse_correction(request))

    [arrival] = await arrivals(outbox)

    assert isinstance(arrival, Arrival), arrival
