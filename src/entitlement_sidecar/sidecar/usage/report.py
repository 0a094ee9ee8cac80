"""Judging what services report: which events are facts worth keeping, and what each of them is.

Every event gets an outcome of its own. What is malformed, or of a metric that the catalogue does not name, is
refused here with the field and what would be right; everything else is judged again, and finally, at ingest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from uuid6 import uuid7

from entitlement_sidecar.domain.catalogue import (
    MAX_QUANTITY,
    CatalogueDocument,
    Classification,
    Durability,
    Metric,
)
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.decision import CheckRequest
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult, derived_event_id
from entitlement_sidecar.sidecar.usage.outbox import Outbox, OutboxRecord
from entitlement_sidecar.telemetry import metrics
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
)
from entitlement_sidecar.wire.v1 import usage_pb2

MAX_EVENTS = 1000
"""Events in one report at most."""

MAX_FUTURE = timedelta(minutes=5)
"""How far ahead of this sidecar's clock an event may have happened."""

EARLIEST = datetime.fromisoformat("2000-01-01T00:00:00+00:00")
"""Before this nothing was metered: an older instant is a mistake of units."""


Refusal = Callable[[str], str]
"""Why events of a tenant are not taken; empty: they are."""


def generated_event_id() -> str:
    """A fresh identity, ordered by time (UUIDv7, RFC 9562); reporting again counts again."""
    return str(uuid7())


class UsageReporter:
    """Takes reports of usage."""

    def __init__(
        self, outbox: Outbox, catalogue: Callable[[], CatalogueDocument], clock: Clock, instance: str
    ) -> None:
        self._outbox = outbox
        self._catalogue = catalogue
        self._clock = clock
        self._instance = instance

    async def report(
        self, events: Sequence[usage_pb2.UsageEvent], refusal: Refusal | None = None
    ) -> list[UsageResult]:
        """Keeps what is right; the awaitable ends after the commit. One outcome per event, in order.

        Where no catalogue is held yet, metrics are not judged here: what is well formed is kept, and ingest
        decides. A sidecar that starts while everything behind it is away still loses nothing.

        Args:
            events: What happened.
            refusal: Why events of a tenant are not taken from this caller; None: all are.

        Raises:
            InvalidInputError: There are no events, or too many.
            OutboxFullError: Nothing could be kept.
        """
        if not 1 <= len(events) <= MAX_EVENTS:
            raise InvalidInputError.of("events", f"expected 1 to {MAX_EVENTS} events, got {len(events)}")
        catalogue = self._catalogue()
        context = _Context(catalogue, self._clock.now(), Counter(), refusal)
        judged = [self._judge(event, context) for event in events]
        results = await self._keep(judged, catalogue)
        for result in results:
            _counter(result.outcome)()
        return results

    def consume(self, request: CheckRequest, metric: Metric, event_id: str, lease_id: str) -> UsageEvent:
        """The event that an allowed CONSUME is."""
        now = self._clock.now()
        return UsageEvent(
            id=event_id,
            tenant_id=request.tenant_id,
            metric=metric.key,
            value=request.quantity,
            unit=metric.unit,
            occurred_at=now,
            recorded_at=now,
            # Billable usage is always correlated (S0.5), if only with the consumption itself.
            correlation_id=request.correlation_id or request.request_id or event_id,
            subject=request.subject,
            classification=metric.classification,
            dimensions=request.dimensions,
            registry_version=self._catalogue().version,
            recorded_by=self._instance,
            feature=request.feature,
            lease_id=lease_id,
            id_generated=not request.request_id,
        )

    async def _keep(
        self, judged: Sequence[UsageEvent | UsageResult], catalogue: CatalogueDocument
    ) -> list[UsageResult]:
        """Keeps all or, where the outbox is full, none: a call that is repeated must not count twice.

        So a call that mixes durability classes is kept as its strictest asks.
        """
        events = [item for item in judged if isinstance(item, UsageEvent)]
        kept: Iterator[UsageResult] = iter(())
        if events:
            strictest = min(_durability(event, catalogue) for event in events)
            kept = iter(await self._outbox.append([OutboxRecord(event) for event in events], strictest))
        return [item if isinstance(item, UsageResult) else next(kept) for item in judged]

    def _judge(self, message: usage_pb2.UsageEvent, context: _Context) -> UsageEvent | UsageResult:
        metric = context.catalogue.metrics.get(message.metric)
        problem = next(_problems(message, metric, context.now), "")
        if not problem and context.refusal is not None:
            problem = context.refusal(message.tenant_id)
        if problem:
            return UsageResult(message.id, UsageOutcome.INVALID, problem)
        if metric is None and context.catalogue.version:
            return _unknown_metric(message, context.catalogue)
        event_id, generated = (message.id, False) if message.id else _identity(message, context.repeats)
        return UsageEvent(
            id=event_id,
            tenant_id=message.tenant_id,
            metric=message.metric,
            value=0 if message.consumption_id else message.value,
            unit=metric.unit if metric else message.unit,
            occurred_at=from_timestamp(message.occurred_at)
            if message.HasField("occurred_at")
            else context.now,
            recorded_at=context.now,
            actor_id=message.actor_id,
            correlation_id=message.correlation_id,
            emitter=message.emitter,
            subject=message.subject,
            classification=metric.classification if metric else None,
            dimensions=dict(message.dimensions),
            registry_version=context.catalogue.version,
            recorded_by=self._instance,
            consumption_id=message.consumption_id,
            id_generated=generated,
        )


@cache
def _counter(outcome: UsageOutcome) -> Callable[[], None]:
    """Binds a metric's label once: looking it up costs more than counting."""
    return metrics.usage_reported.labels(outcome.name).inc


class _Context(msgspec.Struct, frozen=True):
    """What the events of one call are judged by. `repeats` counts equal facts of the call."""

    catalogue: CatalogueDocument
    now: datetime
    repeats: Counter[str]
    refusal: Refusal | None = None


def _durability(event: UsageEvent, catalogue: CatalogueDocument) -> Durability:
    metric = catalogue.metrics.get(event.metric)
    return metric.durability if metric else Durability.DURABLE


def _unknown_metric(message: usage_pb2.UsageEvent, catalogue: CatalogueDocument) -> UsageResult:
    known = ", ".join(sorted(catalogue.metrics)[:10]) or "none"
    reason = f"metric: {message.metric!r} is not in catalogue version {catalogue.version}, which has {known}"
    return UsageResult(message.id, UsageOutcome.UNKNOWN_METRIC, reason, retriable=True)


def _identity(message: usage_pb2.UsageEvent, repeats: Counter[str]) -> tuple[str, bool]:
    """An id for an event that has none, and whether it is not safe to send again (S0.5).

    Facts that are equal within one call are told apart by their ordinal.
    """
    if not (message.correlation_id and message.HasField("occurred_at")):
        return generated_event_id(), True

    def derive(ordinal: int) -> str:
        return derived_event_id(
            tenant_id=message.tenant_id,
            metric=message.metric,
            correlation_id=message.correlation_id,
            occurred_at=from_timestamp(message.occurred_at),
            subject=message.subject,
            emitter=message.emitter,
            dimensions=dict(message.dimensions),
            ordinal=ordinal,
        )

    first = derive(0)
    repeats[first] += 1
    return (first if repeats[first] == 1 else derive(repeats[first] - 1)), False


def _problems(message: usage_pb2.UsageEvent, metric: Metric | None, now: datetime) -> Iterator[str]:
    """What is wrong with an event: the field, and what would be right."""
    if not is_tenant(message.tenant_id):
        yield f"tenant_id: {expected(TENANT_FORM, message.tenant_id)}"
    if not is_key(message.metric):
        yield f"metric: {expected(KEY_FORM, message.metric)}"
    if not 0 <= message.value <= MAX_QUANTITY:
        yield f"value: {expected(f'0 to {MAX_QUANTITY}', message.value)}"
    for field, longest in _LONGEST:
        text = getattr(message, field)
        if text and not (len(text) <= longest and text.isprintable()):
            yield f"{field}: expected at most {longest} printable characters"
    if message.HasField("occurred_at"):
        yield from _time_problems(message.occurred_at, now)
    if message.dimensions:
        yield from (f"{field}: {problem}" for field, problem in dimension_problems(message.dimensions))
    if metric is not None:
        yield from _metric_problems(message, metric)


_LONGEST = (
    ("id", MAX_REQUEST_ID),
    ("consumption_id", MAX_REQUEST_ID),
    ("correlation_id", MAX_NAME),
    ("subject", MAX_NAME),
    ("actor_id", MAX_NAME),
    ("emitter", MAX_NAME),
)


def _time_problems(stamp: Timestamp, now: datetime) -> Iterator[str]:
    try:
        occurred_at = from_timestamp(stamp)
    except OverflowError:
        occurred_at = None
    if occurred_at is None or not EARLIEST <= occurred_at <= now + MAX_FUTURE:
        latest = (now + MAX_FUTURE).isoformat(timespec="seconds")
        yield f"occurred_at: expected {EARLIEST.isoformat()} to {latest} (this sidecar's clock + 5 min)"


def _metric_problems(message: usage_pb2.UsageEvent, metric: Metric) -> Iterator[str]:
    if message.unit and message.unit != metric.unit:
        yield f"unit: {expected(repr(metric.unit), message.unit)}"
    billable = metric.classification is Classification.BILLABLE
    if billable and not (message.correlation_id or message.consumption_id):
        yield f"correlation_id: required, because usage of {metric.key!r} is billable"
