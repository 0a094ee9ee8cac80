"""What a client says: options and usage as applications write them, and as they travel."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypedDict

import msgspec
import uuid6

from entitlement_sidecar.domain.decision import Decision, Provenance, ProvenanceKind
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.domain.explain import Step
from entitlement_sidecar.wire.codec import decision_from_proto, maybe_timestamp, to_duration
from entitlement_sidecar.wire.v1 import decision_pb2, usage_pb2


class CheckOptions(TypedDict, total=False):
    """What else a check may say.

    Attributes:
        quantity: How much, in the metric's smallest unit; 0 or more, default 1.
        subject: User, agent, project or resource inside the tenant.
        request_id: Names a CONSUME: the same id again gets the first allowed answer.
        correlation_id: Ties the usage of a CONSUME to the work that caused it.
        requested_value: Config features: the value that is about to be used, as JSON has it.
        max_staleness: Oldest answer that is of use, in seconds; 0 asks the source.
        min_snapshot_version: Version that a change was answered with: the answer waits for it.
        dimensions: Attributes of the usage of a CONSUME.
    """

    quantity: int
    subject: str
    request_id: str
    correlation_id: str
    requested_value: Any
    max_staleness: float
    min_snapshot_version: int
    dimensions: dict[str, str]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was used. BILLABLE metrics need a correlation id.

    Attributes:
        tenant_id: Who used it.
        metric: What was used.
        value: How much, in the metric's smallest unit; 0 or more.
        id: Identity: the same id again counts once. Empty: derived by the sidecar where `correlation_id`
            and `occurred_at` are given, otherwise made here, so that a retry inside the call counts once.
        unit: Unit of `value`; empty is the metric's.
        occurred_at: When it happened (aware datetime); None is now.
        subject: User, agent, project or resource inside the tenant.
        actor_id: Who did it.
        correlation_id: Ties it to the work that caused it.
        emitter: The service that reports.
        dimensions: Attributes, at most 16.
        consumption_id: Of an allowed CONSUME: adds attributes to it and counts zero.
    """

    tenant_id: str
    metric: str
    value: int = 1
    id: str = ""
    unit: str = ""
    occurred_at: datetime | None = None
    subject: str = ""
    actor_id: str = ""
    correlation_id: str = ""
    emitter: str = ""
    dimensions: dict[str, str] = {}
    consumption_id: str = ""


class TaskParts(TypedDict, total=False):
    """What else a task may say.

    Attributes:
        input_tokens: Tokens read; 0 or more.
        output_tokens: Tokens written; 0 or more.
        compute_ms: Compute in milliseconds; 0 or more.
        occurred_at: When it ended (aware datetime); absent is now.
        subject: User, agent, project or resource inside the tenant.
        actor_id: Who did it.
        emitter: The service that reports.
        dimensions: Attributes, at most 16.
    """

    input_tokens: int
    output_tokens: int
    compute_ms: int
    occurred_at: datetime
    subject: str
    actor_id: str
    emitter: str
    dimensions: dict[str, str]


class CorrectionOptions(TypedDict, total=False):
    """What else a correction may say.

    Attributes:
        value: What the event should have had, 0 or more; absent: it is voided.
        request_id: The same id for the same event again is the same correction; absent: a fresh one.
        actor_id: Who corrects, for the audit log.
        emitter: The service that corrects; one that may emit the original's metric, where that is billable.
    """

    value: int
    request_id: str
    actor_id: str
    emitter: str


class Explanation(msgspec.Struct, frozen=True):
    """A decision and every step that led to it; one of them is decisive."""

    decision: Decision
    steps: tuple[Step, ...]


class TenantState(msgspec.Struct, frozen=True):
    """Everything that a tenant has: a look at each feature, by name."""

    snapshot_version: int
    entitlements: dict[str, Decision]


def explain_message(
    tenant_id: str, feature: str, options: CheckOptions
) -> decision_pb2.ExplainEntitlementRequest:
    """One question that is only looked at; raises as `check_message`."""
    check = check_message(tenant_id, feature, consume=False, options=options)
    return decision_pb2.ExplainEntitlementRequest(check=check)


def explanation(reply: decision_pb2.ExplainEntitlementResponse) -> Explanation:
    """An answer's explanation."""
    return Explanation(decision_from_proto(reply.decision), tuple(map(_step, reply.steps)))


def _step(message: decision_pb2.ResolutionStep) -> Step:
    about = message.provenance
    provenance = Provenance(ProvenanceKind(about.kind), about.id) if message.HasField("provenance") else None
    return Step(message.rule, message.outcome, provenance, message.applied, message.decisive)


def tenant_state(message: decision_pb2.WatchEntitlementsResponse) -> TenantState:
    """One message of a watch."""
    held = {one.feature: decision_from_proto(one.decision) for one in message.entitlements}
    return TenantState(message.snapshot_version, held)


def check_message(
    tenant_id: str, feature: str, *, consume: bool, options: CheckOptions
) -> decision_pb2.CheckEntitlementRequest:
    """One question. A CONSUME without a request id gets one, so that a retry cannot consume twice.

    Raises:
        InvalidInputError: An option is not of its type.
    """
    given: dict[str, Any] = {**options}
    if "requested_value" in given:
        given["requested_value_json"] = _as_json(given.pop("requested_value"))
    if "max_staleness" in given:
        given["max_staleness"] = to_duration(given["max_staleness"])
    if consume:
        given["mode"] = decision_pb2.CHECK_MODE_CONSUME
        given["request_id"] = given.get("request_id") or str(uuid6.uuid7())
    try:
        return decision_pb2.CheckEntitlementRequest(tenant_id=tenant_id, feature=feature, **given)
    except (TypeError, ValueError) as error:
        raise InvalidInputError.of("check", str(error)) from error


def _as_json(value: Any) -> str:  # noqa: ANN401 - config values are JSON
    try:
        return msgspec.json.encode(value).decode()
    except TypeError as error:
        raise InvalidInputError.of("requested_value", f"not JSON: {error}") from error


def report_message(usages: Iterable[Usage]) -> usage_pb2.ReportUsageRequest:
    """Many facts.

    Raises:
        InvalidInputError: A field is not of its type, or an instant has no zone.
    """
    try:
        return usage_pb2.ReportUsageRequest(events=[_event(usage) for usage in usages])
    except (TypeError, ValueError) as error:
        raise InvalidInputError.of("events", str(error)) from error


def task_message(tenant_id: str, task_id: str, parts: TaskParts) -> usage_pb2.RecordTaskRequest:
    """A task.

    Raises:
        InvalidInputError: A field is not of its type, or the instant has no zone.
    """
    given: dict[str, Any] = {**parts}
    try:
        if "occurred_at" in given:
            given["occurred_at"] = maybe_timestamp(given["occurred_at"])
        return usage_pb2.RecordTaskRequest(tenant_id=tenant_id, task_id=task_id, **given)
    except (TypeError, ValueError) as error:
        raise InvalidInputError.of("task", str(error)) from error


def correction_message(
    tenant_id: str, original_id: str, reason: str, options: CorrectionOptions
) -> usage_pb2.CorrectUsageRequest:
    """A correction; without a request id it gets one, so that a retry cannot correct twice.

    Raises:
        InvalidInputError: A field is not of its type.
    """
    given: dict[str, Any] = {**options}
    given["request_id"] = given.get("request_id") or str(uuid6.uuid7())
    try:
        return usage_pb2.CorrectUsageRequest(
            tenant_id=tenant_id, original_id=original_id, reason=reason, **given
        )
    except (TypeError, ValueError) as error:
        raise InvalidInputError.of("correction", str(error)) from error


def _event(usage: Usage) -> usage_pb2.UsageEvent:
    fields = {name: getattr(usage, name) for name in usage.__struct_fields__ if name != "occurred_at"}
    derivable = usage.correlation_id and usage.occurred_at
    fields["id"] = usage.id or ("" if derivable else str(uuid6.uuid7()))
    return usage_pb2.UsageEvent(occurred_at=maybe_timestamp(usage.occurred_at), **fields)
