"""A plan store that leases, and sidecars that hold of it, in a line each."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import grpc
import grpc_testing

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.api.rpc_quotas import QuotaServicer
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.wire.v1 import quota_pb2
from support.shop import Shop

SERVICE = quota_pb2.DESCRIPTOR.services_by_name["QuotaService"]

PLENTY = """
catalogue: shop
features:
  calls: {kind: metered, metric: calls}
  seats: {kind: seats}
  tokens: {kind: credits, metric: tokens}
metrics:
  calls: {domain: api, unit: call, aggregation: sum, window: month, classification: billable, feature: calls}
  tokens: {domain: ai, unit: token, aggregation: sum, window: month, classification: billable,
           feature: tokens}
plans:
  basic:
    title: Basic
    price: {amount: "29.90", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 100, window: day}, {amount: 1000, window: billing_cycle}]}
      seats: {seats: 3}
  weekly:
    title: By the week
    price: {amount: "29.90", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 100, window: week}]}
  small:
    title: Small
    price: {amount: "29.90", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 20, window: day}]}
  large:
    title: Large
    price: {amount: "29.90", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 100, window: day}]}
"""


class Sidecar:
    """Calls a plan store's servicer as one instance of a sidecar."""

    def __init__(self, shop: Shop, instance: str = "one", epoch: int = 1) -> None:
        servicer = QuotaServicer(shop.quotas)
        self._server = grpc_testing.server_from_dictionary(
            {SERVICE: servicer}, grpc_testing.strict_real_time()
        )
        self.holder = quota_pb2.Holder(instance=instance, epoch=epoch)

    def call(self, name: str, **fields: Any) -> Any:
        """The response, the code and the details of a call."""
        method = SERVICE.methods_by_name[name]
        request_type = getattr(quota_pb2, f"{name}Request")
        if "holder" in request_type.DESCRIPTOR.fields_by_name:
            fields = {"holder": self.holder, **fields}
        request = request_type(**fields)
        response, _, code, details = self._server.invoke_unary_unary(method, {}, request, None).termination()
        return response, code, details

    def acquire(self, wants: int, request_id: str = "first", **fields: Any) -> Any:
        """A lease of calls."""
        fields = {"tenant_id": "acme", "feature": "calls", **fields}
        response, code, details = self.call("AcquireLease", wants=wants, request_id=request_id, **fields)
        assert code is grpc.StatusCode.OK, details
        return response

    def told(self, name: str, lease_id: str, **fields: Any) -> Any:
        """The answer to a call about a lease."""
        response, code, details = self.call(name, lease_id=lease_id, **fields)
        assert code is grpc.StatusCode.OK, details
        return response

    def view(self) -> tuple[int, int]:
        """Used and outstanding of the limit per day."""
        response, _, _ = self.call("Consume", tenant_id="acme", feature="calls")
        (usage,) = [one for one in response.usage if one.key == "day"]
        return usage.used, usage.outstanding


def arrive(shop: Shop, event_id: str, value: int, at: datetime, lease_id: str = "") -> None:
    """An event comes to the ledger."""
    event = UsageEvent(
        id=event_id,
        tenant_id="acme",
        metric="calls",
        value=value,
        unit="call",
        occurred_at=at,
        recorded_at=at,
        correlation_id="work",
        lease_id=lease_id,
    )
    with shop.database.writing() as session:
        shop.ledger.append(session, [Arrival(event)], shop.clock.now())
