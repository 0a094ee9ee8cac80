"""The lease calls of QuotaService: sidecars get tokens from the root. Parse, call, map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from hashlib import blake2b

import grpc
import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain import lease
from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, FeatureKind
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import ConflictError, InvalidInputError, NotFoundError, Violation
from entitlement_sidecar.domain.lease import Told
from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.planstore.access import require_tenant
from entitlement_sidecar.planstore.api.calls import answering
from entitlement_sidecar.planstore.db import Database, QuotaAccountRow
from entitlement_sidecar.planstore.leases.recall import InBlocks, without_free
from entitlement_sidecar.planstore.snapshots import in_force, limits_of
from entitlement_sidecar.planstore.usage.account_rows import Opening, places_of
from entitlement_sidecar.planstore.usage.accounts import Accounts, Granted
from entitlement_sidecar.planstore.usage.allowances import Allowance
from entitlement_sidecar.planstore.usage.authority import Admission, RootAuthority
from entitlement_sidecar.planstore.usage.counters import Place
from entitlement_sidecar.planstore.usage.reported import Reported, report_unadmitted
from entitlement_sidecar.wire.codec import from_timestamp, to_duration, to_timestamp, usage_to_proto
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
from entitlement_sidecar.wire.v1 import quota_pb2, quota_pb2_grpc

_TOTAL = f"0 to {MAX_QUANTITY}"
_OF_A_BLOCK = "/"


class Quotas(msgspec.Struct, frozen=True):
    """What the quota calls stand on."""

    database: Database
    authority: RootAuthority
    accounts: Accounts
    clock: Clock
    blocks: InBlocks = InBlocks()

    def seen(self, usage: QuotaUsage, tenant_id: str, feature: str) -> list[quota_pb2.LimitUsage]:
        """What is told of a view. To be called after the transaction: it may wait for Redis."""

        def free() -> Mapping[Place, int]:
            with self.database.reading() as session:
                return self.blocks.free(session, tenant_id, feature)

        return [usage_to_proto(limit) for limit in without_free(usage, free).limits]


class _InForce(msgspec.Struct, frozen=True):
    """What a tenant has of a feature now; None: nothing."""

    allowance: Allowance | None
    view: Admission | None
    snapshot_version: int


class LeaseServicer(quota_pb2_grpc.QuotaServiceServicer):
    """Grants leases from the root's rows."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    def AcquireLease(  # noqa: N802 - the contract's name
        self, request: quota_pb2.AcquireLeaseRequest, context: grpc.ServicerContext
    ) -> quota_pb2.AcquireLeaseResponse:
        """Opens an account; the same holder and request id again get the same one."""
        with answering(context):
            return self._acquire(request)

    def RenewLease(  # noqa: N802 - the contract's name
        self, request: quota_pb2.RenewLeaseRequest, context: grpc.ServicerContext
    ) -> quota_pb2.RenewLeaseResponse:
        """Absorbs what the holder says, grants and prolongs."""
        with answering(context):
            return self._renew(request)

    def SettleLease(  # noqa: N802 - the contract's name
        self, request: quota_pb2.SettleLeaseRequest, context: grpc.ServicerContext
    ) -> quota_pb2.SettleLeaseResponse:
        """Absorbs what the holder says."""
        with answering(context):
            return self._settle(request)

    def ReturnLease(  # noqa: N802 - the contract's name
        self, request: quota_pb2.ReturnLeaseRequest, context: grpc.ServicerContext
    ) -> quota_pb2.ReturnLeaseResponse:
        """Gives all that was not used back, and closes the account."""
        with answering(context):
            return self._return(request)

    def ReportUnadmitted(  # noqa: N802 - the contract's name
        self, request: quota_pb2.ReportUnadmittedRequest, context: grpc.ServicerContext
    ) -> quota_pb2.ReportUnadmittedResponse:
        """Counts usage that no grant covered."""
        with answering(context):
            return self._report(request)

    def _acquire(self, request: quota_pb2.AcquireLeaseRequest) -> quota_pb2.AcquireLeaseResponse:
        _validate(_acquiring(request))
        require_tenant(request.tenant_id)
        with self._quotas.database.writing() as session:
            now = self._in_force(session, request.tenant_id, request.feature)
            if now.allowance is None or not (now.allowance.limits or now.allowance.buckets):
                return quota_pb2.AcquireLeaseResponse(snapshot_version=now.snapshot_version)
            wants = self._fair(session, now.allowance, request)
            granted = self._quotas.accounts.open(session, now.allowance, _opening(request), wants)
            view = self._view(session, now.view)
        usage = self._quotas.seen(view, request.tenant_id, request.feature)
        if granted is None:
            return quota_pb2.AcquireLeaseResponse(usage=usage, snapshot_version=now.snapshot_version)
        return quota_pb2.AcquireLeaseResponse(
            lease=_lease(granted, request.wants, usage, now.allowance), snapshot_version=now.snapshot_version
        )

    def _renew(self, request: quota_pb2.RenewLeaseRequest) -> quota_pb2.RenewLeaseResponse:
        _validate(_renewing(request))
        told = Told(request.sequence, request.used, request.returned)
        with self._quotas.database.writing() as session:
            row = self._mine(session, request.lease_id, request.holder)
            now = self._still_in_force(session, row)
            wants = self._fair(session, now.allowance, request)
            granted = self._quotas.accounts.grant(session, row.id, told, wants, now.allowance)
            view = self._view(session, now.view)
        usage = self._quotas.seen(view, row.tenant_id, row.feature)
        return quota_pb2.RenewLeaseResponse(lease=_lease(granted, request.wants, usage, now.allowance))

    def _fair(
        self,
        session: Session,
        allowance: Allowance | None,
        request: quota_pb2.AcquireLeaseRequest | quota_pb2.RenewLeaseRequest,
    ) -> int:
        """What is wanted, as far as it is needed or a fair share."""
        share = 0 if allowance is None else self._quotas.accounts.share(session, allowance)
        return min(request.wants, max(share, request.needs))

    def _settle(self, request: quota_pb2.SettleLeaseRequest) -> quota_pb2.SettleLeaseResponse:
        _validate(_settling(request))
        told = Told(0, request.used, request.returned)
        with self._quotas.database.writing() as session:
            granted = self._settled(session, request, told)
        account = granted.account
        return quota_pb2.SettleLeaseResponse(has=account.outstanding, closed=account.closed)

    def _settled(self, session: Session, request: quota_pb2.SettleLeaseRequest, told: Told) -> Granted:
        block, of_a_block, name = request.lease_id.partition(_OF_A_BLOCK)
        if not of_a_block:
            row = self._mine(session, request.lease_id, request.holder)
            return self._quotas.accounts.settle(session, row.id, told)
        if name.partition("#")[0] != _name(request.holder):
            raise ConflictError(
                f"lease {request.lease_id!r} is held by {name!r}, not {_name(request.holder)!r}"
            )
        row = self._known(session, block)
        if not row.run_id:
            raise InvalidInputError.of("lease_id", f"{block!r} is no block in Redis, so nobody holds of it")
        return self._quotas.accounts.adopt(session, block, name, told)

    def _return(self, request: quota_pb2.ReturnLeaseRequest) -> quota_pb2.ReturnLeaseResponse:
        _validate(_returning(request))
        with self._quotas.database.writing() as session:
            row = self._mine(session, request.lease_id, request.holder)
            granted = self._quotas.accounts.end(session, row.id, request.used)
        return quota_pb2.ReturnLeaseResponse(returned=granted.outcome.freed)

    def _report(self, request: quota_pb2.ReportUnadmittedRequest) -> quota_pb2.ReportUnadmittedResponse:
        _validate(_reporting(request))
        require_tenant(request.tenant_id)
        reported = Reported(
            tenant_id=request.tenant_id,
            feature=request.feature,
            quantity=request.quantity,
            occurred_at=_instant(request),
            request_id=request.request_id,
        )
        with self._quotas.database.writing() as session:
            now = self._in_force(session, request.tenant_id, request.feature, leased=False)
            view = partial(self._view, session, now.view)
            usage = report_unadmitted(session, reported, limits_of, view, self._quotas.clock.now())
        told = self._quotas.seen(usage, request.tenant_id, request.feature)
        return quota_pb2.ReportUnadmittedResponse(usage=told)

    def _in_force(self, session: Session, tenant_id: str, feature: str, *, leased: bool = True) -> _InForce:
        held = in_force(session, tenant_id, feature, self._quotas.clock.now())
        if held.feature is None or held.resolution is None:
            return _InForce(None, None, held.snapshot_version)
        if leased and held.feature.kind is FeatureKind.SEATS:
            raise InvalidInputError.of("feature", f"{feature!r} is seats: take them one by one, with Consume")
        view = Admission.of(tenant_id, held.feature, held.resolution, 0, "")
        return _InForce(Allowance(tenant_id, feature, view.limits, view.buckets), view, held.snapshot_version)

    def _still_in_force(self, session: Session, row: QuotaAccountRow) -> _InForce:
        """Of a lease: nothing, where its feature is of another kind by now."""
        try:
            return self._in_force(session, row.tenant_id, row.feature)
        except InvalidInputError:
            return _InForce(None, None, 0)

    def _view(self, session: Session, view: Admission | None) -> QuotaUsage:
        return QuotaUsage() if view is None else self._quotas.authority.admit(session, view)

    def _mine(self, session: Session, lease_id: str, holder: quota_pb2.Holder) -> QuotaAccountRow:
        row = self._known(session, lease_id)
        if row.run_id or row.parent or row.holder != _name(holder):
            raise _not_yours(lease_id, row.holder, holder)
        return row

    def _known(self, session: Session, lease_id: str) -> QuotaAccountRow:
        row = self._quotas.accounts.read(session, lease_id)
        if row is None:
            raise NotFoundError(f"no lease {lease_id!r}: it was never granted, or was settled long ago")
        require_tenant(row.tenant_id)
        return row


def _name(holder: quota_pb2.Holder) -> str:
    return f"{holder.instance}:{holder.epoch}"


def _not_yours(lease_id: str, name: str, holder: quota_pb2.Holder) -> ConflictError:
    return ConflictError(f"lease {lease_id!r} is held by {name!r}, not by {_name(holder)!r}")


def _opening(request: quota_pb2.AcquireLeaseRequest) -> Opening:
    """The same request has the same id, so its account is the marker that it came before."""
    holder = _name(request.holder)
    identity = msgspec.json.encode([request.tenant_id, request.feature, holder, request.request_id])
    name = blake2b(identity, digest_size=16).hexdigest()
    return Opening(id=f"lease:{name}", holder=holder, epoch=request.holder.epoch)


def _lease(
    granted: Granted, wants: int, usage: list[quota_pb2.LimitUsage], allowance: Allowance | None
) -> quota_pb2.Lease:
    ends_at = granted.row.ends_at
    return quota_pb2.Lease(
        id=granted.row.id,
        granted=granted.terms.granted,
        wants=wants,
        ttl=to_duration(lease.TTL),
        refresh_after=to_duration(lease.RENEW_AFTER),
        ends_at=None if ends_at is None else to_timestamp(ends_at),
        usage=usage,
        sequence=granted.terms.sequence,
        closed=granted.terms.closed,
        credit_grant=_credit_grant(granted.row, allowance),
    )


def _credit_grant(row: QuotaAccountRow, allowance: Allowance | None) -> str:
    """The credit grant that a lease is of; empty: it is of limits."""
    keys = set() if allowance is None else {bucket.key for bucket in allowance.buckets}
    return next((key for key, _ in places_of(row) if key in keys), "")


def _instant(request: quota_pb2.ReportUnadmittedRequest) -> datetime:
    try:
        return from_timestamp(request.occurred_at)
    except OverflowError:
        raise InvalidInputError.of("occurred_at", "expected a time in the years 1 to 9999") from None


def _validate(wrong: Iterator[Violation]) -> None:
    if found := list(wrong):
        raise InvalidInputError(found)


def _acquiring(request: quota_pb2.AcquireLeaseRequest) -> Iterator[Violation]:
    yield from _about(request)
    yield from _holder(request.holder)
    if not 1 <= request.wants <= MAX_QUANTITY:
        yield Violation("wants", expected(f"1 to {MAX_QUANTITY}", request.wants))
    yield from _needing(request)


def _renewing(request: quota_pb2.RenewLeaseRequest) -> Iterator[Violation]:
    yield from _settling(request)
    if not 0 <= request.wants <= MAX_QUANTITY:
        yield Violation("wants", expected(_TOTAL, request.wants))
    yield from _needing(request)
    if request.sequence < 2:  # noqa: PLR2004 - the first one acquired it
        yield Violation("sequence", expected("2 or more: acquiring the lease was number 1", request.sequence))


def _needing(
    request: quota_pb2.AcquireLeaseRequest | quota_pb2.RenewLeaseRequest,
) -> Iterator[Violation]:
    if not 0 <= request.needs <= max(0, request.wants):
        yield Violation("needs", expected("0 to what is wanted", request.needs))


def _settling(request: quota_pb2.RenewLeaseRequest | quota_pb2.SettleLeaseRequest) -> Iterator[Violation]:
    yield from _returning(request)
    if not 0 <= request.returned <= MAX_QUANTITY:
        yield Violation("returned", expected(_TOTAL, request.returned))


def _returning(
    request: quota_pb2.RenewLeaseRequest | quota_pb2.SettleLeaseRequest | quota_pb2.ReturnLeaseRequest,
) -> Iterator[Violation]:
    if not request.lease_id or not is_text(request.lease_id, 2 * MAX_NAME):
        yield Violation("lease_id", expected("the id of a lease", request.lease_id))
    yield from _holder(request.holder)
    if not 0 <= request.used <= MAX_QUANTITY:
        yield Violation("used", expected(_TOTAL, request.used))


def _reporting(request: quota_pb2.ReportUnadmittedRequest) -> Iterator[Violation]:
    yield from _about(request)
    if not 1 <= request.quantity <= MAX_QUANTITY:
        yield Violation("quantity", expected(f"1 to {MAX_QUANTITY}", request.quantity))
    if not request.HasField("occurred_at"):
        yield Violation("occurred_at", "required: when it happened")


def _about(
    request: quota_pb2.AcquireLeaseRequest | quota_pb2.ReportUnadmittedRequest,
) -> Iterator[Violation]:
    if not is_tenant(request.tenant_id):
        yield Violation("tenant_id", expected(TENANT_FORM, request.tenant_id))
    if not is_key(request.feature):
        yield Violation("feature", expected(KEY_FORM, request.feature))
    if not request.request_id or not is_text(request.request_id, MAX_REQUEST_ID):
        form = f"1 to {MAX_REQUEST_ID} printable characters"
        yield Violation("request_id", expected(form, request.request_id))


def _holder(holder: quota_pb2.Holder) -> Iterator[Violation]:
    if not holder.instance or not is_text(holder.instance, MAX_NAME):
        form = f"1 to {MAX_NAME} printable characters"
        yield Violation("holder.instance", expected(form, holder.instance))
    if holder.epoch < 0:
        yield Violation("holder.epoch", expected("0 or more", holder.epoch))
