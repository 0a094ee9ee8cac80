"""Taking what services report: which events are facts worth keeping, and what each of them is.

Every event gets an outcome of its own, with the rule that decided it and the version of the registry. What is
malformed, late or refused by a rule is not kept. What the registry does not let count (its metric is unknown,
its emitter may not) is kept and shipped all the same: ingest judges everything again, and decides.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Durability, Metric
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.decision import CheckRequest
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.domain.registry import Granularity
from entitlement_sidecar.domain.ruling import Registry, RuleName
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.judging import Call, Kept, Reporting, told
from entitlement_sidecar.sidecar.usage.outbox import Outbox, OutboxRecord
from entitlement_sidecar.sidecar.usage.when_full import may_wait, with_room
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import event_to_proto
from entitlement_sidecar.wire.v1 import usage_pb2

MAX_EVENTS = 1000
"""Events in one report at most."""

_OWN = ("id", "value", "occurred_at", "recorded_at", "correlation_id", "subject", "dimensions")
"""Fields in which consumptions of one feature differ."""

_ANY = "any"
"""Stands for the identity of an event that is told apart from none."""

_STRETCH = 20
"""Events to judge before checks get their turn on the event loop: less than half a millisecond."""


class UsageReporter:
    """Takes reports of usage."""

    def __init__(
        self, outbox: Outbox, catalogue: Callable[[], CatalogueDocument], clock: Clock, instance: str
    ) -> None:
        self._outbox = outbox
        self._catalogue = catalogue
        self._clock = clock
        self._instance = instance
        self._made = Registry(catalogue())

    async def report(
        self, events: Sequence[usage_pb2.UsageEvent], caller: Reporting | None = None
    ) -> list[UsageResult]:
        """Keeps what is right; the awaitable ends after the commit. One outcome per event, in order.

        Where no catalogue is held yet, metrics are not judged here: what is well formed is kept, and ingest
        decides. A sidecar that starts while everything behind it is away still loses nothing.

        Args:
            events: What happened.
            caller: Who reports; None: anybody, about every tenant and in every emitter's name.

        Raises:
            InvalidInputError: There are no events, or too many.
            OutboxFullError: Nothing could be kept.
        """
        if not 1 <= len(events) <= MAX_EVENTS:
            raise InvalidInputError.of("events", f"expected 1 to {MAX_EVENTS} events, got {len(events)}")
        registry = self._registry()
        call = Call(registry, self._clock.now(), self._instance, caller)
        judged: list[Kept | UsageResult] = []
        for event in events:
            if judged and len(judged) % _STRETCH == 0:
                await asyncio.sleep(0)
            judged.append(call.judge(self._seen(event)))
        results = await self._keep(judged, registry.version)
        for outcome, count in Counter(result.outcome for result in results).items():
            _counter(outcome)(count)
        return results

    def _seen(self, event: usage_pb2.UsageEvent) -> usage_pb2.UsageEvent:
        """An event as everything that follows is to see it."""
        return event

    def shown(self, tenant_id: str, name: str) -> str:  # noqa: ARG002 - pseudonyms are of a tenant
        """A subject or actor as everything that follows is to see it."""
        return name

    def consume_alike(self, request: CheckRequest, metric: Metric) -> bytes | None:
        """What events of consumptions like this one have in common, serialised; None where they differ.

        Each adds a generated id, its instants, value, correlation, subject and lease; it has no dimensions.
        """
        registry = self._registry()
        if not registry.judges_alike(metric.key):
            return None
        # Named for a moment: without any correlation it would be judged as uncorrelated.
        event = event_to_proto(self.consume(request, metric, _ANY, ""))
        for field in _OWN:
            event.ClearField(field)
        event.id_generated = True
        return event.SerializeToString()

    def consume(self, request: CheckRequest, metric: Metric, event_id: str, lease_id: str) -> UsageEvent:
        """The event that an allowed CONSUME is. It is kept whatever a rule says, which it then carries."""
        now, registry = self._clock.now(), self._registry()
        event = UsageEvent(
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
            registry_version=registry.version,
            recorded_by=self._instance,
            feature=request.feature,
            lease_id=lease_id,
            id_generated=not request.request_id,
        )
        ruling = registry.judge(event)
        if not ruling.rule:
            return event
        return msgspec.structs.replace(event, classification=ruling.classification, rule=ruling.rule)

    def _registry(self) -> Registry:
        """The registry of the catalogue that is held, made once."""
        document = self._catalogue()
        if document is not self._made.document:
            self._made = Registry(document)
        return self._made

    async def _keep(self, judged: Sequence[Kept | UsageResult], version: int) -> list[UsageResult]:
        """Keeps all or, where the outbox is full, none: a call that is repeated must not count twice.

        So a call that mixes durability classes is kept as its strictest asks.
        """
        keeping = [item for item in judged if isinstance(item, Kept)]
        if not keeping:
            return [item for item in judged if isinstance(item, UsageResult)]
        kept = iter(await self._append(keeping))
        return [_outcome(item, kept, version) if isinstance(item, Kept) else item for item in judged]

    async def _append(self, keeping: Sequence[Kept]) -> list[UsageResult]:
        records = [OutboxRecord(one.event, None, _rolls_up(one.metric)) for one in keeping]
        named = {one.event.metric: one.metric for one in keeping}
        strictest = min(metric.durability if metric else Durability.DURABLE for metric in named.values())

        async def attempt() -> list[UsageResult]:
            return await self._outbox.append(records, strictest)

        return await with_room(attempt, wait=may_wait(_known(named.values())))


def _known(named: Iterable[Metric | None]) -> Iterator[Metric]:
    return (metric for metric in named if metric is not None)


def _rolls_up(metric: Metric | None) -> bool:
    return metric is not None and metric.granularity is Granularity.ROLLUP


def _outcome(item: Kept, results: Iterator[UsageResult], version: int) -> UsageResult:
    """The outcome of an event that was given to the outbox, which knows whether it came before."""
    result, ruling = next(results), item.ruling
    if result.outcome is UsageOutcome.ACCEPTED:
        return told(ruling, result.id, version)
    return msgspec.structs.replace(result, rule=result.rule or RuleName.IDENTITY, registry_version=version)


@cache
def _counter(outcome: UsageOutcome) -> Callable[[float], None]:
    """Binds a metric's label once: looking it up costs more than counting."""
    return metrics.usage_reported.labels(outcome.name).inc
