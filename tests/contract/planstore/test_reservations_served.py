"""Reservations as an application meets them: the sidecar's calls, to a plan store on either database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest
from entitlement_sidecar.domain.errors import (
    ConflictError,
    ForbiddenError,
    IdempotencyConflictError,
    InvalidInputError,
    NotFoundError,
    SourceUnavailableError,
    UnsupportedError,
)
from entitlement_sidecar.domain.usage import UsageEvent, UsageResult
from entitlement_sidecar.planstore.api.quota_check import QuotaChecks
from entitlement_sidecar.planstore.api.rpc_quotas import QuotaServicer
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.sidecar.adapters.grpc_reservations import PlanStoreReservations
from entitlement_sidecar.sidecar.rpc.permit import Permit
from entitlement_sidecar.sidecar.rpc.reservations import ReservationServicer
from entitlement_sidecar.sidecar.usage.corrections import Corrections
from entitlement_sidecar.sidecar.usage.pseudonyms import Pseudonyms
from entitlement_sidecar.sidecar.usage.reservations import NoReservations, Reservations
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from entitlement_sidecar.wire.v1 import decision_pb2, quota_pb2_grpc, usage_pb2
from support.shop import CATALOGUE, Shop
from support.usage import next_batch

NO_CATALOGUE = CatalogueDocument(version=0, features={}, metrics={})
EMITTERS = "emitters: {gateway: {metrics: [calls]}}\n"


class Beside:
    """A sidecar's calls about reservations, and what its outbox still holds."""

    def __init__(self, shop: Shop, channel: grpc.aio.Channel) -> None:
        self.shop = shop
        self.outbox = MemoryOutbox()
        corrections = Corrections(self.outbox, lambda: NO_CATALOGUE, shop.clock, "one")
        root = PlanStoreReservations(channel, "token", "one")
        self.reservations = Reservations(root, self.outbox, corrections, shop.clock, "one")
        self.servicer = ReservationServicer(self.reservations)

    async def reserve(self, **fields: Any) -> usage_pb2.ReserveResponse:
        """Reserve, of 3 calls unless said otherwise."""
        asked = {"tenant_id": "acme", "feature": "calls", "reservation_id": "r-1", "quantity": 3, **fields}
        payload = usage_pb2.ReserveRequest(**asked).SerializeToString()
        return usage_pb2.ReserveResponse.FromString(await self.servicer.reserve(payload))

    async def settle(self, quantity: int = 2, **fields: Any) -> usage_pb2.SettleResponse:
        """Settle."""
        asked = {"tenant_id": "acme", "reservation_id": "r-1", "quantity": quantity, **fields}
        payload = usage_pb2.SettleRequest(**asked).SerializeToString()
        return usage_pb2.SettleResponse.FromString(await self.servicer.settle(payload))

    async def release(self, **fields: Any) -> int:
        """Release."""
        payload = usage_pb2.ReleaseRequest(**{"tenant_id": "acme", **fields}).SerializeToString()
        return usage_pb2.ReleaseResponse.FromString(await self.servicer.release(payload)).returned

    async def ship(self) -> list[UsageResult]:
        """What it holds arrives."""
        batch = await next_batch(self.outbox, 100, 1 << 20)
        if batch is None:
            return []
        arrivals = [Arrival(one.event, "one", 1, one.sequence) for one in batch.events]
        with self.shop.database.writing() as session:
            results = self.shop.ledger.append(session, arrivals, self.shop.clock.now())
        await self.outbox.settle(batch, results)
        return results

    def used(self) -> tuple[int, int]:
        """Used and left of today's five calls."""
        checks = QuotaChecks(self.shop.database, self.shop.authority, self.shop.ledger, self.shop.clock)
        decision = checks.check(CheckRequest("acme", "calls"))
        return decision.used or 0, decision.remaining or 0

    def consume(self, quantity: int) -> str:
        """The consumption of some calls, admitted by the plan store itself."""
        checks = QuotaChecks(self.shop.database, self.shop.authority, self.shop.ledger, self.shop.clock)
        decision = checks.check(CheckRequest("acme", "calls", CheckMode.CONSUME, quantity, request_id="q"))
        assert decision.allowed
        return decision.consumption_id


@pytest.fixture
def serving(shop: Shop) -> Iterator[tuple[str, grpc.Server]]:
    """A plan store with a tenant of five calls a day, and where it is."""
    shop.subscribe()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(QuotaServicer(shop.quotas), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}", server
        server.stop(None).wait()


@pytest.fixture
async def beside(shop: Shop, serving: tuple[str, grpc.Server]) -> AsyncIterator[Beside]:
    """A sidecar of it."""
    async with grpc.aio.insecure_channel(serving[0]) as channel:
        yield Beside(shop, channel)


async def test_reserved_and_settled(beside: Beside) -> None:
    """What is answered is what the plan store says; the event needs no outbox."""
    held = await beside.reserve(ttl=Duration(seconds=90))
    settled = await beside.settle()
    again = await beside.settle()

    assert (held.held, held.remaining, held.decision.reason) == (True, 2, decision_pb2.REASON_WITHIN_LIMIT)
    assert held.expires_at.ToDatetime(beside.shop.clock.now().tzinfo) == (
        beside.shop.clock.now() + timedelta(seconds=90)
    )
    assert (settled.result.outcome, settled.returned, settled.overage) == (
        usage_pb2.USAGE_OUTCOME_ACCEPTED, 1, 0,
    )  # fmt: skip
    assert (again.result.outcome, again.result.id) == (usage_pb2.USAGE_OUTCOME_DUPLICATE, settled.result.id)
    assert (beside.used(), await beside.ship()) == ((2, 3), [])
    with pytest.raises(IdempotencyConflictError, match="settled with other content"):
        await beside.settle(3)
    with pytest.raises(ConflictError, match="was settled with 2"):
        await beside.release(reservation_id="r-1")


async def test_refused_and_released(beside: Beside) -> None:
    """A refusal is an answer, with the reason of a check."""
    await beside.reserve(quantity=4)
    refused = await beside.reserve(quantity=2, reservation_id="r-2")
    returned = [await beside.release(reservation_id="r-1") for _ in range(2)]

    assert (refused.held, refused.HasField("expires_at")) == (False, False)
    assert (refused.remaining, refused.decision.reason) == (1, decision_pb2.REASON_QUOTA_EXCEEDED)
    assert (returned, beside.used()) == ([4, 4], (0, 5))


async def test_what_the_plan_store_refuses(beside: Beside) -> None:
    """Its errors reach the application as they are."""
    with pytest.raises(InvalidInputError, match="'sso' is boolean; expected a metered feature or credits"):
        await beside.reserve(feature="sso")
    with pytest.raises(NotFoundError, match="no reservation 'r-1'"):
        await beside.settle()
    await beside.reserve()
    with pytest.raises(IdempotencyConflictError, match="'r-1' was used for 3 of 'calls'"):
        await beside.reserve(quantity=4)
    assert await beside.ship() == []


async def test_while_the_plan_store_is_away(beside: Beside, serving: tuple[str, grpc.Server]) -> None:
    """Nothing is held any more; a settlement is kept, settles when it arrives, and only once."""
    await beside.reserve()
    serving[1].stop(None).wait()

    with pytest.raises(SourceUnavailableError) as away:
        await beside.reserve(reservation_id="r-2")
    with pytest.raises(SourceUnavailableError):
        await beside.release(reservation_id="r-1")
    kept, again = (
        await beside.settle(2, dimensions={"model": "x"}),
        await beside.settle(2, dimensions={"model": "x"}),
    )
    with pytest.raises(IdempotencyConflictError):
        await beside.settle(1)
    before = beside.used()
    arrived = await beside.ship()

    assert away.value.retry_after
    assert (kept.pending, kept.result.outcome) == (True, usage_pb2.USAGE_OUTCOME_ACCEPTED)
    assert (again.pending, again.result.outcome) == (True, usage_pb2.USAGE_OUTCOME_DUPLICATE)
    assert (before, beside.used()) == ((0, 2), (2, 3))
    assert [one.outcome.name for one in arrived] == ["ACCEPTED"]


@pytest.mark.parametrize("catalogue", [CATALOGUE, CATALOGUE + EMITTERS], ids=["everybody", "emitters"])
async def test_a_consumption_is_undone_once(beside: Beside, catalogue: str) -> None:
    """Its event is voided, whoever may emit its metric, and its quota is there again."""
    beside.shop.apply(catalogue)
    consumption = beside.consume(4)

    first = await beside.release(consumption_id=consumption)
    again = await beside.release(consumption_id=consumption)
    arrived = await beside.ship()

    # The plan store admitted it, so this sidecar does not know how much it was.
    assert (first, again) == (0, 0)
    assert ([one.outcome.name for one in arrived], beside.used()) == (["ACCEPTED"], (0, 5))


async def test_only_consumptions_are_undone(beside: Beside) -> None:
    """What was reported is corrected, by who may."""
    await beside.reserve()
    settled = await beside.settle()
    reported = UsageEvent(
        id="reported",
        tenant_id="acme",
        metric="calls",
        value=1,
        unit="call",
        occurred_at=beside.shop.clock.now(),
        recorded_at=beside.shop.clock.now(),
        correlation_id="work",
    )
    with beside.shop.database.writing() as session:
        beside.shop.ledger.append(session, [Arrival(reported)], beside.shop.clock.now())

    await beside.release(consumption_id="unknown")
    await beside.release(consumption_id="reported")
    await beside.release(consumption_id=settled.result.id)
    arrived = await beside.ship()

    assert [(one.outcome.name, one.rule) for one in arrived] == [
        ("QUARANTINED", "usage:original"),
        ("INVALID", "usage:original"),
        ("ACCEPTED", ""),
    ]


@pytest.mark.parametrize(
    ("call", "fields", "named"),
    [
        ("reserve", {"tenant_id": ""}, "tenant_id"),
        ("reserve", {"feature": "A b"}, "feature"),
        ("reserve", {"reservation_id": ""}, "reservation_id"),
        ("reserve", {"reservation_id": "x" * 129}, "reservation_id"),
        ("reserve", {"quantity": 0}, "quantity"),
        ("reserve", {"quantity": 1 << 60}, "quantity"),
        ("reserve", {"ttl": Duration(seconds=3601)}, "ttl"),
        ("reserve", {"ttl": Duration()}, "ttl"),
        ("reserve", {"subject": "a\nb"}, "subject"),
        ("settle", {"quantity": -1}, "quantity"),
        ("settle", {"reservation_id": "a\0b"}, "reservation_id"),
        ("settle", {"dimensions": {"k": "v" * 257}}, "dimensions"),
        ("release", {}, "target"),
        ("release", {"consumption_id": ""}, "consumption_id"),
        ("release", {"reservation_id": "r", "tenant_id": "?"}, "tenant_id"),
    ],
)
async def test_what_is_malformed_is_named(call: str, fields: dict[str, Any], named: str) -> None:
    """Here already, whatever the plan store is."""
    shop: Any = type("Nothing", (), {"clock": None})
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(InvalidInputError) as wrong:
            await getattr(Beside(shop, channel), call)(**fields)

    assert [one.field.partition("[")[0] for one in wrong.value.violations] == [named]


async def test_a_caller_reserves_for_its_tenants(beside: Beside) -> None:
    """Whom it may not ask about it may not reserve for; who is not there the plan store knows."""
    beside.servicer = ReservationServicer(
        beside.reservations, Pseudonyms(b"k" * 32), Permit("checkout", frozenset({"acme", "nobody"}))
    )
    assert (await beside.reserve(subject="ada")).held
    unknown = await beside.reserve(tenant_id="nobody")
    assert (unknown.held, unknown.decision.reason) == (False, decision_pb2.REASON_TENANT_UNKNOWN)
    for call in (beside.reserve, beside.settle, beside.release):
        more = {"reservation_id": "r-1"} if call == beside.release else {}
        with pytest.raises(ForbiddenError):
            await call(tenant_id="globex", **more)


async def test_without_a_plan_store_there_are_none() -> None:
    """Better said than half done."""
    shop: Any = type("Nothing", (), {"clock": None})
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        alone = Beside(shop, channel)
        alone.servicer = ReservationServicer(
            Reservations(NoReservations(), alone.outbox, None, shop.clock, "one")
        )
        for call in (
            alone.reserve(),
            alone.settle(),
            alone.release(reservation_id="r"),
            alone.release(consumption_id="c"),
        ):
            with pytest.raises(UnsupportedError, match="start it with --planstore"):
                await call
