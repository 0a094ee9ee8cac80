"""The plan store's ingest, over gRPC."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import msgspec

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.delivery import Receipt
from entitlement_sidecar.sidecar.usage.outbox import Batch, SequenceRange
from entitlement_sidecar.wire.codec import from_duration, result_from_proto
from entitlement_sidecar.wire.status import from_rpc_error
from entitlement_sidecar.wire.v1 import types_pb2, usage_pb2, usage_pb2_grpc

TIMEOUT = 30.0
"""Seconds that a batch may take. Nobody waits for it, and one that was cut off is done twice."""

_STRETCH = 50
"""Events to translate before others get their turn on the event loop."""


class PlanStoreIngest:
    """Sends batches to a plan store, compressed. Implements `UsageSink`."""

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
            response = await self._stub.IngestBatch(
                request, timeout=TIMEOUT, metadata=self._metadata, compression=grpc.Compression.Gzip
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return await _receipt(batch, response)


async def _request(batch: Batch) -> usage_pb2.IngestBatchRequest:
    request = usage_pb2.IngestBatchRequest(
        instance=batch.instance,
        epoch=batch.epoch,
        batch_id=batch.batch_id,
        accepted_total=batch.accepted_total,
        dead_total=batch.dead_total,
        declared=[usage_pb2.SequenceRange(first=one.first, last=one.last) for one in batch.declared],
    )
    for number, one in enumerate(batch.events, 1):
        request.events.add(sequence=one.sequence, event=one.message)
        if number % _STRETCH == 0:
            await asyncio.sleep(0)
    return request


async def _receipt(batch: Batch, response: usage_pb2.IngestBatchResponse) -> Receipt:
    if [result.id for result in response.results] != [one.message.id for one in batch.events]:
        raise SourceUnavailableError("the plan store answered for other events than were sent")
    results = []
    for number, result in enumerate(response.results, 1):
        results.append(_result(result))
        if number % _STRETCH == 0:
            await asyncio.sleep(0)
    slow_down = from_duration(response.slow_down) if response.HasField("slow_down") else 0.0
    missing = tuple(SequenceRange(one.first, one.last) for one in response.missing)
    return Receipt(tuple(results), slow_down, missing)


def _result(message: usage_pb2.UsageResult) -> UsageResult:
    """An outcome, also one that only a newer plan store knows.

    Whether such an event counts there cannot be known here. To settle it could lose it, and to send it until
    this version is replaced would hold up everything behind it: it becomes a dead letter, which is kept,
    shown and sent again on demand, and counts once whatever became of it.
    """
    if message.classification not in types_pb2.Classification.values():
        message.classification = types_pb2.CLASSIFICATION_UNSPECIFIED
    if message.outcome in _OUTCOMES:
        return result_from_proto(message)
    reason = (
        f"the plan store answered with outcome {message.outcome}, which this version does not know: upgrade "
        f"the sidecar and replay its dead letters ({message.reason or 'no reason given'})"
    )
    message.outcome = usage_pb2.USAGE_OUTCOME_INVALID
    return msgspec.structs.replace(result_from_proto(message), reason=reason)


_OUTCOMES = frozenset(int(outcome) for outcome in UsageOutcome)
