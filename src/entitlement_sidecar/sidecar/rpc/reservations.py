"""Reserve, Settle and Release of UsageService: parse, call, map. No rule, no storage."""

from __future__ import annotations

import msgspec

from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.sidecar.rpc.front import Method
from entitlement_sidecar.sidecar.rpc.permit import Permit
from entitlement_sidecar.sidecar.rpc.requests import parse_message
from entitlement_sidecar.sidecar.usage.pseudonyms import Pseudonyms
from entitlement_sidecar.sidecar.usage.reservations import Reservations
from entitlement_sidecar.wire.codec import decision_to_proto, result_to_proto, to_timestamp
from entitlement_sidecar.wire.reservation_requests import (
    identity_problems,
    parse_reserve,
    parse_settle,
    require_none,
)
from entitlement_sidecar.wire.v1 import usage_pb2

_SERVICE = "/entitlement.v1.UsageService/"


class ReservationServicer:
    """Holds amounts whose cost is known only afterwards.

    Args:
        reservations: What does so.
        pseudonyms: Of subjects; None: names are kept as they come.
        permit: For whom may be reserved; None: for everybody.
    """

    def __init__(
        self, reservations: Reservations, pseudonyms: Pseudonyms | None = None, permit: Permit | None = None
    ) -> None:
        self._reservations = reservations
        self._pseudonyms = pseudonyms
        self._permit = permit

    def methods(self) -> list[Method]:
        """What a front has to serve."""
        return [
            Method(_SERVICE + "Reserve", self.reserve),
            Method(_SERVICE + "Settle", self.settle),
            Method(_SERVICE + "Release", self.release),
        ]

    async def reserve(self, payload: bytes) -> bytes:
        """Reserve."""
        asked = parse_reserve(parse_message(usage_pb2.ReserveRequest, payload))
        self._require(asked.tenant_id)
        if self._pseudonyms is not None:
            shown = self._pseudonyms.of(asked.tenant_id, asked.subject)
            asked = msgspec.structs.replace(asked, subject=shown)
        answer = await self._reservations.reserve(asked)
        return usage_pb2.ReserveResponse(
            held=answer.expires_at is not None,
            expires_at=None if answer.expires_at is None else to_timestamp(answer.expires_at),
            remaining=answer.decision.remaining or 0,
            decision=decision_to_proto(answer.decision),
        ).SerializeToString()

    async def settle(self, payload: bytes) -> bytes:
        """Settle."""
        settlement = parse_settle(parse_message(usage_pb2.SettleRequest, payload))
        self._require(settlement.tenant_id)
        settled = await self._reservations.settle(settlement)
        return usage_pb2.SettleResponse(
            result=result_to_proto(settled.result),
            returned=settled.returned,
            overage=settled.overage,
            pending=settled.pending,
        ).SerializeToString()

    async def release(self, payload: bytes) -> bytes:
        """Release."""
        message = parse_message(usage_pb2.ReleaseRequest, payload)
        target = message.WhichOneof("target")
        if target is None:
            raise InvalidInputError.of("target", "expected a reservation_id or a consumption_id")
        identity = message.consumption_id if target == "consumption_id" else message.reservation_id
        require_none(identity_problems(message.tenant_id, target, identity))
        self._require(message.tenant_id)
        giving_back = (
            self._reservations.release_consumption
            if target == "consumption_id"
            else self._reservations.release
        )
        returned = await giving_back(message.tenant_id, identity)
        return usage_pb2.ReleaseResponse(returned=returned).SerializeToString()

    def _require(self, tenant_id: str) -> None:
        if self._permit is not None:
            self._permit.require(tenant_id)
