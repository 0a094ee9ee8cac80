"""EntitlementService: parse, call, map. No rule, no storage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from entitlement_sidecar.domain.decision import Decision
from entitlement_sidecar.domain.errors import EntitlementsError, InvalidInputError, UnsupportedError
from entitlement_sidecar.sidecar.decisions.check import Decisions, Later
from entitlement_sidecar.sidecar.rpc.front import Method
from entitlement_sidecar.sidecar.rpc.memo import AnswerMemo
from entitlement_sidecar.sidecar.rpc.requests import parse_check, parse_message, parse_tenant
from entitlement_sidecar.wire.codec import decision_to_proto
from entitlement_sidecar.wire.status import to_status
from entitlement_sidecar.wire.v1 import decision_pb2

MAX_BATCH = 1000
"""Checks in one batch at most."""

_SERVICE = "/entitlement.v1.EntitlementService/"

_Outcome = Decision | EntitlementsError


class EntitlementServicer:
    """Bytes in, bytes out; an awaitable only where the answer is not in memory."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._memo = AnswerMemo()

    def methods(self) -> list[Method]:
        """What a front has to serve."""
        return [
            Method(_SERVICE + "CheckEntitlement", self.check),
            Method(_SERVICE + "BatchCheckEntitlements", self.batch),
            Method(_SERVICE + "ListEntitlements", self.list),
        ]

    def check(self, payload: bytes) -> bytes | Awaitable[bytes]:
        """CheckEntitlement."""
        kept = self._memo.get(payload)
        if kept is not None:
            return kept
        request = parse_check(parse_message(decision_pb2.CheckEntitlementRequest, payload))
        outcome = self._decisions.check(request)
        if not isinstance(outcome, Decision):
            return _answer_later(outcome)
        answer = _answer(outcome)
        self._memo.put(payload, answer, self._decisions.basis(request, outcome))
        return answer

    async def batch(self, payload: bytes) -> bytes:
        """BatchCheckEntitlements. Checks that have to wait wait together."""
        request = parse_message(decision_pb2.BatchCheckEntitlementsRequest, payload)
        if not 1 <= len(request.checks) <= MAX_BATCH:
            raise InvalidInputError.of(
                "checks", f"expected 1 to {MAX_BATCH} checks, got {len(request.checks)}"
            )
        if request.atomic:
            raise UnsupportedError("atomic batches are not available in this version: send atomic = false")
        outcomes = await _all([self._begin(check) for check in request.checks])
        return decision_pb2.BatchCheckEntitlementsResponse(
            results=[_batch_result(outcome) for outcome in outcomes]
        ).SerializeToString()

    def _begin(self, message: decision_pb2.CheckEntitlementRequest) -> _Outcome | Later:
        try:
            return self._decisions.check(parse_check(message))
        except EntitlementsError as error:
            return error

    async def list(self, payload: bytes) -> bytes:
        """ListEntitlements."""
        request = parse_message(decision_pb2.ListEntitlementsRequest, payload)
        tenant_id = parse_tenant(request.tenant_id)
        features, decisions = await self._decisions.list(tenant_id, 0 if request.with_usage else None)
        return decision_pb2.ListEntitlementsResponse(
            entitlements=[
                decision_pb2.Entitlement(feature=feature, decision=decision_to_proto(decision))
                for feature, decision in zip(features, decisions, strict=True)
            ],
            snapshot_version=max((decision.snapshot_version for decision in decisions), default=0),
        ).SerializeToString()


def _answer(decision: Decision) -> bytes:
    return decision_pb2.CheckEntitlementResponse(decision=decision_to_proto(decision)).SerializeToString()


async def _answer_later(later: Later) -> bytes:
    return _answer(await later())


async def _all(begun: Sequence[_Outcome | Later]) -> list[_Outcome]:
    """Waits for what has to be waited for, side by side; one that fails fails alone."""
    waiting = [asyncio.ensure_future(item()) for item in begun if callable(item)]
    if waiting:
        await asyncio.wait(waiting)
    late = iter(waiting)
    return [_result(next(late)) if callable(item) else item for item in begun]


def _result(task: asyncio.Future[Decision]) -> _Outcome:
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, EntitlementsError):
        return error
    raise error


def _batch_result(outcome: _Outcome) -> decision_pb2.BatchCheckResult:
    if isinstance(outcome, Decision):
        return decision_pb2.BatchCheckResult(decision=decision_to_proto(outcome))
    status = to_status(outcome)
    return decision_pb2.BatchCheckResult(
        error=decision_pb2.CheckError(code=status.code, reason=outcome.reason, message=status.message)
    )
