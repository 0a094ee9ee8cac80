"""Judging the events of one call: which are well formed, who they are from, and what the registry says.

This runs for every event that is reported, so the usual one is looked at once and built once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Protocol

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, Metric
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.domain.ruling import Registry, RuleName, Ruling
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.identity import identity
from entitlement_sidecar.wire.codec import from_timestamp
from entitlement_sidecar.wire.fields import (
    KEY_FORM,
    MAX_NAME,
    MAX_REQUEST_ID,
    TENANT_FORM,
    dimension_problems,
    expected,
    is_key,
    is_tenant,
    is_text,
)
from entitlement_sidecar.wire.v1 import usage_pb2

EARLIEST = datetime.fromisoformat("2000-01-01T00:00:00+00:00")
LATEST = datetime.fromisoformat("3000-01-01T00:00:00+00:00")
"""Nothing was metered before the one, nothing is from the other on: such instants are mistakes of units."""

_UNJUDGED = Ruling(UsageOutcome.ACCEPTED)
"""Of what is well formed where no catalogue is held: it is kept, and ingest decides."""

_NO_DIMENSIONS: dict[str, str] = {}


class Reporting(Protocol):
    """Who reports usage, and for whom."""

    def refusal(self, tenant_id: str) -> str:
        """Why usage of a tenant is not taken; empty: it is."""
        ...

    def emitter(self, claimed: str) -> str:
        """The emitter of an event that claims one, or none.

        Raises:
            InvalidInputError: It may not claim that one.
        """
        ...


class Kept(msgspec.Struct, frozen=True):
    """An event that is to be kept, and why. `metric` None: no catalogue that is held names it."""

    event: UsageEvent
    ruling: Ruling
    metric: Metric | None


class Call:
    """What the events of one call are judged by.

    Args:
        registry: Of the catalogue that is held; version 0 where none is.
        now: The sidecar's clock.
        instance: This sidecar's instance.
        caller: Who reports; None: anybody.
    """

    def __init__(self, registry: Registry, now: datetime, instance: str, caller: Reporting | None) -> None:
        self._registry = registry
        self._metrics = registry.document.metrics
        self._version = registry.version
        self._now = now
        self._instance = instance
        self._caller = caller
        self._repeats: Counter[str] = Counter()
        self._tenants: set[str] = set()

    def judge(self, message: usage_pb2.UsageEvent) -> Kept | UsageResult:
        """What becomes of one event: kept as what it says, or the outcome that its caller gets."""
        metric = self._metrics.get(message.metric)
        try:
            event = self._event(message, metric)
        except _RefusedError as refused:
            ruling = Ruling(UsageOutcome.INVALID, None, refused.rule, str(refused))
            return told(ruling, message.id, self._version)
        ruling = self._registry.judge(event) if self._version else _UNJUDGED
        if ruling.classification is not event.classification or ruling.rule:
            event = msgspec.structs.replace(event, classification=ruling.classification, rule=ruling.rule)
        if ruling.is_kept:
            return Kept(event, ruling, metric)
        return told(ruling, event.id, self._version)

    def _event(self, message: usage_pb2.UsageEvent, metric: Metric | None) -> UsageEvent:
        tenant_id, consumption_id = message.tenant_id, message.consumption_id
        if tenant_id not in self._tenants:
            self._meet(tenant_id)
        given = message.dimensions
        dimensions = {key: given[key] for key in given} if given else _NO_DIMENSIONS
        if metric is None or not 0 <= message.value <= MAX_QUANTITY or dimensions:
            _require(_problems(message, dimensions))
        texts = _texts(message)
        if len(texts) > MAX_REQUEST_ID or not (texts.isprintable()):
            _require(_text_problems(message))
        emitter = message.emitter
        if self._caller is not None:
            emitter = self._emitter(self._caller, emitter)
        stated = _stated(message.occurred_at) if message.HasField("occurred_at") else None
        event_id, generated = message.id, False
        if not event_id:
            event_id, generated = identity(message, stated, self._repeats)
        return UsageEvent(
            id=event_id,
            tenant_id=tenant_id,
            metric=message.metric,
            value=0 if consumption_id else message.value,
            unit=message.unit or (metric.unit if metric else ""),
            occurred_at=stated or self._now,
            recorded_at=self._now,
            actor_id=message.actor_id,
            correlation_id=message.correlation_id,
            emitter=emitter,
            subject=message.subject,
            classification=metric.classification if metric else None,
            dimensions=dimensions,
            registry_version=self._version,
            recorded_by=self._instance,
            consumption_id=consumption_id,
            id_generated=generated,
        )

    def _meet(self, tenant_id: str) -> None:
        """Looks at a tenant once in a call."""
        if not is_tenant(tenant_id):
            raise _RefusedError(f"tenant_id: {expected(TENANT_FORM, tenant_id)}")
        if self._caller is not None and (refusal := self._caller.refusal(tenant_id)):
            raise _RefusedError(refusal, RuleName.TENANT)
        self._tenants.add(tenant_id)

    def _emitter(self, caller: Reporting, claimed: str) -> str:
        try:
            return caller.emitter(claimed)
        except InvalidInputError as error:
            raise _RefusedError(str(error), RuleName.EMITTER) from error


def told(ruling: Ruling, event_id: str, version: int) -> UsageResult:
    """What a caller is told of a ruling by a version of the catalogue."""
    return UsageResult(
        event_id,
        ruling.outcome,
        ruling.reason,
        rule=ruling.rule,
        registry_version=version,
        classification=ruling.classification,
    )


class _RefusedError(Exception):
    """An event is not taken, whatever the registry says."""

    def __init__(self, reason: str, rule: RuleName = RuleName.MALFORMED) -> None:
        super().__init__(reason)
        self.rule = rule


def _require(problems: Iterator[str]) -> None:
    for problem in problems:
        raise _RefusedError(problem)


def _problems(message: usage_pb2.UsageEvent, dimensions: dict[str, str]) -> Iterator[str]:
    """What is wrong with an event's metric, value and dimensions: the field, and what would be right."""
    if not is_key(message.metric):
        yield f"metric: {expected(KEY_FORM, message.metric)}"
    if not 0 <= message.value <= MAX_QUANTITY:
        yield f"value: {expected(f'0 to {MAX_QUANTITY}', message.value)}"
    yield from (f"{field}: {problem}" for field, problem in dimension_problems(dimensions))


_LONGEST = {
    "id": MAX_REQUEST_ID,
    "consumption_id": MAX_REQUEST_ID,
    "correlation_id": MAX_NAME,
    "subject": MAX_NAME,
    "actor_id": MAX_NAME,
    "emitter": MAX_NAME,
    "unit": MAX_NAME,
}
"""Texts of an event, and how long each may be."""


def _texts(message: usage_pb2.UsageEvent) -> str:
    """All texts of an event as one: looked at one by one only where this one may not be right."""
    return (
        f"{message.id}{message.consumption_id}{message.correlation_id}"
        f"{message.subject}{message.actor_id}{message.emitter}{message.unit}"
    )


def _text_problems(message: usage_pb2.UsageEvent) -> Iterator[str]:
    for field, longest in _LONGEST.items():
        text = getattr(message, field)
        if not is_text(text, longest):
            yield f"{field}: expected at most {longest} printable characters"


def _stated(stamp: Timestamp) -> datetime:
    try:
        occurred_at = from_timestamp(stamp)
    except OverflowError:
        occurred_at = None
    if occurred_at is None or not EARLIEST <= occurred_at < LATEST:
        raise _RefusedError(f"occurred_at: expected {EARLIEST.isoformat()} to {LATEST.isoformat()}")
    return occurred_at
