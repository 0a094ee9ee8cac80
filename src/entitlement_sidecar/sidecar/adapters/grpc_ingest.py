"""The plan store's ingest, over gRPC."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.sidecar.usage.outbox import Batch
from entitlement_sidecar.sidecar.usage.shipper import Receipt
from entitlement_sidecar.wire.codec import event_to_proto, from_duration, result_from_proto
from entitlement_sidecar.wire.status import from_rpc_error
from entitlement_sidecar.wire.v1 import usage_pb2, usage_pb2_grpc

TIMEOUT = 30.0
"""Seconds that a batch may take. Nobody waits for it, and one that was cut off is done twice."""

_STRETCH = 50
"""Events to translate before others get their turn on the event loop."""


class PlanStoreIngest:
    """Sends batches to a plan store. Implements `UsageSink`."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub = usage_pb2_grpc.UsageIngestServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def send(self, batch: Batch) -> Receipt:
        """Settles a batch.

        Raises:
            EntitlementsError: As `UsageSink.send` says; an answer that does not fit the batch counts as none.
        """
        request = await _request(batch)
        try:
            response = await self._stub.IngestBatch(request, timeout=TIMEOUT, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return _receipt(batch, response)


async def _request(batch: Batch) -> usage_pb2.IngestBatchRequest:
    request = usage_pb2.IngestBatchRequest(
        instance=batch.instance,
        epoch=batch.epoch,
        batch_id=batch.batch_id,
        accepted_total=batch.accepted_total,
    )
    for number, one in enumerate(batch.events, 1):
        request.events.add(sequence=one.sequence, event=event_to_proto(one.event))
        if number % _STRETCH == 0:
            await asyncio.sleep(0)
    return request


def _receipt(batch: Batch, response: usage_pb2.IngestBatchResponse) -> Receipt:
    try:
        results = tuple(result_from_proto(result) for result in response.results)
    except ValueError as error:
        raise SourceUnavailableError(
            f"the plan store answered with an outcome unknown here: {error}"
        ) from error
    if [result.id for result in results] != [one.event.id for one in batch.events]:
        raise SourceUnavailableError("the plan store answered for other events than were sent")
    slow_down = from_duration(response.slow_down) if response.HasField("slow_down") else 0.0
    return Receipt(results, slow_down)
