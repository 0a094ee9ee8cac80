"""Atomic batches: everything of a tenant is consumed, or nothing.

Nothing is asked of the authority until every check is allowed as far as it can be known without it; then it
admits all or nothing in one call, and all events are kept in one commit before the answer leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

import msgspec

from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision
from entitlement_sidecar.domain.emergency import admission_of
from entitlement_sidecar.domain.errors import IdempotencyConflictError, OutboxFullError, TenantUnknownError
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.sidecar.decisions.check import RECORDED, Decisions, is_recorded, require_subject
from entitlement_sidecar.sidecar.decisions.consumption import Claim, Consumptions, Kept
from entitlement_sidecar.sidecar.decisions.knowing import Knowing
from entitlement_sidecar.sidecar.leases.authority import QuotaAuthority


class Outcome(msgspec.Struct, frozen=True):
    """Decisions in the order of the questions. `consumed`: all are allowed, and all is consumed."""

    decisions: list[Decision]
    consumed: bool


class _Question(msgspec.Struct):
    """One check of a batch on its way; `ask` where only an authority can say."""

    request: CheckRequest
    claim: Claim
    held: Held | None = None
    decision: Decision | None = None
    ask: QuotaAsk | None = None
    usage: QuotaUsage = QuotaUsage()

    @property
    def denied(self) -> bool:
        """It is decided, and it is a no."""
        return self.decision is not None and not self.decision.allowed

    @property
    def is_recorded(self) -> bool:
        """Its use would be a usage event, as far as it is decided."""
        outcome = self.decision or self.ask
        consumes = self.request.mode is CheckMode.CONSUME and not self.denied
        return consumes and outcome is not None and is_recorded(outcome)

    @property
    def takes_unrecorded(self) -> bool:
        """It takes something that is no usage event: a seat."""
        return self.ask is not None and self.ask.quantity > 0 and not self.is_recorded

    def consumes_of(self, *, allowance: bool) -> bool:
        """Whether it has to be admitted, by the authority or against the offline allowance."""
        return self.ask is not None and self.ask.quantity > 0 and self.ask.allowance is allowance


class AtomicBatches:
    """Answers batches of one tenant, all or nothing."""

    def __init__(
        self, decisions: Decisions, knowing: Knowing, authority: QuotaAuthority, consumptions: Consumptions
    ) -> None:
        self._decisions = decisions
        self._knowing = knowing
        self._authority = authority
        self._consumptions = consumptions
        self._clock = knowing.clock

    async def check(self, requests: Sequence[CheckRequest]) -> Outcome:
        """Decides all, and consumes all or nothing. The requests are of one tenant, each id stands once.

        Raises:
            IdempotencyConflictError: Some of the request ids came before and others did not, or with others.
            VersionNotReachedError, TooStaleError: What a check demands cannot be had in time.
            InvalidInputError: A seat is asked for without saying for whom.
            OutboxFullError: The events could not be kept; nothing was answered.
        """
        async with AsyncExitStack() as stack:
            questions = await self._claimed(requests, stack)
            earlier = [q.claim.earlier for q in questions if q.request.mode is CheckMode.CONSUME]
            if earlier and all(earlier):
                return await self._again(questions)
            if any(earlier):
                raise IdempotencyConflictError(
                    "some request ids of this atomic batch were used before and others were not: "
                    "send the batch as it was, or new ids"
                )
            return await self._decisions.to_its_end(self._decide(questions))

    async def _claimed(self, requests: Sequence[CheckRequest], stack: AsyncExitStack) -> list[_Question]:
        claims: dict[int, Claim] = {}

        def place(index: int) -> tuple[str, str]:
            return requests[index].feature, requests[index].request_id

        # One order for everyone, so that two batches never wait for each other in a circle.
        for index in sorted(range(len(requests)), key=place):
            request = requests[index]
            if request.mode is CheckMode.CONSUME:
                claims[index] = await stack.enter_async_context(self._consumptions.claim(request))
        return [_Question(request, claims.get(n, Claim(""))) for n, request in enumerate(requests)]

    async def _again(self, questions: Sequence[_Question]) -> Outcome:
        """The first answers of a batch that was consumed before."""
        return Outcome([q.claim.earlier or await self._peek(q.request) for q in questions], consumed=True)

    async def _peek(self, request: CheckRequest) -> Decision:
        outcome = self._decisions.check(msgspec.structs.replace(request, mode=CheckMode.PEEK, request_id=""))
        return outcome if isinstance(outcome, Decision) else await outcome()

    async def _decide(self, questions: Sequence[_Question]) -> Outcome:
        for question in questions:
            self._judge(question, await self._knowing.in_time(question.request))
            await self._look(question)
        if not await self._has_room(questions):
            return await self._unmetered(questions)
        # The authority first: what it refuses has not cost an allowance.
        admitted = await self._admit(questions, self._authority, allowance=False)
        admitted = admitted and await self._admit(questions, self._decisions.offline, allowance=True)
        if admitted and not any(question.denied for question in questions):
            return Outcome(await self._keep(questions), consumed=True)
        self._give_back(questions)
        # Nothing was consumed: what would have been allowed is answered as a look.
        return Outcome([await self._not_consumed(question) for question in questions], consumed=False)

    def _give_back(self, questions: Sequence[_Question]) -> None:
        """What was admitted though something else was denied: by a newer snapshot, or an allowance."""
        for question in questions:
            if question.usage.admitted:
                request = question.request
                self._authority.void(request.tenant_id, question.usage.lease_id, request.quantity)

    async def _has_room(self, questions: Sequence[_Question]) -> bool:
        """Whether what would be recorded can be. What is denied already, or a seat, is not recorded.

        Raises:
            OutboxFullError: There is no room, and not all of it may go without a record.
        """
        recorded = [question.request.feature for question in questions if question.is_recorded]
        if not recorded or await self._consumptions.has_room(self._knowing.catalogue, recorded):
            return True
        if any(question.takes_unrecorded for question in questions):
            raise OutboxFullError("the outbox has no room, and what is taken with it cannot go unrecorded")
        return False

    async def _unmetered(self, questions: Sequence[_Question]) -> Outcome:
        """All or nothing as ever, of looks: nothing is admitted or kept."""
        looks = [await self._peek(question.request) for question in questions]
        if not all(look.allowed for look in looks):
            return Outcome(looks, consumed=False)
        decisions = [
            self._consumptions.unmetered(self._knowing.catalogue, question.request.feature, look)
            if question.is_recorded
            else look
            for question, look in zip(questions, looks, strict=True)
        ]
        return Outcome(decisions, consumed=True)

    async def _not_consumed(self, question: _Question) -> Decision:
        if question.decision is not None and question.denied:
            return question.decision
        return await self._peek(question.request)

    def _judge(self, question: _Question, held: Held, usage: QuotaUsage | None = None) -> None:
        outcome = evaluate(held, question.request, usage, self._clock.now())
        require_subject(outcome, question.request)
        question.held = held
        if isinstance(outcome, QuotaAsk):
            question.ask = outcome
        else:
            question.ask, question.decision = None, outcome

    async def _look(self, question: _Question) -> None:
        """Answers what only looks: it takes nothing, and is not part of what is admitted."""
        if question.ask is not None and not question.ask.quantity:
            question.ask, question.decision = None, await self._peek(question.request)

    async def _admit(
        self, questions: Sequence[_Question], authority: QuotaAuthority, *, allowance: bool
    ) -> bool:
        """Has all that is counted there admitted together. Says whether nothing stands in the way."""
        if any(question.denied for question in questions):
            return False
        asking = [question for question in questions if question.consumes_of(allowance=allowance)]
        if not asking:
            return True
        asked = [(question.ask, question.claim.event_id) for question in asking if question.ask is not None]
        try:
            outcome = authority.consume_all(asking[0].request.tenant_id, asked)
            whole, usages = outcome if isinstance(outcome, tuple) else await outcome
        except TenantUnknownError:
            for question in asking:
                self._judge(question, self._knowing.disowned())
            return False
        for question, usage in zip(asking, usages, strict=True):
            await self._judge_by(question, usage)
        return whole or all(usage.unavailable for usage in usages)

    async def _judge_by(self, question: _Question, usage: QuotaUsage) -> None:
        question.usage = usage
        held = question.held or self._knowing.disowned()
        self._judge(question, await self._knowing.caught_up(question.request, held, usage), usage)

    async def _keep(self, questions: Sequence[_Question]) -> list[Decision]:
        catalogue = self._knowing.catalogue
        keeping = [
            Kept(q.request, q.decision, q.claim, q.usage.lease_id or admission_of(q.decision) or "")
            for q in questions
            if q.decision is not None and q.request.mode is CheckMode.CONSUME and q.decision.kind in RECORDED
        ]
        kept = iter(await self._consumptions.keep_all(catalogue, keeping))
        recorded = {id(one.request): one for one in keeping}
        decided = [(q.request, q.decision) for q in questions if q.decision is not None]
        return [next(kept) if id(request) in recorded else decision for request, decision in decided]
