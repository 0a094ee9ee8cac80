"""The pipeline of usage in one process: a sidecar's outbox and shipper, the plan store's ingest and ledger.

Between the two is a wire that a test breaks, batch by batch. All is real but the network and the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.planstore.catalogue.plans import current_document
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.ingest.servicer import UsageIngestServicer
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.quarantine import Quarantine, QuarantineFilter, QuarantineQuery
from entitlement_sidecar.sidecar.adapters.grpc_ingest import _receipt, _request
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import SqliteOutbox
from entitlement_sidecar.sidecar.usage.corrections import Correction, Corrections
from entitlement_sidecar.sidecar.usage.delivery import Receipt
from entitlement_sidecar.sidecar.usage.outbox import Batch, OutboxStats
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.sidecar.usage.shipper import Shipper
from entitlement_sidecar.wire.codec import result_to_proto
from entitlement_sidecar.wire.v1 import usage_pb2
from support.shop import Shop

LOST, IN_PART, UNANSWERED, TWICE, LATE, ON = "lost", "in part", "unanswered", "twice", "late", "on"
FATES = (ON, ON, TWICE, LATE, UNANSWERED, IN_PART, LOST)
"""What may become of a batch."""

SMALL = 3
"""Events of a batch: few, so that there are many."""

Heard = Callable[[usage_pb2.IngestBatchRequest, Iterable[UsageResult]], None]
Answered = Callable[[Iterable[UsageResult]], None]


class PlanStoreEnd:
    """Ingest on a database. Made anew, it is a plan store that was restarted."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self._ledger = Ledger(limits_of)
        self._ingest = UsageIngestServicer(shop.database, self._ledger, shop.clock)

    @property
    def database(self) -> Database:
        """What it keeps."""
        return self.shop.database

    def catalogue(self) -> CatalogueDocument:
        """The one in force."""
        with self.database.reading() as session:
            return current_document(session)

    def settle(self, request: usage_pb2.IngestBatchRequest) -> usage_pb2.IngestBatchResponse:
        """Settles a batch, as the servicer does."""
        results, missing = self._ingest.ingest(request)
        return usage_pb2.IngestBatchResponse(
            results=[result_to_proto(result) for result in results],
            missing=[usage_pb2.SequenceRange(first=first, last=last) for first, last in missing],
        )

    def replay(self) -> None:
        """Judges again what is in quarantine."""
        with self.database.writing() as session:
            query = QuarantineQuery(QuarantineFilter(), None, 1000)
            Quarantine(self._ledger).replay(session, query, self.shop.clock.now())


class Wire:
    """Brings batches to the plan store, or not. Implements `UsageSink`.

    `heard` is told each batch that arrives, with its outcomes; `answered` each answer that comes back.
    """

    def __init__(self, heard: Heard, answered: Answered) -> None:
        self.fates: list[str] = []
        self._heard = heard
        self._answered = answered
        self._late: list[usage_pb2.IngestBatchRequest] = []
        self.end: PlanStoreEnd | None = None

    async def send(self, batch: Batch) -> Receipt:
        """One batch, and what is next among `fates` becomes of it; all is well when there is none."""
        request, fate = await _request(batch), self.fates.pop(0) if self.fates else ON
        if fate == LOST:
            raise SourceUnavailableError("lost on the way there")
        if fate == IN_PART:
            del request.events[(len(request.events) + 1) // 2 :]
            self._arrive(request)
            raise SourceUnavailableError("cut off on the way there")
        response = self._arrive(request)
        if fate == TWICE:
            response = self._arrive(request)
        if fate == LATE:
            self._late.append(request)
        if fate == UNANSWERED:
            raise SourceUnavailableError("lost on the way back")
        receipt = await _receipt(batch, response)
        self._answered(receipt.results)
        return receipt

    def deliver_late(self) -> None:
        """What was under way for long arrives at last, again; the newest first."""
        while self._late:
            self._arrive(self._late.pop())

    def _arrive(self, request: usage_pb2.IngestBatchRequest) -> usage_pb2.IngestBatchResponse:
        assert self.end is not None
        response = self.end.settle(request)
        self._heard(request, response.results)
        return response


class SidecarEnd:
    """An outbox in a folder, what fills it and what empties it. Made anew, it is a sidecar restarted."""

    def __init__(self, folder: Path, shop: Shop, wire: Wire, document: CatalogueDocument) -> None:
        self.document = document
        self._shop = shop
        self._wire = wire
        self._outbox = SqliteOutbox(folder, clock=shop.clock)
        self._reporter = UsageReporter(self._outbox, lambda: self.document, shop.clock, "beside")
        self._corrections = Corrections(self._outbox, lambda: self.document, shop.clock, "beside")

    async def report(self, events: list[usage_pb2.UsageEvent]) -> list[UsageResult]:
        """ReportUsage."""
        return await self._reporter.report(events)

    async def correct(self, correction: Correction) -> UsageResult:
        """CorrectUsage."""
        return await self._corrections.correct(correction)

    async def ship(self, fates: Iterable[str]) -> None:
        """Ships until nothing is left, or a batch has failed."""
        self._wire.fates = list(fates)
        shipper = Shipper(self._outbox, self._wire, self._shop.clock, sleep=self._sleep, max_events=SMALL)
        await shipper.drain(60)

    async def _sleep(self, seconds: float) -> None:
        """Time passes at once: what waits for a second of rollups to end waits for no clock but this one."""
        self._shop.clock.advance(seconds)
        await asyncio.sleep(0)

    async def stats(self) -> OutboxStats:
        """Its totals."""
        return await self._outbox.stats()

    async def close(self) -> None:
        """Lets go of the folder: what was acknowledged is in it."""
        await self._outbox.close()
