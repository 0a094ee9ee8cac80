"""Seats and credits as the plan store serves them: QuotaService, the sidecar's way to it, and REST."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest

from entitlement_sidecar.domain.catalogue import Feature as FeatureOf
from entitlement_sidecar.domain.catalogue import FeatureKind, Limit
from entitlement_sidecar.domain.errors import IdempotencyConflictError, TenantUnknownError
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.planstore.api.rpc_quotas import QuotaServicer
from entitlement_sidecar.sidecar.adapters.grpc_authority import PlanStoreAuthority
from entitlement_sidecar.wire.v1 import quota_pb2, quota_pb2_grpc

ACME = "/api/billing/organizations/acme"
CATALOGUE = """
catalogue: kinds
features:
  calls: {kind: metered, metric: calls}
  desks: {kind: seats}
  gems: {kind: credits, metric: gems}
metrics:
  calls: {domain: api, unit: call, aggregation: sum, window: month, classification: billable, feature: calls}
  gems: {domain: game, unit: gem, aggregation: sum, window: month, classification: billable, feature: gems}
plans:
  team:
    title: Team
    price: {amount: "20.00", currency: USD}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 20, window: month}]}
      desks: {seats: 1}
      gems: {credits: 50}
"""


@pytest.fixture
def team(shop: Any) -> Any:
    """A plan store whose tenant has a team plan."""
    shop.apply(CATALOGUE)
    shop.subscribe(plan="team")
    return shop


def serve(servicer: quota_pb2_grpc.QuotaServiceServicer) -> tuple[grpc.Server, str]:
    """A server on a port of its own."""
    server = grpc.server(ThreadPoolExecutor(8))
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


@pytest.fixture
def address(team: Any) -> Iterator[str]:
    """Where its QuotaService is."""
    server, address = serve(QuotaServicer(team.quotas))
    yield address
    server.stop(None).wait()


@pytest.fixture
def stub(address: str) -> Iterator[quota_pb2_grpc.QuotaServiceStub]:
    """Calls it."""
    with grpc.insecure_channel(address) as channel:
        yield quota_pb2_grpc.QuotaServiceStub(channel)


@pytest.fixture
async def authority(address: str) -> AsyncIterator[PlanStoreAuthority]:
    """A sidecar's way to it."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield PlanStoreAuthority(channel, "token", quota_pb2.Holder(instance="one", epoch=1))


def consume(stub: Any, feature: str, quantity: int, request_id: str, **more: Any) -> Any:
    """One Consume of acme."""
    fields = {"feature": feature, "quantity": quantity, "request_id": request_id, **more}
    return stub.Consume(quota_pb2.ConsumeRequest(tenant_id="acme", **fields), timeout=10)


# ---- QuotaService ---------------------------------------------------------------------------------------


def test_a_seat_is_consumed_by_its_subject(stub: Any) -> None:
    """Any quantity is one seat; who holds it is told so, and others are refused."""
    taken = consume(stub, "desks", 7, "one", subject="ada")
    assert (taken.admitted, taken.holds, taken.usage[0].used) == (True, True, 1)
    assert consume(stub, "desks", 1, "two", subject="ada").admitted
    refused = consume(stub, "desks", 1, "three", subject="bob")
    assert (refused.admitted, refused.holds, refused.usage[0].used) == (False, False, 1)
    assert consume(stub, "desks", 0, "", subject="ada").holds


def test_credits_say_what_they_took(stub: Any) -> None:
    """Again with the same request id, the same answer."""
    first = consume(stub, "gems", 30, "one")
    assert (first.admitted, first.usage[0].taken, first.usage[0].used) == (True, 30, 30)
    assert consume(stub, "gems", 30, "one") == first
    assert not consume(stub, "gems", 21, "two").admitted


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"feature": "desks", "quantity": 1, "request_id": "b"}, "items[1].subject: expected who takes"),
        (
            {"feature": "gems", "quantity": 1, "request_id": "a"},
            "items[1].request_id: expected one of its own, got that of items[0]",
        ),
    ],
)
def test_items_name_their_subject_and_have_ids_of_their_own(
    stub: Any, item: dict[str, Any], said: str
) -> None:
    """What would be counted for nobody, or once for two, is refused before anything is counted."""
    items = [quota_pb2.ConsumeRequest(feature="calls", quantity=1, request_id="a")]
    items.append(quota_pb2.ConsumeRequest(**item))
    with pytest.raises(grpc.RpcError) as caught:
        stub.ConsumeAll(quota_pb2.ConsumeAllRequest(tenant_id="acme", items=items), timeout=10)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in (caught.value.details() or "")
    assert consume(stub, "calls", 0, "").usage[0].used == 0


# ---- the sidecar's way to it ----------------------------------------------------------------------------


def ask(feature: str, kind: FeatureKind, quantity: int = 1, subject: str = "") -> QuotaAsk:
    """What a decision needs; the plan store knows better what the tenant has."""
    limits = (Limit(1, WindowSpec(WindowUnit.LIFETIME)),)
    return QuotaAsk(FeatureOf(feature, kind), quantity, Resolution(None, limits=limits), subject=subject)


async def test_a_sidecar_takes_seats_and_credits(authority: PlanStoreAuthority) -> None:
    """Subject, holds and what was taken travel both ways."""
    seat = await authority.consume("acme", ask("desks", FeatureKind.SEATS, subject="ada"), "one")
    assert (seat.admitted, seat.holds) == (True, True)
    view = await authority.view("acme", ask("desks", FeatureKind.SEATS, 0, "bob"), None)
    assert (view.admitted, view.holds, view.limits[0].remaining) == (None, False, 0)
    gems = await authority.consume("acme", ask("gems", FeatureKind.CREDITS, 3), "two")
    assert [(one.used, one.taken) for one in gems.limits] == [(3, 3)]


async def test_a_sidecar_consumes_all_or_nothing(authority: PlanStoreAuthority) -> None:
    """In one call, in the order of the asks; used ids and unknown tenants are errors."""
    calls, gems = ask("calls", FeatureKind.METERED, 20), ask("gems", FeatureKind.CREDITS, 51)
    whole, usages = await authority.consume_all("acme", [(calls, "c"), (gems, "g")])
    assert (whole, [one.admitted for one in usages]) == (False, [True, False])
    seat = ask("desks", FeatureKind.SEATS, subject="ada")
    whole, usages = await authority.consume_all("acme", [(calls, "c"), (seat, "s")])
    assert (whole, [one.limits[0].used for one in usages]) == (True, [20, 1])

    with pytest.raises(IdempotencyConflictError):
        await authority.consume_all("acme", [(ask("calls", FeatureKind.METERED, 2), "c")])
    with pytest.raises(TenantUnknownError):
        await authority.consume_all("nobody", [(calls, "c")])


async def test_a_plan_store_that_cannot_counts_as_away() -> None:
    """One that is older than ConsumeAll, and then one that is not there."""
    server, address = serve(quota_pb2_grpc.QuotaServiceServicer())
    asks = [(ask("calls", FeatureKind.METERED), "c"), (ask("gems", FeatureKind.CREDITS), "g")]
    away = QuotaUsage(unavailable=True)
    async with grpc.aio.insecure_channel(address) as channel:
        authority = PlanStoreAuthority(channel, "token", quota_pb2.Holder())
        older = await authority.consume_all("acme", asks)
        server.stop(None).wait()
        assert (older, await authority.consume_all("acme", asks)) == ((False, [away, away]),) * 2


# ---- REST -----------------------------------------------------------------------------------------------


def check(shop: Any, feature: str, **more: Any) -> Any:
    """One consuming check."""
    return shop.rest.post(
        f"{ACME}/quotas/check", json={"feature": feature, "record_usage": True, **more}
    ).json()


def test_rest_gives_seats(team: Any) -> None:
    """Once per subject, without usage; for nobody it is a malformed request."""
    assert check(team, "desks", subject="ada")["allowed"]
    assert check(team, "desks", subject="ada", quantity=3)["used"] == 1
    refused = check(team, "desks", subject="bob")
    assert (refused["allowed"], refused["reason"]) == (False, "SEATS_EXHAUSTED")
    assert team.rest.get(f"{ACME}/usage").json()["usage"] == []

    body = {"feature": "desks", "record_usage": True}
    answer = team.rest.post(f"{ACME}/quotas/check", json=body)
    assert (answer.status_code, "subject" in answer.text) == (422, True)
    assert team.rest.post(f"{ACME}/quotas/check", json={"feature": "desks"}).status_code == 200


def test_rest_burns_credits(team: Any) -> None:
    """The answer has every grant, what is left of it and what this call burnt; usage is recorded."""
    burnt = check(team, "gems", quantity=20, request_id="one", correlation_id="c")
    assert burnt["allowed"]
    (grant,) = burnt["credits"]
    assert (grant["amount"], grant["used"], grant["remaining"], grant["burnt"]) == (50, 20, 30, 20)
    assert check(team, "gems", quantity=20, request_id="one", correlation_id="c")["credits"] == [grant]
    refused = check(team, "gems", quantity=31, request_id="two", correlation_id="c")
    assert (refused["allowed"], refused["reason"]) == (False, "CREDITS_EXHAUSTED")
    assert [(one["metric"], one["value"]) for one in team.rest.get(f"{ACME}/usage").json()["usage"]] == [
        ("gems", 20)
    ]
