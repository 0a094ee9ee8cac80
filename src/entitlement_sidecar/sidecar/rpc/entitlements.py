"""EntitlementService: parse, call, map. No rule, no storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence

from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision
from entitlement_sidecar.domain.errors import EntitlementsError, InvalidInputError
from entitlement_sidecar.domain.explain import Step
from entitlement_sidecar.sidecar.decisions.atomic import AtomicBatches
from entitlement_sidecar.sidecar.decisions.check import Decisions, Later
from entitlement_sidecar.sidecar.decisions.watching import State, Watching
from entitlement_sidecar.sidecar.promise import Promise
from entitlement_sidecar.sidecar.rpc.front import Method, Streaming
from entitlement_sidecar.sidecar.rpc.memo import AnswerMemo, Memo
from entitlement_sidecar.sidecar.rpc.permit import Permit
from entitlement_sidecar.sidecar.rpc.requests import parse_atomic, parse_check, parse_message, parse_tenant
from entitlement_sidecar.wire.codec import decision_to_proto
from entitlement_sidecar.wire.status import to_status
from entitlement_sidecar.wire.v1 import decision_pb2, frames_pb2, types_pb2

MAX_BATCH = 1000
"""Checks in one batch at most."""

_SERVICE = "/entitlement.v1.EntitlementService/"

_Begun = bytes | Promise | Later
"""A serialised CheckEntitlementResponse or BatchCheckResult, one that comes by itself, or how to go on."""


class EntitlementServicer:
    """Bytes in, bytes out; an awaitable only where the answer is not in memory.

    Args:
        decisions: Decides one question.
        atomic: Decides several, all or nothing.
        watching: Knows everything that a tenant has.
        permit: Whom may be asked about; None: everybody.
        memo: Keeps answers, those of this permit alone; None: its own.
    """

    def __init__(
        self,
        decisions: Decisions,
        atomic: AtomicBatches,
        watching: Watching,
        permit: Permit | None = None,
        memo: Memo | None = None,
    ) -> None:
        self._decisions = decisions
        self._atomic = atomic
        self._watching = watching
        self._permit = permit
        self._memo = memo or AnswerMemo()

    def methods(self) -> list[Method | Streaming]:
        """What a front has to serve."""
        return [
            Method(_SERVICE + "CheckEntitlement", self.check),
            Method(_SERVICE + "BatchCheckEntitlements", self.batch),
            Method(_SERVICE + "ListEntitlements", self.list),
            Method(_SERVICE + "ExplainEntitlement", self.explain),
            Streaming(_SERVICE + "WatchEntitlements", self.watch),
        ]

    def check(self, payload: bytes) -> bytes | Awaitable[bytes]:
        """CheckEntitlement."""
        kept = self._memo.get(payload)
        if kept is not None:
            return kept
        answer = self._answer(payload)
        return answer if isinstance(answer, bytes | Promise) else _answer_later(answer)

    def _answer(self, payload: bytes) -> _Begun:
        """A serialised CheckEntitlementResponse, or how to go on; keeps what may be given again."""
        message = parse_message(decision_pb2.CheckEntitlementRequest, payload)
        if (coming := self._from_what_is_ready(message)) is not None:
            return coming
        request = parse_check(message)
        self._require(request.tenant_id)
        outcome = self._decisions.check(request)
        if not isinstance(outcome, Decision):
            return outcome
        answer = _serialised(outcome)
        self._memo.put(payload, answer, self._decisions.basis(request, outcome))
        return answer

    def _from_what_is_ready(self, message: decision_pb2.CheckEntitlementRequest) -> Promise | None:
        """The answer of a CONSUME that is ready. None: it is not, or may not be asked, or is malformed."""
        if self._permit is not None and not self._permit.covers(message.tenant_id):
            return None
        return self._decisions.ready.take(message)

    def _require(self, tenant_id: str) -> None:
        if self._permit is not None:
            self._permit.require(tenant_id)

    def batch(self, payload: bytes) -> bytes | Awaitable[bytes]:
        """BatchCheckEntitlements. Each check is answered as alone; those that have to wait wait together."""
        # Checks are taken as they lie in the request: most of them are answered without being opened.
        frame = parse_message(frames_pb2.BatchRequestFrame, payload)
        checks = frame.checks
        if not 1 <= len(checks) <= MAX_BATCH:
            raise InvalidInputError.of("checks", f"expected 1 to {MAX_BATCH} checks, got {len(checks)}")
        if frame.atomic:
            return self._atomically(checks)
        begun = [self._memo.get(check) or self._begin(check) for check in checks]
        if all(isinstance(one, bytes) for one in begun):
            return frames_pb2.BatchResponseFrame(results=begun).SerializeToString()  # type: ignore[arg-type] # all are bytes
        return _together(begun)

    def _begin(self, check: bytes) -> _Begun:
        try:
            return self._answer(check)
        except EntitlementsError as error:
            return _error_result(error)

    async def _atomically(self, checks: Sequence[bytes]) -> bytes:
        parsed = parse_atomic([parse_message(decision_pb2.CheckEntitlementRequest, one) for one in checks])
        requests = [one for one in parsed if isinstance(one, CheckRequest)]
        if requests:
            # All are of one tenant.
            self._require(requests[0].tenant_id)
        if len(requests) < len(parsed):
            # One cannot be judged, so nothing is consumed: the others are only looked at.
            return await _together([self._look(one) for one in parsed])
        outcome = await self._atomic.check(requests)
        return frames_pb2.BatchResponseFrame(
            results=[_serialised(decision) for decision in outcome.decisions], consumed=outcome.consumed
        ).SerializeToString()

    def _look(self, parsed: CheckRequest | EntitlementsError) -> _Begun:
        if isinstance(parsed, EntitlementsError):
            return _error_result(parsed)
        try:
            outcome = self._decisions.check(as_peek(parsed))
        except EntitlementsError as error:
            return _error_result(error)
        return _serialised(outcome) if isinstance(outcome, Decision) else outcome

    async def list(self, payload: bytes) -> bytes:
        """ListEntitlements."""
        request = parse_message(decision_pb2.ListEntitlementsRequest, payload)
        tenant_id = parse_tenant(request.tenant_id)
        self._require(tenant_id)
        state = await self._watching.list(tenant_id, fresh_usage=request.with_usage)
        return decision_pb2.ListEntitlementsResponse(
            entitlements=_entitlements(state), snapshot_version=state.version
        ).SerializeToString()

    async def explain(self, payload: bytes) -> bytes:
        """ExplainEntitlement."""
        message = parse_message(decision_pb2.ExplainEntitlementRequest, payload)
        request = as_peek(parse_check(message.check, "check."))
        self._require(request.tenant_id)
        decision, steps = await self._decisions.explain(request)
        return decision_pb2.ExplainEntitlementResponse(
            decision=decision_to_proto(decision), steps=map(_step, steps)
        ).SerializeToString()

    async def watch(self, payload: bytes) -> AsyncIterator[bytes]:
        """WatchEntitlements."""
        request = parse_message(decision_pb2.WatchEntitlementsRequest, payload)
        tenant_id = parse_tenant(request.tenant_id)
        if request.after_version < 0:
            raise InvalidInputError.of("after_version", "expected 0 or more")
        states = self._watching.states(tenant_id, request.after_version)
        async for state in states if self._permit is None else self._permit.following(tenant_id, states):
            yield decision_pb2.WatchEntitlementsResponse(
                snapshot_version=state.version, entitlements=_entitlements(state)
            ).SerializeToString()


def as_peek(request: CheckRequest) -> CheckRequest:
    """The same question, only looked at."""
    return CheckRequest(
        tenant_id=request.tenant_id,
        feature=request.feature,
        mode=CheckMode.PEEK,
        quantity=request.quantity,
        subject=request.subject,
        requested_value=request.requested_value,
        has_requested_value=request.has_requested_value,
        max_staleness=request.max_staleness,
        min_snapshot_version=request.min_snapshot_version,
    )


def _serialised(decision: Decision) -> bytes:
    return decision_pb2.CheckEntitlementResponse(decision=decision_to_proto(decision)).SerializeToString()


async def _answer_later(later: Later) -> bytes:
    return _serialised(await later())


async def _together(begun: Sequence[_Begun]) -> bytes:
    """Waits for what has to be waited for, side by side; one that fails fails alone."""
    async with asyncio.TaskGroup() as group:
        waiting = [one if isinstance(one, bytes) else group.create_task(_result(one)) for one in begun]
    results = [one if isinstance(one, bytes) else one.result() for one in waiting]
    return frames_pb2.BatchResponseFrame(results=results).SerializeToString()


async def _result(begun: Promise | Later) -> bytes:
    try:
        return await begun if isinstance(begun, Promise) else _serialised(await begun())
    except EntitlementsError as error:
        return _error_result(error)


def _error_result(error: EntitlementsError) -> bytes:
    status = to_status(error)
    return decision_pb2.BatchCheckResult(
        error=decision_pb2.CheckError(code=status.code, reason=error.reason, message=status.message)
    ).SerializeToString()


def _entitlements(state: State) -> list[decision_pb2.Entitlement]:
    return [
        decision_pb2.Entitlement(feature=feature, decision=decision_to_proto(decision))
        for feature, decision in zip(state.features, state.decisions, strict=True)
    ]


def _step(step: Step) -> decision_pb2.ResolutionStep:
    provenance = step.provenance
    return decision_pb2.ResolutionStep(
        rule=step.rule,
        provenance=types_pb2.Provenance(kind=int(provenance.kind), id=provenance.id) if provenance else None,
        outcome=step.outcome,
        applied=step.applied,
        decisive=step.decisive,
    )
