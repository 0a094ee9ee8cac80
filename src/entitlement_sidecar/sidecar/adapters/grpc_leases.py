"""Leases of the root, over gRPC, as a grantor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from entitlement_sidecar.domain.errors import (
    ConflictError,
    NotFoundError,
    SourceUnavailableError,
    TenantUnknownError,
)
from entitlement_sidecar.domain.lease import Terms, Told
from entitlement_sidecar.sidecar.leases.grantor import Heard, Opening, Request
from entitlement_sidecar.wire.codec import from_timestamp, usage_from_proto
from entitlement_sidecar.wire.status import from_rpc_error
from entitlement_sidecar.wire.v1 import quota_pb2, quota_pb2_grpc

TIMEOUT = 1.0
"""Seconds that a call may take for which somebody waits; then it is for the authority to admit.

One that is given up and was heard is asked for again by the same name."""

BACKGROUND_TIMEOUT = 5.0
"""Seconds that any other call may take: what a busy plan store grants late is not left lying there."""

_Answer = TypeVar("_Answer")

_UNKNOWN = (NotFoundError, ConflictError, TenantUnknownError)
"""The root does not know the lease, or not as ours: there is nothing to settle."""


class RootGrantor:
    """Asks the plan store."""

    source = "root"

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def ask(self, opening: Opening, lease_id: str, request: Request) -> Heard:
        """Acquires or renews.

        Raises:
            SourceUnavailableError: The plan store is away, or answers with an error of its own.
        """
        try:
            if lease_id:
                return await self._renew(opening, lease_id, request)
            return await self._acquire(opening, request)
        except _UNKNOWN:
            # Of a lease that is not known nothing more can come.
            closed = Terms(0, 0, closed=True)
            return Heard(lease_id, closed, opening.ends_at) if lease_id else Heard()

    async def end(self, opening: Opening, lease_id: str, used: int) -> bool:
        """Returns a lease.

        Raises:
            SourceUnavailableError: The plan store is away, or answers with an error of its own.
        """
        returned = quota_pb2.ReturnLeaseRequest(lease_id=lease_id, used=used, holder=_holder(opening.holder))
        with suppress(*_UNKNOWN):
            await self._call(self._stub.ReturnLease, returned)
        return True

    async def adopt(self, lease_id: str, told: Told) -> bool:
        """Tells what was used of a lost block's lease.

        Raises:
            SourceUnavailableError: The plan store is away, or answers with an error of its own.
        """
        name = lease_id.partition("/")[2].partition("#")[0]
        settled = quota_pb2.SettleLeaseRequest(
            lease_id=lease_id, used=told.used, returned=told.returned, holder=_holder(name)
        )
        try:
            answer: quota_pb2.SettleLeaseResponse = await self._call(self._stub.SettleLease, settled)
        except _UNKNOWN:
            return True
        return answer.closed

    async def _acquire(self, opening: Opening, request: Request) -> Heard:
        acquiring = quota_pb2.AcquireLeaseRequest(
            tenant_id=opening.tenant_id,
            feature=opening.feature,
            wants=max(1, request.wants),
            needs=min(request.needs, max(1, request.wants)),
            holder=_holder(opening.holder),
            request_id=opening.name,
        )
        answer: quota_pb2.AcquireLeaseResponse = await self._call(
            self._stub.AcquireLease, acquiring, _patience(request)
        )
        if not answer.HasField("lease"):
            usage = tuple(usage_from_proto(one) for one in answer.usage)
            return Heard(usage=usage)
        return _heard(answer.lease)

    async def _renew(self, opening: Opening, lease_id: str, request: Request) -> Heard:
        told = request.told
        renewing = quota_pb2.RenewLeaseRequest(
            lease_id=lease_id,
            wants=request.wants,
            needs=min(request.needs, request.wants),
            used=told.used,
            returned=told.returned,
            sequence=told.sequence,
            holder=_holder(opening.holder),
        )
        answer: quota_pb2.RenewLeaseResponse = await self._call(
            self._stub.RenewLease, renewing, _patience(request)
        )
        return _heard(answer.lease)

    async def _call(
        self,
        method: Callable[..., Awaitable[_Answer]],
        request: Message,
        patience: float = BACKGROUND_TIMEOUT,
    ) -> _Answer:
        try:
            return await method(request, timeout=patience, metadata=self._metadata)
        except grpc.RpcError as refused:
            error = from_rpc_error(refused)
            if isinstance(error, (*_UNKNOWN, SourceUnavailableError)):
                raise error from refused
            raise SourceUnavailableError(str(error)) from refused


def _patience(request: Request) -> float:
    return TIMEOUT if request.needs else BACKGROUND_TIMEOUT


def _heard(lease: quota_pb2.Lease) -> Heard:
    return Heard(
        lease_id=lease.id,
        terms=Terms(lease.granted, lease.sequence, lease.closed),
        ends_at=from_timestamp(lease.ends_at) if lease.HasField("ends_at") else None,
        usage=tuple(usage_from_proto(one) for one in lease.usage),
        credit_grant=lease.credit_grant,
    )


def _holder(name: str) -> quota_pb2.Holder:
    instance, _, epoch = name.rpartition(":")
    return quota_pb2.Holder(instance=instance, epoch=int(epoch))
