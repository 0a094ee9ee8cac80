"""The client of the plan store's ingest, against a server that answers as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc.aio
import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Classification
from entitlement_sidecar.domain.errors import (
    EntitlementsError,
    ExhaustedError,
    InvalidInputError,
    SourceUnavailableError,
    UnauthenticatedError,
)
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.adapters.grpc_ingest import PlanStoreIngest
from entitlement_sidecar.sidecar.usage.outbox import Batch, SequencedEvent, SequenceRange
from entitlement_sidecar.wire.codec import event_to_proto, result_to_proto, to_duration
from entitlement_sidecar.wire.status import grpc_code, to_status, trailing_metadata
from entitlement_sidecar.wire.v1 import usage_pb2, usage_pb2_grpc
from support.usage import event

BATCH = Batch("i-1", 2, 3, (SequencedEvent.of(7, event("a")), SequencedEvent.of(8, event("b"))), 8)

Answer = Callable[[usage_pb2.IngestBatchRequest], usage_pb2.IngestBatchResponse]


class Server(usage_pb2_grpc.UsageIngestServiceServicer):
    """Answers by `answer`, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answer: Answer = accept
        self.requests: list[usage_pb2.IngestBatchRequest] = []
        self.authorization: object = None
        self.address = ""

    async def IngestBatch(  # noqa: N802 - the contract's name
        self, request: usage_pb2.IngestBatchRequest, context: grpc.aio.ServicerContext
    ) -> usage_pb2.IngestBatchResponse:
        """Answers a batch."""
        self.requests.append(request)
        self.authorization = dict(context.invocation_metadata() or ()).get("authorization")
        try:
            return self.answer(request)
        except EntitlementsError as error:
            status = to_status(error)
            await context.abort(grpc_code(status), status.message, trailing_metadata(status))
            raise


def accept(request: usage_pb2.IngestBatchRequest) -> usage_pb2.IngestBatchResponse:
    """Everything is stored."""
    results = [UsageResult(one.event.id, UsageOutcome.ACCEPTED) for one in request.events]
    return usage_pb2.IngestBatchResponse(results=[result_to_proto(result) for result in results])


@asynccontextmanager
async def counting_relay(target: str) -> AsyncIterator[tuple[str, list[int]]]:
    """An address that passes everything on, and how many bytes went to the target in each piece."""
    sent: list[int] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        back_reader, back_writer = await asyncio.open_connection(host, int(port))
        back = asyncio.create_task(relay(back_reader, writer))
        while piece := await reader.read(1 << 16):
            sent.append(len(piece))
            back_writer.write(piece)
            await back_writer.drain()
        back_writer.close()
        await back

    listening = await asyncio.start_server(join, "127.0.0.1", 0)
    async with listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}", sent


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """The plan store's side; `address` says where."""
    servicer = Server()
    running = grpc.aio.server()
    usage_pb2_grpc.add_UsageIngestServiceServicer_to_server(servicer, running)
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    servicer.address = f"127.0.0.1:{port}"
    yield servicer
    await running.stop(None)


@pytest.fixture
async def sink(server: Server) -> AsyncIterator[PlanStoreIngest]:
    """The sidecar's side."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield PlanStoreIngest(channel, "token-1")


async def test_a_batch_travels_whole(server: Server, sink: PlanStoreIngest) -> None:
    """With its identity, its order, its places and the bearer token."""
    receipt = await sink.send(BATCH)

    [request] = server.requests
    assert [result.outcome for result in receipt.results] == [UsageOutcome.ACCEPTED] * 2
    assert (request.instance, request.epoch, request.batch_id, request.accepted_total) == ("i-1", 2, 3, 8)
    assert [one.sequence for one in request.events] == [7, 8]
    assert [one.event for one in request.events] == [event_to_proto(event("a")), event_to_proto(event("b"))]
    assert server.authorization == "Bearer token-1"


async def test_the_servers_wish_to_slow_down(server: Server, sink: PlanStoreIngest) -> None:
    """Comes with the receipt, in seconds."""

    def slowly(request: usage_pb2.IngestBatchRequest) -> usage_pb2.IngestBatchResponse:
        response = accept(request)
        response.slow_down.CopyFrom(to_duration(1.5))
        return response

    server.answer = slowly

    assert (await sink.send(BATCH)).slow_down == 1.5


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (UnauthenticatedError("who?"), UnauthenticatedError),
        (InvalidInputError.of("events", "too many"), InvalidInputError),
        (ExhaustedError("busy", 2.0), ExhaustedError),
        (SourceUnavailableError("no database"), SourceUnavailableError),
    ],
)
async def test_refusals_keep_their_kind(
    server: Server, sink: PlanStoreIngest, raised: EntitlementsError, seen: type[EntitlementsError]
) -> None:
    """The shipper pauses, bisects or waits by the kind of the error."""

    def refuse(_: usage_pb2.IngestBatchRequest) -> usage_pb2.IngestBatchResponse:
        raise raised

    server.answer = refuse

    with pytest.raises(seen) as caught:
        await sink.send(BATCH)
    assert getattr(caught.value, "retry_after", None) == getattr(raised, "retry_after", None)


@pytest.mark.parametrize("ids", [["a"], ["b", "a"], ["a", "b", "c"], []])
async def test_an_answer_that_does_not_fit_is_none(
    server: Server, sink: PlanStoreIngest, ids: list[str]
) -> None:
    """Settling by a confused answer could lose events: the batch is sent again."""

    def confused(_: usage_pb2.IngestBatchRequest) -> usage_pb2.IngestBatchResponse:
        return usage_pb2.IngestBatchResponse(
            results=[usage_pb2.UsageResult(id=id_, outcome=1) for id_ in ids]
        )

    server.answer = confused

    with pytest.raises(SourceUnavailableError, match="other events"):
        await sink.send(BATCH)


@pytest.mark.parametrize("retriable", [False, True])
async def test_an_outcome_of_a_newer_server_is_no_settlement(
    server: Server, sink: PlanStoreIngest, *, retriable: bool
) -> None:
    """Nothing is lost and nothing held up: a dead letter that says why, or what the server wants again."""

    def newer(_: usage_pb2.IngestBatchRequest) -> usage_pb2.IngestBatchResponse:
        strange = usage_pb2.UsageResult(id="b", retriable=retriable, reason="said so")
        strange.outcome, strange.classification = 99, 98  # type: ignore[assignment]
        return usage_pb2.IngestBatchResponse(results=[usage_pb2.UsageResult(id="a", outcome=1), strange])

    server.answer = newer

    usual, strange = (await sink.send(BATCH)).results
    assert usual.outcome is UsageOutcome.ACCEPTED
    assert (strange.outcome, strange.retriable) == (UsageOutcome.INVALID, retriable)
    assert "outcome 99, which this version does not know" in strange.reason
    assert "said so" in strange.reason


async def test_what_a_judged_event_is_told(server: Server, sink: PlanStoreIngest) -> None:
    """The rule, the registry's version and the classification arrive."""
    told = UsageResult(
        "a",
        UsageOutcome.ACCEPTED,
        "why",
        rule="failed-work",
        registry_version=7,
        classification=Classification(2),
    )

    def judged(request: usage_pb2.IngestBatchRequest) -> usage_pb2.IngestBatchResponse:
        response = accept(request)
        response.results[0].CopyFrom(result_to_proto(told))
        return response

    server.answer = judged

    assert (await sink.send(BATCH)).results[0] == told


async def test_totals_and_places_travel_both_ways(server: Server, sink: PlanStoreIngest) -> None:
    """Dead letters and declared places go up; what the plan store misses comes down."""

    def missing(request: usage_pb2.IngestBatchRequest) -> usage_pb2.IngestBatchResponse:
        response = accept(request)
        response.missing.add(first=3, last=4)
        return response

    server.answer = missing
    batch = msgspec.structs.replace(BATCH, dead_total=2, declared=(SequenceRange(1, 2), SequenceRange(5, 5)))

    receipt = await sink.send(batch)

    [request] = server.requests
    assert receipt.missing == (SequenceRange(3, 4),)
    assert request.dead_total == 2
    assert [(one.first, one.last) for one in request.declared] == [(1, 2), (5, 5)]


async def test_batches_are_compressed(server: Server) -> None:
    """Usage is alike: a batch takes a small part of its size on the wire."""
    events = tuple(SequencedEvent.of(number, event(f"e{number}")) for number in range(1, 501))
    batch = msgspec.structs.replace(BATCH, events=events)

    async with (
        counting_relay(server.address) as (address, sent),
        grpc.aio.insecure_channel(address) as channel,
    ):
        await PlanStoreIngest(channel, "token-1").send(batch)

    assert sum(sent) < server.requests[0].ByteSize() / 4


async def test_a_plan_store_that_is_away(free_port: int) -> None:
    """Is a reason to try again, not to give up."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{free_port}") as channel:
        with pytest.raises(SourceUnavailableError):
            await PlanStoreIngest(channel, "t").send(BATCH)
