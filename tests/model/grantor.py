"""The steps of grantors: requests that reach the root or a script, and holders that are not heard of."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from entitlement_sidecar.domain import lease
from entitlement_sidecar.domain.lease import Account, OnHolderLoss, Outcome
from model.root import Root, Step
from model.states import ENDS, ROOT, STEP, Block, Centre, Lane, Request, placed, with_account, with_told


class Grantors(Root):
    """What may happen next to a holder's account, as it is."""

    def arrivals(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A request reaches the root, or any Redis instance that has its block."""
        for request in lane.requests:
            what = f"request {request.told.sequence} for {request.wants}"
            if lane.grantor == ROOT:
                yield from _changed(
                    centre, lane, f"{what} reaches the root", *self.at_root(centre, lane, request)
                )
                continue
            for run, block in enumerate(centre.redis):
                if block is None or block.number != lane.grantor or not self.is_its_own(block, run):
                    continue
                label = f"{what} reaches block {block.number} in {run}"
                yield from _changed(centre, lane, label, *self.at_block(centre, lane, request, run))

    def is_its_own(self, block: Block, run: int) -> bool:
        """Whether an instance may touch this block at all."""
        return block.run == run

    def at_root(self, centre: Centre, lane: Lane, request: Request) -> tuple[Centre, Lane]:
        """The root takes a request in, in one transaction."""
        outcome = self.judge(lane.account, request, self.rest(centre), centre.now)
        answers = lane.answers | {outcome.terms} if request.wants else lane.answers
        return self.count(centre, outcome), replace(lane, account=outcome.account, answers=answers)

    def at_block(self, centre: Centre, lane: Lane, request: Request, run: int) -> tuple[Centre, Lane]:
        """A script takes a request in."""
        block = centre.redis[run]
        assert block is not None
        own = block.run == run
        account = lane.account if own else lane.copy
        outcome = self.judge(account, request, block.free, centre.now)
        after = replace(
            block,
            given=block.given + outcome.granted,
            back=block.back + outcome.freed,
            used=block.used + outcome.used,
        )
        answers = lane.answers | {outcome.terms} if request.wants else lane.answers
        changed = {"account" if own else "copy": outcome.account}
        return placed(centre, run, after), replace(lane, answers=answers, **changed)

    def judge(self, account: Account, request: Request, free: int, now: float) -> Outcome:
        """Settles, grants as well, or ends."""
        if request.wants == ENDS:
            return lease.end(account, request.told.used)
        if not request.wants:
            return lease.absorb(account, request.told)
        return lease.grant(account, request.told, request.wants, free, now + STEP)

    def letters(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """What a holder of a lost block says reaches the root."""
        for letter in lane.letters:
            assert lane.grantor is not None
            block, others = centre.accounts[lane.grantor], centre.told[lane.grantor] - lane.orphan.used
            outcome, orphan = lease.adopt(block, lane.orphan, letter, others)
            after = with_account(self.count(centre, outcome), lane.grantor, outcome.account)
            after = with_told(after, lane.grantor, others + orphan.used)
            yield from _changed(
                centre, lane, "the root hears of a lost block", after, replace(lane, orphan=orphan)
            )

    def reclaims(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A grantor takes back what a holder that is silent has, where the limit says so."""
        outcome = lease.lose(lane.account, centre.now, OnHolderLoss.RECLAIM)
        if not self.bounds.reclaims or not lane.account.sequence or outcome.account == lane.account:
            return
        lost = replace(lane, account=outcome.account)
        after = replace(centre, excess=centre.excess + lane.holding.used - lane.account.used)
        if lane.grantor == ROOT:
            yield Step("the root reclaims", self.count(after, outcome), lost)
            return
        for run, block in enumerate(centre.redis):
            if block is not None and (block.number, block.run) == (lane.grantor, run):
                fuller = replace(block, back=block.back + outcome.freed)
                yield Step(f"block {block.number} reclaims", placed(after, run, fuller), lost)


def _changed(centre: Centre, lane: Lane, label: str, after: Centre, other: Lane) -> Iterator[Step]:
    if after != centre or other != lane:
        yield Step(label, after, other)
