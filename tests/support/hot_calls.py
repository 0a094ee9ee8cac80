"""The calls that a plan store answers, or makes by itself, again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import grpc
import grpc_testing
import redis
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import select

from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome
from entitlement_sidecar.planstore.api.rpc_snapshots import SnapshotServicer
from entitlement_sidecar.planstore.db import UsageEventRow
from entitlement_sidecar.planstore.ingest.servicer import UsageIngestServicer
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.snapshots.feed import Beats, FeedSignal
from entitlement_sidecar.planstore.snapshots.publisher import Publisher, RedisPublisher
from entitlement_sidecar.planstore.snapshots.redis_feed import RedisFeedWriter
from entitlement_sidecar.planstore.subscriptions.settler import Settler
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.closing import Closer
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.wire.v1 import snapshot_pb2, usage_pb2
from support.population import name_of
from support.shop import NOW, Shop

Calls = dict[str, Callable[[], object]]

_SNAPSHOTS = snapshot_pb2.DESCRIPTOR.services_by_name["SnapshotService"]
_INGEST = usage_pb2.DESCRIPTOR.services_by_name["UsageIngestService"]


def rest_calls(shop: Shop, tenant: str) -> Calls:
    """REST, about one tenant and about all of them."""
    path = f"/api/billing/organizations/{tenant}"
    every, audit = "/api/billing/organizations", "/api/billing/audit"
    peek = {"feature": "calls", "quantity": 1}
    numbers = iter(range(1_000_000))

    def use() -> dict[str, Any]:
        named = {"request_id": f"hot-{next(numbers)}", "correlation_id": "c"}
        return {"feature": "calls", "record_usage": True, **named}

    def get(where: str, **asked: Any) -> Callable[[], object]:
        return lambda: _good(shop.rest.get(where, params=asked))

    middle = name_of(400)
    return {
        "GET subscription": get(f"{path}/subscription"),
        "GET subscriptions": get(f"{path}/subscriptions"),
        "GET entitlements": get(f"{path}/entitlements"),
        "POST quotas/check, a look": lambda: _good(shop.rest.post(f"{path}/quotas/check", json=peek)),
        "POST quotas/check, recorded": lambda: _good(shop.rest.post(f"{path}/quotas/check", json=use())),
        "GET usage": get(f"{path}/usage"),
        "GET usage/events": get(f"{path}/usage/events"),
        "GET usage/events, of a metric": get(f"{path}/usage/events", metric="calls"),
        "GET usage/events, later on": get(f"{path}/usage/events", cursor="3000"),
        "GET history": get(f"{path}/history"),
        "GET overrides": get(f"{path}/overrides"),
        "GET credits": get(f"{path}/credits"),
        "GET snapshot": get(f"{path}/snapshot"),
        "GET organizations": get(every),
        "GET organizations, later on": get(every, cursor=middle),
        "GET organizations, of a plan": get(every, cursor=middle, plan="free"),
        "GET audit": get(audit),
        "GET audit, later on": get(audit, cursor="2000"),
        "GET audit, the oldest first": get(audit, order="oldest"),
        "GET audit, of a tenant": get(audit, tenant_id=tenant),
        "GET audit, of a resource": get(audit, resource=f"tenant/{tenant}"),
        "GET audit/verify": get(f"{audit}/verify"),
        "GET snapshots/verify": get("/api/billing/snapshots/verify", limit=50),
        "GET tokens": get("/api/billing/tokens"),
        "POST subscription": lambda: _good(
            shop.rest.post(f"{path}/subscription", json={"plan": "basic", "add_ons": _add_ons(numbers)})
        ),
    }


def _add_ons(numbers: Iterator[int]) -> dict[str, int]:
    return {"more": next(numbers) + 3}


def rpc_calls(shop: Shop, tenant: str) -> Calls:
    """gRPC, as sidecars call it."""
    beats = Beats(shop.database, shop.key, shop.clock)
    snapshots = SnapshotServicer(shop.database, shop.ring, beats, FeedSignal())
    ingest = UsageIngestServicer(shop.database, Ledger(limits_of), shop.clock)
    server = grpc_testing.server_from_dictionary(
        {_SNAPSHOTS: snapshots, _INGEST: ingest}, grpc_testing.strict_real_time()
    )

    def call(service: Any, name: str, request: Any) -> Callable[[], object]:
        def answer() -> object:
            method = service.methods_by_name[name]
            response, _, code, details = server.invoke_unary_unary(method, {}, request, None).termination()
            assert code is grpc.StatusCode.OK, details
            return response

        return answer

    stamp = Timestamp()
    stamp.FromDatetime(NOW)
    events = [
        usage_pb2.SequencedEvent(
            sequence=number,
            event=usage_pb2.UsageEvent(
                id=f"batched-{number}", tenant_id=name_of(number), metric="calls", value=1, unit="call",
                occurred_at=stamp, recorded_at=stamp, correlation_id="c", classification=1,
            ),
        )
        for number in range(1, 51)
    ]  # fmt: skip
    batch = usage_pb2.IngestBatchRequest(instance="i", epoch=1, batch_id=1, events=events)
    return {
        "GetSnapshot": call(_SNAPSHOTS, "GetSnapshot", snapshot_pb2.GetSnapshotRequest(tenant_id=tenant)),
        "GetCatalogue": call(_SNAPSHOTS, "GetCatalogue", snapshot_pb2.GetCatalogueRequest()),
        "IngestBatch": call(_INGEST, "IngestBatch", batch),
    }


_NEWEST = (
    select(UsageEventRow.event_id)
    .where(UsageEventRow.corrects == "")
    .order_by(UsageEventRow.tenant_id, UsageEventRow.id.desc())
    .limit(1)
)


def own_calls(shop: Shop, tenant: str, client: redis.Redis) -> Calls:
    """What a plan store does by itself: publishing, and settling what time has changed."""
    to_redis = RedisPublisher(shop.database, RedisFeedWriter(client), shop.key, 1, shop.clock)
    publisher = Publisher(shop.database, FeedSignal(), shop.clock, to_redis)

    def settle() -> object:
        with shop.database.writing() as session:
            return shop.subscriptions.settle(session, tenant)

    def correct() -> object:
        with shop.database.writing() as session:
            event = session.scalars(_NEWEST.where(UsageEventRow.tenant_id == tenant)).one()
            voiding = UsageEvent(
                id=f"void-{uuid4().hex}",
                tenant_id=tenant,
                metric="",
                value=0,
                unit="",
                occurred_at=NOW,
                recorded_at=NOW,
                corrects=event,
                voids=True,
            )
            [result] = Ledger(limits_of).append(session, [Arrival(voiding)], shop.clock.now())
        assert result.outcome is UsageOutcome.ACCEPTED, result
        return result

    return {
        "the sequencer's step": publisher.number,
        "the publisher's step": to_redis.step,
        "the settler's step": Settler(shop.database, shop.subscriptions, shop.clock).settle_due,
        "the settling of a tenant": settle,
        "the closing of windows": Closer(shop.database, shop.clock).close_due,
        "a correction": correct,
    }


def _good(answer: Any) -> object:
    assert answer.is_success, answer.text
    return answer.json()
