"""UsageIngestService: parse, call, map. The ledger decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import InvalidInputError, SourceUnavailableError
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.planstore.access import require_tenant
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.db.away import AWAY
from entitlement_sidecar.planstore.ingest.arrivals import read_arrival
from entitlement_sidecar.planstore.usage.ledger import Arrival, Ledger
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import result_to_proto
from entitlement_sidecar.wire.status import abort
from entitlement_sidecar.wire.v1 import usage_pb2, usage_pb2_grpc

MAX_BATCH = 5000
"""Events in one batch at most; sidecars send 500."""

MAX_INSTANCE = 128
"""Characters of a sidecar's instance."""

RETRY_AFTER = 1.0
"""Seconds after which a sidecar may try again when the database is away."""


class UsageIngestServicer(usage_pb2_grpc.UsageIngestServiceServicer):
    """Settles batches."""

    def __init__(self, database: Database, ledger: Ledger, clock: Clock) -> None:
        self._database = database
        self._ledger = ledger
        self._clock = clock

    def IngestBatch(  # noqa: N802 - the contract's name
        self, request: usage_pb2.IngestBatchRequest, context: grpc.ServicerContext
    ) -> usage_pb2.IngestBatchResponse:
        """Every event gets an outcome; sending the batch again gets DUPLICATE."""
        try:
            with metrics.ingest_seconds.time():
                results = self.ingest(request)
        except Exception as error:  # noqa: BLE001 - every error has a status
            abort(context, error)
        for result in results:
            metrics.ingested_events.labels(result.outcome.name).inc()
        return usage_pb2.IngestBatchResponse(results=[result_to_proto(result) for result in results])

    def ingest(self, request: usage_pb2.IngestBatchRequest) -> list[UsageResult]:
        """Settles one batch in one transaction.

        Raises:
            InvalidInputError: The batch as a whole is malformed.
            ForbiddenError: The token is for other tenants than those of the batch.
            SourceUnavailableError: The database is away, or there is no catalogue to judge by yet.
        """
        if not 1 <= len(request.instance) <= MAX_INSTANCE or "\0" in request.instance:
            raise InvalidInputError.of("instance", f"expected 1 to {MAX_INSTANCE} characters")
        if not 1 <= len(request.events) <= MAX_BATCH:
            raise InvalidInputError.of("events", f"expected 1 to {MAX_BATCH}, got {len(request.events)}")
        # The whole batch: an event that was accepted stays with its sidecar until the token is right.
        for tenant_id in {item.event.tenant_id for item in request.events}:
            require_tenant(tenant_id)
        judged = [read_arrival(request, item) for item in request.events]
        arrivals = [item for item in judged if isinstance(item, Arrival)]
        with _database_away(), self._database.writing() as session:
            stored = iter(self._ledger.append(session, arrivals, self._clock.now()))
        return [item if isinstance(item, UsageResult) else next(stored) for item in judged]


@contextmanager
def _database_away() -> Iterator[None]:
    """A database that is away, busy, or ended this batch to end a deadlock: the batch comes again."""
    try:
        yield
    except AWAY as error:
        raise SourceUnavailableError("the plan store's database is away or busy", RETRY_AFTER) from error
