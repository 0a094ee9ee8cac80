"""Reservations at the plan store, over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import grpc.aio

from entitlement_sidecar.domain.errors import (
    EntitlementsError,
    ForbiddenError,
    RetryableError,
    SourceUnavailableError,
    UnauthenticatedError,
)
from entitlement_sidecar.domain.reservation import Reserved, Reserving, Settled, Settlement
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import decision_from_proto, from_timestamp, result_from_proto
from entitlement_sidecar.wire.reservation_requests import reserve_to_proto, settle_to_proto
from entitlement_sidecar.wire.status import from_rpc_error
from entitlement_sidecar.wire.v1 import quota_pb2, quota_pb2_grpc

TIMEOUT = 5.0
"""Seconds that reserving and releasing may take: one that is given up too early may be held all the same."""

SETTLE_TIMEOUT = 2.0
"""Seconds that settling may take; after that the event is kept here."""

RETRY_AFTER = 1.0
"""Seconds after which a caller may try again what the plan store did not answer."""


class PlanStoreReservations:
    """Each call goes to the plan store."""

    def __init__(self, channel: grpc.aio.Channel, token: str, instance: str) -> None:
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._instance = instance

    async def reserve(self, asked: Reserving) -> Reserved:
        """See `ReservationRoot`."""
        request = quota_pb2.ReserveQuotaRequest(reservation=reserve_to_proto(asked))
        with _answered():
            answer = await self._stub.ReserveQuota(request, timeout=TIMEOUT, metadata=self._metadata)
        held = answer.HasField("expires_at")
        metrics.authority_calls.labels("admitted" if held else "refused").inc()
        expires_at = from_timestamp(answer.expires_at) if held else None
        return Reserved(decision_from_proto(answer.decision), expires_at)

    async def settle(self, settlement: Settlement) -> Settled:
        """See `ReservationRoot`."""
        request = quota_pb2.SettleReservationRequest(
            settlement=settle_to_proto(settlement), instance=self._instance
        )
        with _answered():
            answer = await self._stub.SettleReservation(
                request, timeout=SETTLE_TIMEOUT, metadata=self._metadata
            )
        return Settled(result_from_proto(answer.result), answer.returned, answer.overage)

    async def release(self, tenant_id: str, reservation_id: str) -> int:
        """See `ReservationRoot`."""
        request = quota_pb2.ReleaseReservationRequest(tenant_id=tenant_id, reservation_id=reservation_id)
        with _answered():
            answer = await self._stub.ReleaseReservation(request, timeout=TIMEOUT, metadata=self._metadata)
        return int(answer.returned)


@contextmanager
def _answered() -> Iterator[None]:
    """Raises what the plan store said; where it said nothing of use, that it is away."""
    try:
        yield
    except grpc.RpcError as error:
        raise _meant(from_rpc_error(error)) from error


def _meant(error: EntitlementsError) -> EntitlementsError:
    """A token that is not good enough is no fault of who reserves."""
    if isinstance(error, RetryableError | UnauthenticatedError | ForbiddenError):
        metrics.authority_calls.labels("unavailable").inc()
        after = error.retry_after if isinstance(error, RetryableError) else None
        return SourceUnavailableError(
            f"reservations: the plan store does not answer: {error}", after or RETRY_AFTER
        )
    return error
