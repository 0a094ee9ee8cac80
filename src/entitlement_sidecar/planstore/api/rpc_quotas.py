"""QuotaService: the root authority for sidecars. Parse, call, map."""

from __future__ import annotations

import grpc

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import InvalidInputError, Violation
from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.planstore.api.calls import answering
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.snapshots import in_force
from entitlement_sidecar.planstore.usage.authority import Admission, RootAuthority
from entitlement_sidecar.wire.codec import to_timestamp, usage_to_proto
from entitlement_sidecar.wire.fields import (
    KEY_FORM,
    MAX_REQUEST_ID,
    TENANT_FORM,
    expected,
    is_key,
    is_tenant,
)
from entitlement_sidecar.wire.v1 import quota_pb2, quota_pb2_grpc


class QuotaServicer(quota_pb2_grpc.QuotaServiceServicer):
    """Admits usage. Leases are not granted yet: those calls answer UNIMPLEMENTED."""

    def __init__(self, database: Database, authority: RootAuthority, clock: Clock) -> None:
        self._database = database
        self._authority = authority
        self._clock = clock

    def Consume(  # noqa: N802 - the contract's name
        self, request: quota_pb2.ConsumeRequest, context: grpc.ServicerContext
    ) -> quota_pb2.ConsumeResponse:
        """Admits an amount at once; quantity 0 reads."""
        with answering(context):
            return self._consume(request)

    def _consume(self, request: quota_pb2.ConsumeRequest) -> quota_pb2.ConsumeResponse:
        _validate(request)
        begin = self._database.writing if request.quantity else self._database.reading
        with begin() as session:
            held = in_force(session, request.tenant_id, request.feature, self._clock.now())
            if not held.live:
                usage = QuotaUsage(as_of=self._clock.now())
            else:
                admission = Admission(
                    request.tenant_id, request.feature, request.quantity, request.request_id, held.limits
                )
                usage = self._authority.admit(session, admission)
        return _response(usage, held.snapshot_version)


def _response(usage: QuotaUsage, snapshot_version: int) -> quota_pb2.ConsumeResponse:
    return quota_pb2.ConsumeResponse(
        admitted=bool(usage.admitted),
        usage=[usage_to_proto(limit) for limit in usage.limits],
        snapshot_version=snapshot_version,
        as_of=None if usage.as_of is None else to_timestamp(usage.as_of),
        lease_id=usage.lease_id,
    )


def _validate(request: quota_pb2.ConsumeRequest) -> None:
    wrong = []
    if not is_tenant(request.tenant_id):
        wrong.append(Violation("tenant_id", expected(TENANT_FORM, request.tenant_id)))
    if not is_key(request.feature):
        wrong.append(Violation("feature", expected(KEY_FORM, request.feature)))
    if not 0 <= request.quantity <= MAX_QUANTITY:
        wrong.append(Violation("quantity", expected(f"0 to {MAX_QUANTITY}", request.quantity)))
    if not _is_request_id(request):
        form = f"1 to {MAX_REQUEST_ID} printable characters when quantity is above 0"
        wrong.append(Violation("request_id", expected(form, request.request_id)))
    if wrong:
        raise InvalidInputError(wrong)


def _is_request_id(request: quota_pb2.ConsumeRequest) -> bool:
    text = request.request_id
    return len(text) <= MAX_REQUEST_ID and text.isprintable() and bool(text or not request.quantity)
