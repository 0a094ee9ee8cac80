"""A check at the plan store itself: the newest snapshot, the root authority, one transaction (S4.3)."""

from __future__ import annotations

from datetime import datetime
from functools import partial

import msgspec
from sqlalchemy.orm import Session
from uuid6 import uuid7

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision, Reason
from entitlement_sidecar.domain.emergency import admission_of, made_by
from entitlement_sidecar.domain.errors import IdempotencyConflictError, TenantUnknownError
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, consumption_event_id
from entitlement_sidecar.planstore.catalogue import current_document
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.leases.recall import InBlocks, without_free
from entitlement_sidecar.planstore.snapshots import held_now
from entitlement_sidecar.planstore.usage.answers import first_answer, keep_answer
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.authority import Admission, RootAuthority
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.turns import take_turns
from entitlement_sidecar.planstore.usage.views import usage_views
from entitlement_sidecar.telemetry import metrics

EMITTER = "planstore"
"""Emitter of the usage that a check records here."""


class QuotaChecks:
    """Decides as a sidecar would, from the truth itself."""

    def __init__(
        self,
        database: Database,
        authority: RootAuthority,
        ledger: Ledger,
        clock: Clock,
        blocks: InBlocks = InBlocks(),  # noqa: B008 - frozen
    ) -> None:
        self._database = database
        self._authority = authority
        self._ledger = ledger
        self._clock = clock
        self._blocks = blocks

    def check(self, request: CheckRequest) -> Decision:
        """Decides one request. An allowed CONSUME is admitted and in the ledger when this returns.

        A tenant that does not exist is an answer (TENANT_UNKNOWN), not an error. A CONSUME whose request id
        was allowed before gets that answer again, whatever changed since. Without a request id it consumes
        anew each time; CONSUME of 0 is a PEEK.

        Raises:
            IdempotencyConflictError: The request id came before with other content.
        """
        if request.mode is not CheckMode.CONSUME or request.quantity == 0:
            peek = msgspec.structs.replace(request, mode=CheckMode.PEEK)
            with self._database.reading() as session:
                return _counted(self._decide(session, peek, self._clock.now())[0])
        if not request.request_id:
            request = msgspec.structs.replace(request, request_id=uuid7().hex)
        decision = self._consumed(request)
        if decision.reason is Reason.QUOTA_EXCEEDED and self._recalled(request):
            decision = self._consumed(request)
        return _counted(decision)

    def _consumed(self, request: CheckRequest) -> Decision:
        with self._database.writing() as session:
            return self.consume(session, request)

    def _recalled(self, request: CheckRequest) -> bool:
        """Whether something came back of what lies in blocks: then it is worth another try."""
        return bool(self._blocks.recall(request.tenant_id, request.feature, request.quantity))

    def entitlements(self, session: Session, tenant_id: str) -> dict[str, Decision]:
        """A look at every feature that the catalogue has, with what is used of it.

        Raises:
            TenantUnknownError: There is no such tenant.
        """
        now = self._clock.now()
        held = held_now(session, tenant_id, now)
        if held.snapshot is None:
            raise TenantUnknownError(tenant_id)
        looks = {key: CheckRequest(tenant_id, key) for key in sorted(held.catalogue.features)}
        found = {key: evaluate(held, look, None, now) for key, look in looks.items()}
        asked = {key: one.resolution for key, one in found.items() if isinstance(one, QuotaAsk)}
        usages = usage_views(session, tenant_id, asked, now)
        seen = {key: self._seen(session, usage, tenant_id, key) for key, usage in usages.items()}
        told = {key: evaluate(held, looks[key], seen.get(key), now) for key in looks}
        return {key: one for key, one in told.items() if isinstance(one, Decision)}

    def consume(self, session: Session, request: CheckRequest) -> Decision:
        """Consumes in the caller's transaction; the request has an id. Raises as `check`."""
        now = self._clock.now()
        event_id = consumption_event_id(request.tenant_id, request.feature, request.request_id)
        if earlier := first_answer(session, request, event_id):
            return earlier
        # Before counters are held: who changes what the tenant has in the ledger wants these too.
        take_turns(session, (), [request.tenant_id])
        decision, usage = self._decide(session, request, now)
        if not decision.allowed or decision.kind not in {FeatureKind.METERED, FeatureKind.CREDITS}:
            return decision
        event = _event(session, request, _admission_name(decision, usage), now)
        if event is None:
            return decision
        result = self._ledger.append(session, [Arrival(event)], now)[0]
        if result.outcome is UsageOutcome.CONFLICT:
            raise IdempotencyConflictError(f"request_id {request.request_id!r} was used with other content")
        answer = msgspec.structs.replace(decision, consumption_id=event.id)
        keep_answer(session, request, answer, now)
        return answer

    def _decide(self, session: Session, request: CheckRequest, now: datetime) -> tuple[Decision, QuotaUsage]:
        held = held_now(session, request.tenant_id, now)
        usage = QuotaUsage()
        outcome = evaluate(held, request, None, now)
        if isinstance(outcome, QuotaAsk):
            usage = self._authority.admit(session, _admission(request, outcome))
            if request.mode is CheckMode.PEEK:
                usage = self._seen(session, usage, request.tenant_id, request.feature)
            outcome = evaluate(held, request, usage, now)
        if isinstance(outcome, QuotaAsk):
            raise TypeError("a decision asks for quota twice")
        return outcome, usage

    def _seen(self, session: Session, usage: QuotaUsage, tenant_id: str, feature: str) -> QuotaUsage:
        """A view without what nobody holds. Only in what reads: it may wait for Redis."""
        return without_free(usage, partial(self._blocks.free, session, tenant_id, feature))


def _admission(request: CheckRequest, ask: QuotaAsk) -> Admission:
    # A sidecar names it so too: the same consumption here and there is one.
    name = consumption_event_id(request.tenant_id, request.feature, request.request_id)
    admission = Admission.of(request.tenant_id, ask.feature, ask.resolution, ask.quantity, name)
    return msgspec.structs.replace(admission, subject=request.subject)


def _admission_name(decision: Decision, usage: QuotaUsage) -> str:
    opened = admission_of(decision)
    # What has no limits needs no admission; naming one keeps the ledger from counting it again.
    return (usage.lease_id or "root:unlimited") if opened is None else opened


def _counted(decision: Decision) -> Decision:
    for action in made_by(decision):
        metrics.break_glass_decisions.labels(action.name.lower()).inc()
    return decision


def _event(session: Session, request: CheckRequest, lease_id: str, now: datetime) -> UsageEvent | None:
    """The usage that this consumption is; None for a feature without a metric."""
    document = current_document(session)
    metric = document.metric_of(document.features[request.feature])
    if metric is None:
        return None
    return UsageEvent(
        id=consumption_event_id(request.tenant_id, request.feature, request.request_id),
        tenant_id=request.tenant_id,
        metric=metric.key,
        value=request.quantity,
        unit=metric.unit,
        occurred_at=now,
        recorded_at=now,
        correlation_id=request.correlation_id or request.request_id,
        recorded_by=EMITTER,
        subject=request.subject,
        classification=metric.classification,
        registry_version=document.version,
        feature=request.feature,
        lease_id=lease_id,
    )
