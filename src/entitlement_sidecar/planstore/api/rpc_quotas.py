"""QuotaService: the root authority for sidecars. Parse, call, map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import grpc
import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, FeatureKind
from entitlement_sidecar.domain.errors import InvalidInputError, Violation
from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.planstore.access import require_tenant
from entitlement_sidecar.planstore.api.calls import answering
from entitlement_sidecar.planstore.api.rpc_leases import Quotas
from entitlement_sidecar.planstore.api.rpc_reservations import ReservationServicer
from entitlement_sidecar.planstore.leases.recall import without_free
from entitlement_sidecar.planstore.snapshots import in_force
from entitlement_sidecar.planstore.usage.authority import Admission
from entitlement_sidecar.wire.codec import to_timestamp, usage_to_proto
from entitlement_sidecar.wire.fields import (
    KEY_FORM,
    MAX_NAME,
    MAX_REQUEST_ID,
    TENANT_FORM,
    expected,
    is_key,
    is_tenant,
    is_text,
)
from entitlement_sidecar.wire.v1 import quota_pb2

MAX_ITEMS = 100
"""Amounts admitted at once at most."""


class QuotaServicer(ReservationServicer):
    """Admits usage, grants leases, and holds reservations."""

    def __init__(self, quotas: Quotas) -> None:
        super().__init__(quotas)
        self._database = quotas.database
        self._authority = quotas.authority
        self._clock = quotas.clock
        self._blocks = quotas.blocks

    def Consume(  # noqa: N802 - the contract's name
        self, request: quota_pb2.ConsumeRequest, context: grpc.ServicerContext
    ) -> quota_pb2.ConsumeResponse:
        """Admits an amount at once; quantity 0 reads."""
        with answering(context):
            answer = self._consume(request)
            if self._recalled(request.tenant_id, request, answer):
                answer = self._consume(request)
            return answer

    def ConsumeAll(  # noqa: N802 - the contract's name
        self, request: quota_pb2.ConsumeAllRequest, context: grpc.ServicerContext
    ) -> quota_pb2.ConsumeAllResponse:
        """Admits several amounts of one tenant at once, or none of them."""
        with answering(context):
            answer = self._consume_all(request)
            both = zip(request.items, answer.results, strict=True)
            came = [self._recalled(request.tenant_id, item, result) for item, result in both]
            if any(came):
                answer = self._consume_all(request)
            return answer

    def _recalled(
        self, tenant_id: str, asked: quota_pb2.ConsumeRequest, answer: quota_pb2.ConsumeResponse
    ) -> bool:
        """Whether something came back of what was refused: then it is worth another try."""
        if answer.admitted or not any(limit.outstanding for limit in answer.usage):
            return False
        return bool(asked.quantity and self._blocks.recall(tenant_id, asked.feature, asked.quantity))

    def _consume(self, request: quota_pb2.ConsumeRequest) -> quota_pb2.ConsumeResponse:
        _validate(list(_violations(request)))
        require_tenant(request.tenant_id)
        begin = self._database.writing if request.quantity else self._database.reading
        with begin() as session:
            admission, version = self._admission(session, request.tenant_id, request)
            if admission is None:
                return _response(QuotaUsage(as_of=self._clock.now()), version)
            usage = self._authority.admit(session, admission)
            if not request.quantity:
                free = partial(self._blocks.free, session, request.tenant_id, request.feature)
                usage = without_free(usage, free)
            return _response(usage, version)

    def _consume_all(self, request: quota_pb2.ConsumeAllRequest) -> quota_pb2.ConsumeAllResponse:
        _validate(list(_all_violations(request)))
        require_tenant(request.tenant_id)
        with self._database.writing() as session:
            asked = [self._admission(session, request.tenant_id, item) for item in request.items]
            _validate(list(_without_subject(asked)))
            admitted, usages = self._authority.admit_all(session, [admission for admission, _ in asked])
        results = [_response(usage, version) for usage, (_, version) in zip(usages, asked, strict=True)]
        return quota_pb2.ConsumeAllResponse(admitted=admitted, results=results)

    def _admission(self, session: Session, tenant_id: str, request: quota_pb2.ConsumeRequest) -> _Asked:
        """What to admit, and the version of the snapshot that says so; None where the tenant lacks it now."""
        held = in_force(session, tenant_id, request.feature, self._clock.now())
        if held.feature is None or held.resolution is None:
            return None, held.snapshot_version
        quantity = request.quantity
        if held.feature.kind is FeatureKind.SEATS:
            quantity = min(quantity, 1)
        admission = Admission.of(tenant_id, held.feature, held.resolution, quantity, request.request_id)
        return msgspec.structs.replace(admission, subject=request.subject), held.snapshot_version


_Asked = tuple[Admission | None, int]


def _response(usage: QuotaUsage, snapshot_version: int) -> quota_pb2.ConsumeResponse:
    return quota_pb2.ConsumeResponse(
        admitted=bool(usage.admitted),
        usage=[usage_to_proto(limit) for limit in usage.limits],
        snapshot_version=snapshot_version,
        as_of=None if usage.as_of is None else to_timestamp(usage.as_of),
        lease_id=usage.lease_id,
        holds=usage.holds,
    )


def _validate(wrong: list[Violation]) -> None:
    if wrong:
        raise InvalidInputError(wrong)


def _all_violations(request: quota_pb2.ConsumeAllRequest) -> Iterator[Violation]:
    if not is_tenant(request.tenant_id):
        yield Violation("tenant_id", expected(TENANT_FORM, request.tenant_id))
    if not 1 <= len(request.items) <= MAX_ITEMS:
        yield Violation("items", f"expected 1 to {MAX_ITEMS}, got {len(request.items)}")
        return
    first: dict[str, int] = {}
    for index, item in enumerate(request.items):
        if item.request_id and first.setdefault(item.request_id, index) != index:
            other = f"items[{first[item.request_id]}]"
            yield Violation(f"items[{index}].request_id", f"expected one of its own, got that of {other}")
        if item.tenant_id:
            yield Violation(f"items[{index}].tenant_id", "expected to be empty: all are of one tenant")
        if not item.quantity:
            yield Violation(f"items[{index}].quantity", "expected 1 or more")
        for one in _violations(item, tenant=False):
            yield Violation(f"items[{index}].{one.field}", one.description)


def _without_subject(asked: Sequence[_Asked]) -> Iterator[Violation]:
    for index, (admission, _) in enumerate(asked):
        if admission is not None and admission.seats and not admission.subject:
            yield Violation(
                f"items[{index}].subject", f"expected who takes the seat of {admission.feature!r}"
            )


def _violations(request: quota_pb2.ConsumeRequest, *, tenant: bool = True) -> Iterator[Violation]:
    if tenant and not is_tenant(request.tenant_id):
        yield Violation("tenant_id", expected(TENANT_FORM, request.tenant_id))
    if not is_key(request.feature):
        yield Violation("feature", expected(KEY_FORM, request.feature))
    if not 0 <= request.quantity <= MAX_QUANTITY:
        yield Violation("quantity", expected(f"0 to {MAX_QUANTITY}", request.quantity))
    if not _is_request_id(request):
        form = f"1 to {MAX_REQUEST_ID} printable characters when quantity is above 0"
        yield Violation("request_id", expected(form, request.request_id))
    if not is_text(request.subject, MAX_NAME):
        yield Violation("subject", expected(f"up to {MAX_NAME} printable characters", request.subject))


def _is_request_id(request: quota_pb2.ConsumeRequest) -> bool:
    text = request.request_id
    return is_text(text, MAX_REQUEST_ID) and bool(text or not request.quantity)
