"""The reservation calls of QuotaService: sidecars pass on what applications ask. Parse, call, map."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from entitlement_sidecar.domain.errors import Violation
from entitlement_sidecar.planstore.access import require_tenant
from entitlement_sidecar.planstore.api.calls import answering
from entitlement_sidecar.planstore.api.reserving import Reservations
from entitlement_sidecar.planstore.api.rpc_leases import LeaseServicer, Quotas
from entitlement_sidecar.wire.codec import decision_to_proto, result_to_proto, to_timestamp
from entitlement_sidecar.wire.fields import MAX_NAME, is_text
from entitlement_sidecar.wire.reservation_requests import (
    identity_problems,
    parse_reserve,
    parse_settle,
    require_none,
)
from entitlement_sidecar.wire.v1 import quota_pb2


class ReservationServicer(LeaseServicer):
    """Holds amounts whose cost is known only afterwards."""

    def __init__(self, quotas: Quotas) -> None:
        super().__init__(quotas)
        self._reservations = Reservations(quotas.database, quotas.clock, quotas.blocks.recall)

    def ReserveQuota(  # noqa: N802 - the contract's name
        self, request: quota_pb2.ReserveQuotaRequest, context: grpc.ServicerContext
    ) -> quota_pb2.ReserveQuotaResponse:
        """Holds an amount, or says why not."""
        with answering(context):
            asked = parse_reserve(request.reservation)
            require_tenant(asked.tenant_id)
            answer = self._reservations.reserve(asked)
            expires_at = None if answer.expires_at is None else to_timestamp(answer.expires_at)
            return quota_pb2.ReserveQuotaResponse(
                decision=decision_to_proto(answer.decision), expires_at=expires_at
            )

    def SettleReservation(  # noqa: N802 - the contract's name
        self, request: quota_pb2.SettleReservationRequest, context: grpc.ServicerContext
    ) -> quota_pb2.SettleReservationResponse:
        """Stores what was really used."""
        with answering(context):
            settlement = parse_settle(request.settlement)
            require_none(_instance(request.instance))
            require_tenant(settlement.tenant_id)
            settled = self._reservations.settle(settlement, request.instance)
            return quota_pb2.SettleReservationResponse(
                result=result_to_proto(settled.result), returned=settled.returned, overage=settled.overage
            )

    def ReleaseReservation(  # noqa: N802 - the contract's name
        self, request: quota_pb2.ReleaseReservationRequest, context: grpc.ServicerContext
    ) -> quota_pb2.ReleaseReservationResponse:
        """Gives back what is held."""
        with answering(context):
            require_none(identity_problems(request.tenant_id, "reservation_id", request.reservation_id))
            require_tenant(request.tenant_id)
            returned = self._reservations.release(request.tenant_id, request.reservation_id)
            return quota_pb2.ReleaseReservationResponse(returned=returned)


def _instance(instance: str) -> Iterator[Violation]:
    if not (instance and is_text(instance, MAX_NAME)):
        yield Violation("instance", f"expected 1 to {MAX_NAME} printable characters")
