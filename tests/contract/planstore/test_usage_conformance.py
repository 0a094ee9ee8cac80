"""Every case of usage against the plan store's ingest, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc_testing
import pytest
from sqlalchemy import func, select

from entitlement_sidecar.domain.catalogue import Classification
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.planstore.db import (
    Database,
    UsageClassificationRow,
    UsageEventRow,
    UsageLedgerRow,
)
from entitlement_sidecar.planstore.ingest.servicer import UsageIngestServicer
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.wire.codec import result_from_proto
from entitlement_sidecar.wire.v1 import usage_pb2
from support.shop import Shop
from support.usage_cases import FILES, Arriving, UsageCase, told, usage_concept

SERVICE = usage_pb2.DESCRIPTOR.services_by_name["UsageIngestService"]


class Ingesting:
    """Ships events one by one, as the sidecar of each case."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        servicer = UsageIngestServicer(shop.database, Ledger(limits_of), shop.clock)
        self._server = grpc_testing.server_from_dictionary(
            {SERVICE: servicer}, grpc_testing.strict_real_time()
        )

    def settle(self, case: UsageCase, sequence: int, arriving: Arriving) -> UsageResult:
        """The outcome of one event."""
        clock = self.shop.clock
        clock.jump((arriving.at - clock.now()).total_seconds())
        event = usage_pb2.SequencedEvent(sequence=sequence, event=arriving.message)
        request = usage_pb2.IngestBatchRequest(
            instance=case.tenant_id, epoch=1, batch_id=sequence, events=[event], accepted_total=sequence
        )
        method = SERVICE.methods_by_name["IngestBatch"]
        call = self._server.invoke_unary_unary(method, {}, request, None)
        response, _, _, details = call.termination()
        assert response is not None, details
        return result_from_proto(response.results[0])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ingest(database: Database, path: Path) -> None:
    """The outcome, what usage adds up to, and what earlier events are in the end."""
    whole, ingesting = usage_concept(path), Ingesting(Shop(database))
    ingesting.shop.apply(whole.text)
    for case in whole.cases:
        arriving = [*case.before(), case.event()]
        *_, result = [ingesting.settle(case, number, one) for number, one in enumerate(arriving, 1)]
        assert told(result) == case.expected(at_sidecar=False), f"{case.name}: {result.reason}"
        assert _sums(database, case) == case.raw.get("adds_up_to", _sums(database, case)), case.name
        expected = case.raw.get("classified", {})
        assert {id_: _classified(database, case, id_) for id_ in expected} == expected, case.name


def _sums(database: Database, case: UsageCase) -> dict[str, int]:
    row, metric = UsageLedgerRow, case.raw.get("of") or case.raw["event"].get("metric")
    query = select(row.classification, func.sum(row.value))
    mine = query.where(row.tenant_id == case.tenant_id, row.metric == metric, row.event_count > 0)
    with database.reading() as session:
        found = session.execute(mine.group_by(row.classification))
        return {Classification(number).name: int(value) for number, value in found}


def _classified(database: Database, case: UsageCase, event_id: str) -> dict[str, Any]:
    """What an event is: its last classification, else the one that it arrived with."""
    with database.reading() as session:
        for row in (UsageClassificationRow, UsageEventRow):
            query = select(row.classification, row.rule).where(
                row.tenant_id == case.tenant_id, row.event_id == event_id
            )
            found = session.execute(query.order_by(row.id.desc())).first()
            if found is not None:
                rule = {"rule": found.rule} if found.rule else {}
                return {"classification": Classification(found.classification).name, **rule}
    return {}
