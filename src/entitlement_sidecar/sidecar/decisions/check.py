"""The main path of a check.

When everything is in memory, `check` returns a decision and no coroutine is made. Where it has to wait (a
tenant not held, quota to admit, an answer fresher than what is held) it returns how to go on: nothing begins
until that is called, so a caller that leaves first leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import msgspec

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision
from entitlement_sidecar.domain.emergency import admission_of
from entitlement_sidecar.domain.errors import InvalidInputError, TenantUnknownError
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.explain import Question, Step, explain
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.sidecar.decisions.alike import Consumed
from entitlement_sidecar.sidecar.decisions.basis import Basis, basis_of, count_of
from entitlement_sidecar.sidecar.decisions.consumption import Claim, Consumptions
from entitlement_sidecar.sidecar.decisions.knowing import Knowing
from entitlement_sidecar.sidecar.decisions.ready import ReadyConsumptions
from entitlement_sidecar.sidecar.leases.authority import QuotaAuthority
from entitlement_sidecar.sidecar.leases.local_authority import LocalAuthority

_Result = TypeVar("_Result")

Later = Callable[[], Coroutine[Any, Any, Decision]]
"""How to go on where a decision has to wait."""

_LOOKED_AT = frozenset({FeatureKind.BOOLEAN, FeatureKind.CONFIG})
"""Kinds of which nothing is used: their CONSUME is a PEEK."""

RECORDED = frozenset({FeatureKind.METERED, FeatureKind.CREDITS})
"""Kinds whose use is a usage event. A seat is not: who holds one is the authority's to know."""


class Admitted(msgspec.Struct, frozen=True):
    """What a CONSUME may be answered with; `usage` is empty where nothing had to be admitted, at `since`."""

    claim: Claim
    since: datetime
    usage: QuotaUsage = QuotaUsage()


class Decisions:
    """Answers checks."""

    def __init__(self, knowing: Knowing, authority: QuotaAuthority, consumptions: Consumptions) -> None:
        self._knowing = knowing
        self._authority = authority
        self._consumptions = consumptions
        # What a CONSUME can be answered from without deciding anew.
        self.ready = ReadyConsumptions(knowing, authority, consumptions)
        self._clock = knowing.clock
        # Counts offline allowances: of this sidecar alone, and only where nobody else can be asked.
        self.offline = LocalAuthority(knowing.clock)
        self._finishing: set[asyncio.Task[Any]] = set()
        # When the last look was decided: what is kept of it holds from then on, not from when it is kept.
        self._looked_at = knowing.clock.now()

    def check(self, request: CheckRequest) -> Decision | Later:
        """Decides one request, or says how to go on where it has to wait.

        Raises:
            VersionNotReachedError, TooStaleError: What the caller demands cannot be had in time.
            IdempotencyConflictError: The request id came before with another quantity.
            InvalidInputError: A seat is asked for without saying for whom.
            OutboxFullError: A CONSUME could not be kept; nothing was answered.
        """
        if request.mode is CheckMode.CONSUME and not self._is_looked_at(request):
            return partial(self._consume, request)
        held = self._knowing.at_once(request)
        if held is None:
            return partial(self._look_later, request)
        return self._look(request, held, request.max_staleness)

    def basis(self, request: CheckRequest, decision: Decision) -> Basis | None:
        """What a decision just made rests on; None when it must be made again each time."""
        return basis_of(self._knowing.knowledge, self._authority, request, decision, self._looked_at)

    async def look_at(self, request: CheckRequest, held: Held, *, fresh_usage: bool) -> Decision:
        """A look at what is known already; `fresh_usage` asks the authority anew."""
        outcome = self._look(request, held, max_age=0.0 if fresh_usage else None)
        return outcome if isinstance(outcome, Decision) else await outcome()

    async def explain(self, request: CheckRequest) -> tuple[Decision, tuple[Step, ...]]:
        """A look, and every step that led to it."""
        held = await self._knowing.in_time(request)
        usage: QuotaUsage | None = None
        try:
            outcome = evaluate(held, request, None, self._clock.now())
            while isinstance(outcome, QuotaAsk):
                looked = self._view(request, outcome, request.max_staleness)
                usage = looked if isinstance(looked, QuotaUsage) else await looked
                newer = await self._knowing.caught_up(request, held, usage)
                # By a newer snapshot it may need no quota, or another one.
                told = usage if newer is held else None
                held = newer
                outcome = evaluate(held, request, told, self._clock.now())
        except TenantUnknownError:
            held, usage = self._knowing.disowned(), None
            outcome = self._tenant_unknown(request)
        return _counted(outcome), explain(Question(held, request, usage, self._clock.now()), outcome)

    async def finish(self) -> None:
        """Waits for consumptions whose callers have left: what was admitted has to be kept."""
        while self._finishing:
            await asyncio.wait(self._finishing)

    def _is_looked_at(self, request: CheckRequest) -> bool:
        feature = self._knowing.catalogue.features.get(request.feature)
        return feature is not None and feature.kind in _LOOKED_AT

    async def _look_later(self, request: CheckRequest) -> Decision:
        outcome = self._look(request, await self._knowing.in_time(request), request.max_staleness)
        return outcome if isinstance(outcome, Decision) else await outcome()

    def _look(self, request: CheckRequest, held: Held, max_age: float | None) -> Decision | Later:
        now = self._looked_at = self._clock.now()
        outcome = evaluate(held, request, None, now)
        if isinstance(outcome, Decision):
            return _counted(outcome)
        usage = self._view(request, outcome, max_age)
        if isinstance(usage, QuotaUsage):
            return _counted(self._with_usage(request, held, usage))
        return partial(self._look_at_usage, request, held, usage)

    async def _look_at_usage(
        self, request: CheckRequest, held: Held, usage: Awaitable[QuotaUsage]
    ) -> Decision:
        try:
            told = await usage
        except TenantUnknownError:
            return _counted(self._tenant_unknown(request))
        newer = await self._knowing.caught_up(request, held, told)
        if newer is held:
            return _counted(self._with_usage(request, held, told))
        # The authority counts by a newer snapshot, which may need no quota, or another one.
        outcome = self._look(request, newer, request.max_staleness)
        return outcome if isinstance(outcome, Decision) else _counted(self._with_usage(request, newer, told))

    def _view(
        self, request: CheckRequest, ask: QuotaAsk, max_age: float | None
    ) -> QuotaUsage | Awaitable[QuotaUsage]:
        if ask.allowance:
            return self._from_allowance(request, ask, "")
        return self._authority.view(request.tenant_id, ask, max_age)

    async def _consume(self, request: CheckRequest) -> Decision:
        """Replays an earlier answer to the same request id, or consumes."""
        async with self._consumptions.claim(request) as claim:
            if claim.earlier is not None:
                return _counted(claim.earlier)
            held = await self._knowing.in_time(request)
            outcome = evaluate(held, request, None, self._clock.now())
            if isinstance(outcome, Decision) and not (outcome.allowed and outcome.kind in RECORDED):
                return _counted(outcome)
            require_subject(outcome, request)
            return _counted(await self.to_its_end(self._admit_and_keep(request, held, outcome, claim)))

    async def to_its_end(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Runs what must not stop half-way: a caller that leaves leaves nothing admitted and not kept."""
        task = asyncio.create_task(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        return await asyncio.shield(task)

    async def _admit_and_keep(
        self, request: CheckRequest, held: Held, outcome: Decision | QuotaAsk, claim: Claim
    ) -> Decision:
        if is_recorded(outcome) and not await self._consumptions.has_room(held.catalogue, [request.feature]):
            return await self._unmetered(request, held)
        if isinstance(outcome, Decision):
            return await self._keep(request, held, outcome, Admitted(claim, self._clock.now()))
        try:
            usage = await self._admitted(request, outcome, claim.event_id)
        except TenantUnknownError:
            return self._tenant_unknown(request)
        since = self._clock.now()
        held, outcome = await self._judged(request, held, usage, claim)
        return await self._keep(request, held, outcome, Admitted(claim, since, usage))

    async def _judged(
        self, request: CheckRequest, held: Held, usage: QuotaUsage, claim: Claim
    ) -> tuple[Held, Decision]:
        """The decision by what the authority said, and what is known then."""
        try:
            held = await self._knowing.caught_up(request, held, usage)
            return held, self._with_usage(request, held, usage, claim.event_id)
        except BaseException:
            self._authority.void(request.tenant_id, usage.lease_id, request.quantity)
            raise

    async def _keep(
        self, request: CheckRequest, held: Held, outcome: Decision, admitted: Admitted
    ) -> Decision:
        usage = admitted.usage
        if not outcome.allowed or outcome.kind not in RECORDED:
            # By a newer snapshot than the authority's, perhaps.
            self._authority.void(request.tenant_id, usage.lease_id, request.quantity)
            return outcome
        lease_id = usage.lease_id or admission_of(outcome) or ""
        answer = await self._consumptions.keep(request, held.catalogue, outcome, admitted.claim, lease_id)
        self.ready.learn(Consumed(request, answer, held, usage, admitted.since))
        return answer

    async def _unmetered(self, request: CheckRequest, held: Held) -> Decision:
        """Answers a CONSUME that cannot be kept, where its metric allows that: by a look."""
        look = msgspec.structs.replace(request, mode=CheckMode.PEEK, request_id="")
        outcome = evaluate(held, look, None, self._clock.now())
        if isinstance(outcome, QuotaAsk):
            view = self._view(look, outcome, None)
            try:
                outcome = self._with_usage(look, held, view if isinstance(view, QuotaUsage) else await view)
            except TenantUnknownError:
                outcome = self._tenant_unknown(look)
        return self._consumptions.unmetered(held.catalogue, request.feature, outcome)

    async def _admitted(self, request: CheckRequest, ask: QuotaAsk, event_id: str) -> QuotaUsage:
        if ask.allowance:
            return self._from_allowance(request, ask, event_id)
        usage = self._authority.consume(request.tenant_id, ask, event_id)
        return usage if isinstance(usage, QuotaUsage) else await usage

    def _with_usage(
        self, request: CheckRequest, held: Held, usage: QuotaUsage, event_id: str = ""
    ) -> Decision:
        now = self._clock.now()
        outcome = evaluate(held, request, usage, now)
        if isinstance(outcome, QuotaAsk) and outcome.allowance:
            # Nobody could be asked, and the feature has an allowance for that.
            outcome = evaluate(held, request, self._from_allowance(request, outcome, event_id), now)
        if isinstance(outcome, QuotaAsk):
            raise TypeError("evaluate asked again for the quota that it was given")
        return outcome

    def _from_allowance(self, request: CheckRequest, ask: QuotaAsk, event_id: str) -> QuotaUsage:
        if ask.quantity:
            return self.offline.consume(request.tenant_id, ask, event_id)
        return self.offline.view(request.tenant_id, ask, None)

    def _tenant_unknown(self, request: CheckRequest) -> Decision:
        return self._with_usage(request, self._knowing.disowned(), QuotaUsage())


def is_recorded(outcome: Decision | QuotaAsk) -> bool:
    """Whether the use, once it is allowed, is a usage event."""
    kind = outcome.feature.kind if isinstance(outcome, QuotaAsk) else outcome.kind
    return kind in RECORDED


def require_subject(outcome: Decision | QuotaAsk, request: CheckRequest) -> None:
    """Refuses to take a seat for nobody.

    Raises:
        InvalidInputError: Names the field.
    """
    if isinstance(outcome, QuotaAsk) and outcome.feature.kind is FeatureKind.SEATS and not request.subject:
        raise InvalidInputError.of("subject", f"expected who takes the seat of {request.feature!r}")


def _counted(decision: Decision) -> Decision:
    count_of(decision)()
    return decision
