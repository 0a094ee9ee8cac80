"""Tasks: the work itself, its tokens and its compute in one report, all or nothing (S3.5).

The catalogue says in `task_metrics` which metric each part counts under; a part that it does not name is not
recorded. The identity of each event comes from tenant, task and part, so a report that is sent again counts
once, and one that says something else of the same task is a conflict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Durability
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import NotFoundError, SourceUnavailableError
from entitlement_sidecar.domain.ruling import Registry, RuleName, Ruling
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult, task_event_id
from entitlement_sidecar.sidecar.usage.outbox import Outbox, OutboxRecord
from entitlement_sidecar.sidecar.usage.when_full import may_wait, with_room
from entitlement_sidecar.telemetry import metrics

RETRY_AFTER = 1.0
"""Seconds after which a catalogue may be held, where there is none yet."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task that has ended. `occurred_at` None: now. Tokens are counts, `compute_ms` is milliseconds."""

    tenant_id: str
    task_id: str
    input_tokens: int = 0
    output_tokens: int = 0
    compute_ms: int = 0
    occurred_at: datetime | None = None
    subject: str = ""
    actor_id: str = ""
    emitter: str = ""
    dimensions: dict[str, str] = {}


class _Judged(msgspec.Struct, frozen=True):
    """One event of a task, and what the registry makes of it."""

    event: UsageEvent
    ruling: Ruling


class TaskRecorder:
    """Records tasks.

    Args:
        outbox: Keeps their events.
        catalogue: The catalogue document in force.
        clock: The wall clock.
        instance: This sidecar's instance.
    """

    def __init__(
        self, outbox: Outbox, catalogue: Callable[[], CatalogueDocument], clock: Clock, instance: str
    ) -> None:
        self._outbox = outbox
        self._catalogue = catalogue
        self._clock = clock
        self._instance = instance
        self._held = Registry(catalogue())

    async def record(self, task: Task) -> list[UsageResult]:
        """Keeps one event per part that the catalogue names, all or none; ends after the commit.

        One outcome each, in the order task, input tokens, output tokens, compute.

        Raises:
            SourceUnavailableError: No catalogue is held yet, so nobody knows which metrics these are.
            NotFoundError: The catalogue names no metric of tasks.
            OutboxFullError: Nothing was kept.
        """
        registry = self._registry()
        judged = [_judged(event, registry) for event in self._events(task, registry.document)]
        if not judged:
            raise NotFoundError(
                f"catalogue version {registry.version} does not say how tasks are counted: "
                "give it task_metrics, for example `task_metrics: {input_tokens: tokens.input}`"
            )
        results = await self._keep(judged, registry)
        for result in results:
            metrics.usage_reported.labels(result.outcome.name).inc()
        return results

    def _registry(self) -> Registry:
        document = self._catalogue()
        if not document.version:
            raise SourceUnavailableError("no catalogue is held yet: nobody knows what a task is", RETRY_AFTER)
        if document is not self._held.document:
            self._held = Registry(document)
        return self._held

    def _events(self, task: Task, catalogue: CatalogueDocument) -> Iterator[UsageEvent]:
        now = self._clock.now()
        for part, value in _parts(task):
            key = getattr(catalogue.task_metrics, part)
            if key:
                metric = catalogue.metrics.get(key)
                yield UsageEvent(
                    id=task_event_id(task.tenant_id, task.task_id, part),
                    tenant_id=task.tenant_id,
                    metric=key,
                    value=value,
                    unit=metric.unit if metric else "",
                    occurred_at=task.occurred_at or now,
                    recorded_at=now,
                    actor_id=task.actor_id,
                    correlation_id=task.task_id,
                    emitter=task.emitter,
                    subject=task.subject,
                    dimensions=task.dimensions,
                    registry_version=catalogue.version,
                    recorded_by=self._instance,
                )

    async def _keep(self, judged: Sequence[_Judged], registry: Registry) -> list[UsageResult]:
        if not all(one.ruling.is_kept for one in judged):
            return [_result(one, _refusal(one), registry) for one in judged]
        kept = await self._append([one.event for one in judged], registry.document)
        return [_result(one, _told(one, result), registry) for one, result in zip(judged, kept, strict=True)]

    async def _append(self, events: Sequence[UsageEvent], catalogue: CatalogueDocument) -> list[UsageResult]:
        records = [OutboxRecord(event) for event in events]
        strictest = min(_durability(event, catalogue) for event in events)
        known = (catalogue.metrics.get(event.metric) for event in events)

        async def attempt() -> list[UsageResult]:
            return await self._outbox.append(records, strictest, atomic=True)

        return await with_room(attempt, wait=may_wait(metric for metric in known if metric))


def _parts(task: Task) -> tuple[tuple[str, int], ...]:
    """What a task is made of, by the names that the catalogue uses; a task itself counts one."""
    return (
        ("task", 1),
        ("input_tokens", task.input_tokens),
        ("output_tokens", task.output_tokens),
        ("compute_ms", task.compute_ms),
    )


def _judged(event: UsageEvent, registry: Registry) -> _Judged:
    ruling = registry.judge(event)
    judged = msgspec.structs.replace(event, classification=ruling.classification, rule=ruling.rule)
    return _Judged(judged, ruling)


def _durability(event: UsageEvent, catalogue: CatalogueDocument) -> Durability:
    metric = catalogue.metrics.get(event.metric)
    return metric.durability if metric else Durability.DURABLE


def _refusal(judged: _Judged) -> UsageResult:
    """What becomes of an event of a task that is not kept: its own fault, or another part's."""
    ruling = judged.ruling
    if not ruling.is_kept:
        return UsageResult(judged.event.id, ruling.outcome, ruling.reason, rule=ruling.rule)
    reason = "not kept: another part of the task is refused"
    return UsageResult(judged.event.id, UsageOutcome.INVALID, reason, retriable=True, rule=RuleName.ATOMIC)


def _told(judged: _Judged, kept: UsageResult) -> UsageResult:
    """The outbox's outcome; where the event is kept for operators alone, that."""
    if kept.outcome is not UsageOutcome.ACCEPTED:
        return kept
    ruling = judged.ruling
    return UsageResult(kept.id, ruling.outcome, ruling.reason, rule=ruling.rule)


def _result(judged: _Judged, outcome: UsageResult, registry: Registry) -> UsageResult:
    counts = judged.ruling.classification if judged.ruling.is_kept else None
    return msgspec.structs.replace(outcome, registry_version=registry.version, classification=counts)
