"""UsageIngestService: parse, call, map. The ledger decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.planstore.access import require_tenant
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.db.away import AWAY
from entitlement_sidecar.planstore.ingest.arrivals import read_arrival
from entitlement_sidecar.planstore.ingest.batches import check_batch, delivery_of
from entitlement_sidecar.planstore.ingest.load import IngestLoad
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.ranges import Range
from entitlement_sidecar.planstore.usage.sources import settle
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import result_to_proto, to_duration
from entitlement_sidecar.wire.status import abort
from entitlement_sidecar.wire.v1 import usage_pb2, usage_pb2_grpc

RETRY_AFTER = 1.0
"""Seconds after which a sidecar may try again when the database is away."""


class UsageIngestServicer(usage_pb2_grpc.UsageIngestServiceServicer):
    """Settles batches."""

    def __init__(
        self, database: Database, ledger: Ledger, clock: Clock, load: IngestLoad | None = None
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._clock = clock
        self._load = load or IngestLoad()

    def IngestBatch(  # noqa: N802 - the contract's name
        self, request: usage_pb2.IngestBatchRequest, context: grpc.ServicerContext
    ) -> usage_pb2.IngestBatchResponse:
        """Every event gets an outcome; sending the batch again gets DUPLICATE."""
        try:
            with self._load.admitted(), metrics.ingest_seconds.time():
                results, missing = self.ingest(request)
        except Exception as error:  # noqa: BLE001 - every error has a status
            abort(context, error)
        for outcome, number in Counter(result.outcome for result in results).items():
            metrics.ingested_events.labels(outcome.name).inc(number)
        slow_down = self._load.slow_down
        return usage_pb2.IngestBatchResponse(
            results=[result_to_proto(result) for result in results],
            missing=[usage_pb2.SequenceRange(first=first, last=last) for first, last in missing],
            slow_down=to_duration(slow_down) if slow_down else None,
        )

    def ingest(self, request: usage_pb2.IngestBatchRequest) -> tuple[list[UsageResult], list[Range]]:
        """Settles one batch in one transaction: its outcomes, and what before it never came.

        Raises:
            InvalidInputError: The batch as a whole is malformed.
            ForbiddenError: The token is for other tenants than those of the batch.
            SourceUnavailableError: The database is away, or there is no catalogue to judge by yet.
        """
        check_batch(request)
        # The whole batch: an event that was accepted stays with its sidecar until the token is right.
        for tenant_id in {item.event.tenant_id for item in request.events}:
            require_tenant(tenant_id)
        read = [read_arrival(request, item) for item in request.events]
        arrivals = [item for item in read if isinstance(item, Arrival)]
        with _database_away(), self._database.writing() as session:
            now = self._clock.now()
            stored = iter(self._ledger.append(session, arrivals, now))
            results = [item if isinstance(item, UsageResult) else next(stored) for item in read]
            # Last, since the batches of one source wait for each other from here on.
            missing = settle(session, delivery_of(request, results), now)
        return results, missing


@contextmanager
def _database_away() -> Iterator[None]:
    """A database that is away, busy, or ended this batch to end a deadlock: the batch comes again."""
    try:
        yield
    except AWAY as error:
        raise SourceUnavailableError("the plan store's database is away or busy", RETRY_AFTER) from error
