"""A check at the plan store: the answer a sidecar would give, from the truth itself (S4.3, S4.5)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, FeatureKind
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision
from entitlement_sidecar.domain.errors import InvalidInputError, Violation
from entitlement_sidecar.planstore.access import Permission, require
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, Body, Tenant, View
from entitlement_sidecar.wire.fields import KEY_FORM, MAX_NAME, MAX_REQUEST_ID, expected, is_key

MAX_VALUE = 4096
"""Bytes of a requested config value as JSON."""

_PRINTABLE = "printable characters only"


class CheckBody(Body):
    """The question."""

    feature: str = Field(max_length=64, description="What is checked.", examples=["requests"])
    quantity: int = Field(
        1, ge=0, le=MAX_QUANTITY, description="How much, in the metric's smallest unit.", examples=[1]
    )
    record_usage: bool = Field(default=False, description="Also use it: consume the quota and record usage.")
    request_id: str = Field(
        "", max_length=MAX_REQUEST_ID, description="Makes `record_usage` safe to retry.", examples=["job-17"]
    )
    requested_value: Any = Field(None, description="Config features: the value that the caller wants to use.")
    subject: str = Field(
        "", max_length=MAX_NAME, description="Who: required to take a seat.", examples=["user-7"]
    )
    correlation_id: str = Field("", max_length=MAX_NAME)


class ProvenanceView(View):
    """What granted or denied."""

    kind: str = Field(examples=["PLAN"])
    id: str = Field(examples=["starter@1"])


class WarningView(View):
    """What may hurt soon."""

    kind: str
    detail: str


class CreditView(View):
    """One credit grant, in burn order."""

    grant: str = Field(examples=["welcome"])
    amount: int
    used: int
    remaining: int
    burnt: int = Field(description="What this call took of it.")
    expires_at: datetime | None


class DecisionView(View):
    """The answer. A denial is an answer too."""

    allowed: bool
    reason: str = Field(examples=["WITHIN_LIMIT"])
    kind: str | None = Field(examples=["METERED"])
    value: Any = None
    limit: int | None = Field(examples=[100000])
    used: int | None = Field(examples=[1])
    remaining: int | None = Field(examples=[99999])
    window_start: datetime | None
    reset_at: datetime | None
    soft: bool
    overage: int
    provenance: list[ProvenanceView]
    degradation: str = Field(examples=["NONE"])
    snapshot_version: int
    as_of: datetime | None
    retry_after: float | None = Field(description="Seconds.")
    consumption_id: str
    warnings: list[WarningView]
    evaluation_required: bool
    governance_required: bool
    notes: list[str] = Field(examples=[["billing:quota-exceeded:requests"]])
    credits: list[CreditView] = Field(description="Credits: every grant in the order in which they burn.")


def quotas(dependencies: ApiDependencies) -> APIRouter:
    """Routes of quota."""
    router = APIRouter(tags=["quotas"])

    @router.post(f"{ORGANIZATION}/quotas/check")
    def check(tenant_id: Tenant, body: CheckBody) -> DecisionView:
        """Decides, and with `record_usage` also consumes, atomically and inside every limit."""
        if body.record_usage:
            require(Permission.CONSUME)
        return decision_view(dependencies.checks.check(_request(tenant_id, body)))

    return router


def _request(tenant_id: str, body: CheckBody) -> CheckRequest:
    wrong = [] if is_key(body.feature) else [Violation("feature", expected(KEY_FORM, body.feature))]
    wrong += [
        Violation(name, expected(_PRINTABLE, text))
        for name in ("request_id", "subject", "correlation_id")
        if not (text := getattr(body, name)).isprintable()
    ]
    if len(json.dumps(body.requested_value)) > MAX_VALUE:
        wrong.append(Violation("requested_value", f"expected at most {MAX_VALUE} bytes of JSON"))
    if wrong:
        raise InvalidInputError(wrong)
    return CheckRequest(
        tenant_id=tenant_id,
        feature=body.feature,
        mode=CheckMode.CONSUME if body.record_usage else CheckMode.PEEK,
        quantity=body.quantity,
        subject=body.subject,
        request_id=body.request_id,
        correlation_id=body.correlation_id,
        requested_value=body.requested_value,
        has_requested_value="requested_value" in body.model_fields_set,
    )


def decision_view(decision: Decision) -> DecisionView:
    """A decision as REST shows it."""
    return DecisionView(
        allowed=decision.allowed,
        reason=decision.reason.name,
        kind=FeatureKind(decision.kind).name if decision.kind else None,
        value=decision.value,
        limit=decision.limit,
        used=decision.used,
        remaining=decision.remaining,
        window_start=decision.window_start,
        reset_at=decision.reset_at,
        soft=decision.soft,
        overage=decision.overage,
        provenance=[ProvenanceView(kind=p.kind.name, id=p.id) for p in decision.provenance],
        degradation=decision.degradation.name,
        snapshot_version=decision.snapshot_version,
        as_of=decision.as_of,
        retry_after=decision.retry_after,
        consumption_id=decision.consumption_id,
        warnings=[WarningView(kind=w.kind.name, detail=w.detail) for w in decision.warnings],
        evaluation_required=decision.evaluation_required,
        governance_required=decision.governance_required,
        notes=list(decision.notes),
        credits=[
            CreditView(
                grant=use.grant,
                amount=use.amount,
                used=use.used,
                remaining=use.remaining,
                burnt=use.burnt,
                expires_at=use.expires_at,
            )
            for use in decision.credits
        ],
    )
