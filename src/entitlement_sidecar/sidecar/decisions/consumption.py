"""A CONSUME is a usage event (DESIGN 4): kept on disk before its answer leaves.

The same request id again gets the first allowed answer, also after a restart, from the index that the outbox
keeps. Two calls with one request id at once take turns. Denials are not remembered and consume nothing.

Where the outbox has no room, the metric says what becomes of it (`usage.when_full`). A consumption that goes
unmetered is a look with a warning: nothing is counted or kept, and the same request id consumes later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification, Metric
from entitlement_sidecar.domain.decision import CheckRequest, Decision, DecisionWarning, WarningKind
from entitlement_sidecar.domain.errors import IdempotencyConflictError, OutboxFullError
from entitlement_sidecar.domain.registry import Granularity
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult, consumption_event_id
from entitlement_sidecar.sidecar.leases.authority import QuotaAuthority
from entitlement_sidecar.sidecar.usage.identity import generated_event_id
from entitlement_sidecar.sidecar.usage.outbox import Consumption, Outbox, OutboxRecord
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.sidecar.usage.when_full import may_go_unmetered, may_wait, with_room
from entitlement_sidecar.telemetry import metrics as counted
from entitlement_sidecar.wire.codec import decision_from_proto, decision_to_proto
from entitlement_sidecar.wire.v1 import decision_pb2

_FULL_FOR = 1.0
"""Seconds that nothing is admitted after something admitted could not be written: the disk itself is full."""


class Claim(msgspec.Struct, frozen=True):
    """The right to answer one request id now. `earlier` is the answer that it already got."""

    event_id: str
    earlier: Decision | None = None


class Kept(msgspec.Struct, frozen=True):
    """An allowed CONSUME that has to be kept; `lease_id` names its admission."""

    request: CheckRequest
    decision: Decision
    claim: Claim
    lease_id: str


class _Turn:
    """Whose turn it is for one request id, and how many want it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class Consumptions:
    """Keeps allowed CONSUMEs, and answers repeated ones."""

    def __init__(self, outbox: Outbox, reporter: UsageReporter, authority: QuotaAuthority) -> None:
        """`authority` is told what becomes of what it admitted."""
        self.outbox = outbox
        self.reporter = reporter
        self._authority = authority
        self._turns: dict[str, _Turn] = {}
        # By the event loop's clock; 0 where everything could be written.
        self.full_until = 0.0

    @asynccontextmanager
    async def claim(self, request: CheckRequest) -> AsyncIterator[Claim]:
        """Takes the request id's turn.

        Raises:
            IdempotencyConflictError: The request id came before with another quantity.
        """
        if not request.request_id:
            yield Claim(generated_event_id())
            return
        event_id = consumption_event_id(request.tenant_id, request.feature, request.request_id)
        turn = self._turns.setdefault(event_id, _Turn())
        turn.waiting += 1
        try:
            async with turn.lock:
                yield Claim(event_id, await self._earlier(request, event_id))
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[event_id]

    async def has_room(self, catalogue: CatalogueDocument, features: Sequence[str]) -> bool:
        """Whether CONSUMEs of these features can be kept; asked before anything is admitted.

        Waits for room where a metric says so. False: there is none, and all of them may go unmetered.

        Raises:
            OutboxFullError: There is none.
        """
        metrics = [metric_of(catalogue, feature) for feature in features]
        billable = any(metric.classification is Classification.BILLABLE for metric in metrics)

        async def attempt() -> None:
            left = self.full_until - asyncio.get_running_loop().time()
            if left > 0:
                raise OutboxFullError("the disk of the outbox is full or failing", left)
            self.full_until = 0.0
            await self.outbox.require_room(len(features), billable=billable)

        try:
            await with_room(attempt, wait=may_wait(metrics))
        except OutboxFullError:
            if not may_go_unmetered(metrics):
                raise
            return False
        return True

    def note_full(self) -> None:
        """Something admitted could not be written. There was room a moment ago: the disk itself has none."""
        self.full_until = asyncio.get_running_loop().time() + _FULL_FOR

    def unmetered(self, catalogue: CatalogueDocument, feature: str, decision: Decision) -> Decision:
        """An allowed decision whose use is not recorded: it says so, and is counted as such."""
        if not decision.allowed:
            return decision
        metric = metric_of(catalogue, feature).key
        counted.usage_unmetered.labels(metric).inc()
        warning = DecisionWarning(WarningKind.USAGE_UNMETERED, metric)
        return msgspec.structs.replace(decision, warnings=(*decision.warnings, warning))

    async def _earlier(self, request: CheckRequest, event_id: str) -> Decision | None:
        first = await self.outbox.consumption(request.tenant_id, event_id)
        if first is None:
            return None
        if first.quantity != request.quantity:
            raise IdempotencyConflictError(
                f"request_id {request.request_id!r} was used for quantity {first.quantity}, "
                f"not {request.quantity}: use a new request_id for another consumption"
            )
        return decision_from_proto(decision_pb2.Decision.FromString(first.answer))

    async def keep(
        self,
        request: CheckRequest,
        catalogue: CatalogueDocument,
        decision: Decision,
        claim: Claim,
        lease_id: str,
    ) -> Decision:
        """Commits the usage event of an allowed CONSUME, and returns the answer that may leave now.

        Raises:
            OutboxFullError: It could not be kept, and may not go without.
            IdempotencyConflictError: The event's identity is taken by another fact.
        """
        [kept] = await self.keep_all(catalogue, [Kept(request, decision, claim, lease_id)])
        return kept

    async def keep_all(self, catalogue: CatalogueDocument, consumed: Sequence[Kept]) -> list[Decision]:
        """Commits the usage events of several allowed CONSUMEs at once, all or none; raises as `keep`."""
        if not consumed:
            return []
        try:
            answers, outcomes = await self._kept(catalogue, consumed)
        except BaseException:
            self.void(consumed)
            raise
        for one, outcome in zip(consumed, outcomes, strict=True):
            if outcome is UsageOutcome.ACCEPTED:
                self._authority.kept(one.lease_id, one.request.quantity)
            else:
                # Its event was there already, and used what its own admission took.
                self.void([one])
        return answers

    def void(self, admitted: Sequence[Kept]) -> None:
        """Gives back what was admitted and is not answered as consumed."""
        for one in admitted:
            self._authority.void(one.request.tenant_id, one.lease_id, one.request.quantity)

    async def _kept(
        self, catalogue: CatalogueDocument, consumed: Sequence[Kept]
    ) -> tuple[list[Decision], list[UsageOutcome]]:
        """The answers, and what became of their events; INVALID where none is kept."""
        metrics = [metric_of(catalogue, one.request.feature) for one in consumed]
        answers = [
            msgspec.structs.replace(one.decision, consumption_id=one.claim.event_id) for one in consumed
        ]
        records = [self._record(*three) for three in zip(consumed, metrics, answers, strict=True)]
        try:
            results = await self._append(records, metrics)
        except OutboxFullError:
            self.note_full()
            if not may_go_unmetered(metrics):
                raise
            unmetered = [self.unmetered(catalogue, one.request.feature, one.decision) for one in consumed]
            return unmetered, [UsageOutcome.INVALID] * len(consumed)
        for one, result in zip(consumed, results, strict=True):
            if result.outcome is UsageOutcome.CONFLICT:
                raise IdempotencyConflictError(f"request_id {one.request.request_id!r}: {result.reason}")
        return answers, [result.outcome for result in results]

    async def _append(self, records: list[OutboxRecord], metrics: Sequence[Metric]) -> list[UsageResult]:
        durability = min(metric.durability for metric in metrics)

        async def attempt() -> list[UsageResult]:
            return await self.outbox.append(records, durability, atomic=len(records) > 1)

        return await with_room(attempt, wait=may_wait(metrics))

    def _record(self, kept: Kept, metric: Metric, answer: Decision) -> OutboxRecord:
        event = self.reporter.consume(kept.request, metric, kept.claim.event_id, kept.lease_id)
        rollup = metric.granularity is Granularity.ROLLUP
        if not kept.request.request_id:
            return OutboxRecord(event, rollup=rollup)
        told = decision_to_proto(answer).SerializeToString()
        return OutboxRecord(event, Consumption(kept.request.quantity, told), rollup)


def metric_of(catalogue: CatalogueDocument, key: str) -> Metric:
    """The metric that a feature's usage counts on."""
    feature = catalogue.features[key]
    # A feature may name a metric that this version of the catalogue lacks: the ledger will say so.
    return catalogue.metric_of(feature) or Metric(feature.metric or feature.key, domain="", unit="")
