"""The root authority of the plan store, over gRPC (DESIGN 7)."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import grpc.aio

from entitlement_sidecar.domain.errors import (
    EntitlementsError,
    IdempotencyConflictError,
    TenantUnknownError,
)
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.sidecar.leases.authority import NothingLeased
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import from_timestamp, usage_from_proto
from entitlement_sidecar.wire.status import from_rpc_error
from entitlement_sidecar.wire.v1 import quota_pb2, quota_pb2_grpc

VIEW_TIMEOUT = 1.0
"""Seconds that a look may take before the authority counts as away."""

CONSUME_TIMEOUT = 5.0
"""Seconds that a consume may take: one that is given up too early may be admitted and answered as a denial.

A plan store that refuses connections is known at once; this bounds one that is slow or silent."""

_UNAVAILABLE = QuotaUsage(unavailable=True)


class PlanStoreAuthority(NothingLeased):
    """Each call goes to the plan store. A consume is retried by the caller with the same request id."""

    def __init__(self, channel: grpc.aio.Channel, token: str, holder: quota_pb2.Holder) -> None:
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._holder = holder

    async def view(self, tenant_id: str, ask: QuotaAsk, max_age: float | None) -> QuotaUsage:  # noqa: ARG002 - always now
        """Usage now."""
        usage = await self._consume(tenant_id, ask, 0, "")
        metrics.authority_calls.labels("unavailable" if usage.unavailable else "viewed").inc()
        return usage

    async def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:
        """Admits all or nothing."""
        usage = await self._consume(tenant_id, ask, ask.quantity, request_id)
        metrics.authority_calls.labels(_outcome(usage)).inc()
        return usage

    async def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> tuple[bool, list[QuotaUsage]]:
        """Admits everything or nothing, in one call. A plan store that does not know how is unavailable."""
        items = [_request("", ask, ask.quantity, request_id) for ask, request_id in asks]
        request = quota_pb2.ConsumeAllRequest(tenant_id=tenant_id, items=items, holder=self._holder)
        try:
            response = await self._stub.ConsumeAll(request, timeout=CONSUME_TIMEOUT, metadata=self._metadata)
        except grpc.RpcError as error:
            metrics.authority_calls.labels("unavailable").inc()
            return False, [_without_answer(from_rpc_error(error)) for _ in asks]
        metrics.authority_calls.labels("admitted" if response.admitted else "refused").inc()
        return response.admitted, [_usage(one, one.admitted) for one in response.results]

    async def _consume(self, tenant_id: str, ask: QuotaAsk, quantity: int, request_id: str) -> QuotaUsage:
        request = _request(tenant_id, ask, quantity, request_id)
        request.holder.CopyFrom(self._holder)
        try:
            timeout = CONSUME_TIMEOUT if quantity else VIEW_TIMEOUT
            response = await self._stub.Consume(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            return _without_answer(from_rpc_error(error))
        return _usage(response, response.admitted if quantity else None)


def _request(tenant_id: str, ask: QuotaAsk, quantity: int, request_id: str) -> quota_pb2.ConsumeRequest:
    return quota_pb2.ConsumeRequest(
        tenant_id=tenant_id,
        feature=ask.feature.key,
        quantity=quantity,
        request_id=request_id,
        subject=ask.subject,
    )


def _usage(response: quota_pb2.ConsumeResponse, admitted: bool | None) -> QuotaUsage:  # noqa: FBT001 - as it was answered
    return QuotaUsage(
        limits=tuple(usage_from_proto(usage) for usage in response.usage),
        admitted=admitted,
        as_of=from_timestamp(response.as_of),
        snapshot_version=response.snapshot_version,
        lease_id=response.lease_id,
        holds=response.holds,
    )


def _without_answer(error: EntitlementsError) -> QuotaUsage:
    if isinstance(error, IdempotencyConflictError | TenantUnknownError):
        raise error
    return _UNAVAILABLE


def _outcome(usage: QuotaUsage) -> str:
    if usage.unavailable:
        return "unavailable"
    return "admitted" if usage.admitted else "refused"
