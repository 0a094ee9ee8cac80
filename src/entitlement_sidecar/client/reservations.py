"""Amounts whose cost is known only afterwards: held, then settled with what was really used, or released.

held = client.reserve("acme", "tokens", 4_000)
if held:
    used = call_the_model()
    client.settle("acme", held.reservation_id, used)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack

import grpc
import msgspec
import uuid6

from entitlement_sidecar.client.base import BaseClient
from entitlement_sidecar.domain.decision import Decision
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.wire.codec import (
    decision_from_proto,
    from_timestamp,
    result_from_proto,
    to_duration,
)
from entitlement_sidecar.wire.v1 import usage_pb2, usage_pb2_grpc


class ReserveOptions(TypedDict, total=False):
    """What else a reservation may say.

    Attributes:
        reservation_id: The caller's name for it: the same again gets the first answer; absent: a fresh one.
        ttl: Seconds that it lasts, 1 to 3600; absent: 60.
        subject: User, agent, project or resource inside the tenant.
        correlation_id: Ties the usage to the work that caused it; absent: the reservation's id does.
    """

    reservation_id: str
    ttl: float
    subject: str
    correlation_id: str


class Reservation(msgspec.Struct, frozen=True):
    """An answer to who reserves. True where the amount is held; else `decision` says why it is not.

    Attributes:
        reservation_id: Names it when it is settled or released.
        held: The amount is held.
        expires_at: Until when; None: it is not held.
        remaining: What is left after it, of the limit that has least; 0 also of what has no limit.
        decision: The plan store's decision.
    """

    reservation_id: str
    held: bool
    expires_at: datetime | None
    remaining: int
    decision: Decision

    def __bool__(self) -> bool:
        return self.held


class Settlement(msgspec.Struct, frozen=True):
    """What a settlement has come to.

    Attributes:
        result: Outcome of the usage event; DUPLICATE where the same was settled before.
        returned: What came back to the limit.
        overage: What nobody had admitted; it is billed all the same.
        pending: The plan store was away: the event is kept, and the two amounts are not known.
    """

    result: UsageResult
    returned: int
    overage: int
    pending: bool


class ReservationCalls(BaseClient):
    """Reserves, settles and releases."""

    _usage: usage_pb2_grpc.UsageServiceStub

    def reserve(
        self, tenant_id: str, feature: str, quantity: int, **options: Unpack[ReserveOptions]
    ) -> Reservation:
        """Holds an amount of a metered feature or of credits.

        Raises:
            InvalidInputError: A field is malformed, or of this feature nothing can be held.
            IdempotencyConflictError: The reservation's id came before with other content.
            RetryableError: No sidecar answered, or its plan store is away: nothing is held.
        """
        message = _reserve_message(tenant_id, feature, quantity, options)
        try:
            reply = self._usage.Reserve(message, timeout=self._report_timeout, metadata=self._shown)
            return _reservation(message.reservation_id, reply)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def settle(
        self,
        tenant_id: str,
        reservation_id: str,
        quantity: int,
        dimensions: Mapping[str, str] | None = None,
    ) -> Settlement:
        """Ends a reservation with what was really used, 0 or more; the same again bills once.

        Raises:
            InvalidInputError: A field is malformed; names it.
            NotFoundError: There is no such reservation.
            IdempotencyConflictError: It was settled with another amount or other dimensions.
            RetryableError: No sidecar answered, or it can take no more: settle it again later.
        """
        message = _settle_message(tenant_id, reservation_id, quantity, dimensions)
        try:
            reply = self._usage.Settle(message, timeout=self._report_timeout, metadata=self._shown)
            return _settlement(reply)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def release(self, tenant_id: str, *, reservation_id: str = "", consumption_id: str = "") -> int:
        """Gives back a reservation of which nothing was used, or undoes an allowed consumption.

        The same again says the same. What comes back; of a consumption 0 where the sidecar does not know it
        any more.

        Raises:
            InvalidInputError: Neither is named, or both.
            NotFoundError: There is no such reservation.
            ConflictError: The reservation was settled.
            RetryableError: No sidecar answered, or its plan store is away: a reservation ends in time.
        """
        message = _release_message(tenant_id, reservation_id, consumption_id)
        try:
            reply = self._usage.Release(message, timeout=self._report_timeout, metadata=self._shown)
            return int(reply.returned)
        except grpc.RpcError as error:
            raise self._translated(error) from error


class AsyncReservationCalls(BaseClient):
    """As `ReservationCalls`, for asyncio."""

    _usage: usage_pb2_grpc.UsageServiceStub

    async def reserve(
        self, tenant_id: str, feature: str, quantity: int, **options: Unpack[ReserveOptions]
    ) -> Reservation:
        """As `ReservationCalls.reserve`."""
        message = _reserve_message(tenant_id, feature, quantity, options)
        try:
            reply = await self._usage.Reserve(message, timeout=self._report_timeout, metadata=self._shown)
            return _reservation(message.reservation_id, reply)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    async def settle(
        self,
        tenant_id: str,
        reservation_id: str,
        quantity: int,
        dimensions: Mapping[str, str] | None = None,
    ) -> Settlement:
        """As `ReservationCalls.settle`."""
        message = _settle_message(tenant_id, reservation_id, quantity, dimensions)
        try:
            reply = await self._usage.Settle(message, timeout=self._report_timeout, metadata=self._shown)
            return _settlement(reply)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    async def release(self, tenant_id: str, *, reservation_id: str = "", consumption_id: str = "") -> int:
        """As `ReservationCalls.release`."""
        message = _release_message(tenant_id, reservation_id, consumption_id)
        try:
            reply = await self._usage.Release(message, timeout=self._report_timeout, metadata=self._shown)
            return int(reply.returned)
        except grpc.RpcError as error:
            raise self._translated(error) from error


def _reserve_message(
    tenant_id: str, feature: str, quantity: int, options: ReserveOptions
) -> usage_pb2.ReserveRequest:
    given: dict[str, Any] = {**options}
    given["reservation_id"] = given.get("reservation_id") or str(uuid6.uuid7())
    try:
        if "ttl" in given:
            given["ttl"] = to_duration(given["ttl"])
        return usage_pb2.ReserveRequest(tenant_id=tenant_id, feature=feature, quantity=quantity, **given)
    except (TypeError, ValueError) as error:
        raise InvalidInputError.of("reservation", str(error)) from error


def _reservation(reservation_id: str, reply: usage_pb2.ReserveResponse) -> Reservation:
    return Reservation(
        reservation_id,
        reply.held,
        from_timestamp(reply.expires_at) if reply.held else None,
        reply.remaining,
        decision_from_proto(reply.decision),
    )


def _settle_message(
    tenant_id: str, reservation_id: str, quantity: int, dimensions: Mapping[str, str] | None
) -> usage_pb2.SettleRequest:
    try:
        return usage_pb2.SettleRequest(
            tenant_id=tenant_id, reservation_id=reservation_id, quantity=quantity, dimensions=dimensions
        )
    except (TypeError, ValueError) as error:
        raise InvalidInputError.of("settlement", str(error)) from error


def _settlement(reply: usage_pb2.SettleResponse) -> Settlement:
    return Settlement(result_from_proto(reply.result), reply.returned, reply.overage, reply.pending)


def _release_message(tenant_id: str, reservation_id: str, consumption_id: str) -> usage_pb2.ReleaseRequest:
    if bool(reservation_id) == bool(consumption_id):
        raise InvalidInputError.of("release", "expected a reservation_id or a consumption_id")
    if reservation_id:
        return usage_pb2.ReleaseRequest(tenant_id=tenant_id, reservation_id=reservation_id)
    return usage_pb2.ReleaseRequest(tenant_id=tenant_id, consumption_id=consumption_id)
