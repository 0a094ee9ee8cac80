"""The steps of the model. What an account or a holding becomes is said by `domain.lease`, and only there.

Each step is one atomic thing somewhere: a message sent, a message taken in, a script, a transaction, a use.
Rules of the protocol that are an order of steps are methods of their own, so that a test can break each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from entitlement_sidecar.domain import lease
from entitlement_sidecar.domain.lease import Account, Holding, OnHolderLoss, Outcome, Told
from model.states import ROOT, STEP, Block, Bounds, Centre, Growth, Lane, Opening, Report, Request


class Step(NamedTuple):
    """What happened, and what it makes of the centre, of one lane, and of who else comes in."""

    label: str
    centre: Centre
    lane: Lane
    joins: Lane | None = None


Change = Callable[[Lane], Lane | None]
"""What becomes of a lane; None: the step cannot be taken while a lane is like this."""


class Protocol:
    """The rules as they are. Subclasses break one each."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds

    def first_centre(self) -> Centre:
        """Nothing has happened, and everything may."""
        b = self.bounds
        left = {name: getattr(b, name) for name in _BUDGETS}
        return Centre(**left)

    def first_lane(self, clock: float = 0.0) -> Lane:
        """A holder that has nothing."""
        return Lane(asks=self.bounds.asks, tells=self.bounds.tells, clock=clock)

    # ---- what must hold in every state -------------------------------------------------------------------

    def wrong_centre(self, centre: Centre) -> str:
        """Says which invariant does not hold, or nothing.

        `excess` is zero unless a limit reclaims: then what was used before, and not told in time, is beyond.
        A block that is lost may have told the root of uses that its holders tell once more; the root then
        takes too much of the delegated for admitted, which lets nobody use more.
        """
        if centre.uses > self.bounds.limit + centre.excess:
            return f"{centre.uses} were admitted of {self.bounds.limit}"
        if not centre.lost and centre.admitted + centre.unadmitted > centre.uses:
            return f"{centre.admitted} and {centre.unadmitted} are counted of {centre.uses}"
        if centre.delegated < 0:
            return "more came back than was delegated"
        return ""

    def wrong_lane(self, lane: Lane) -> str:
        """Says what an account must not be, or nothing."""
        if lane.account.granted > lane.wanted:
            return f"{lane.account.granted} were granted where {lane.wanted} were asked for"
        return ""

    # ---- the holder -------------------------------------------------------------------------------------

    def lane_steps(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """Everything that may happen next to a holder, to its account, or to a message between them."""
        if lane.alive:
            yield from self.asks(centre, lane)
            yield from self.uses(centre, lane)
            yield from self.tells(centre, lane)
            yield from self.leaves(centre, lane)
            yield from self.hears(centre, lane)
            yield from self.crashes(centre, lane)
        yield from self.arrivals(centre, lane)
        yield from self.letters(centre, lane)
        yield from self.reclaims(centre, lane)
        if lane.clock < centre.now:
            yield Step("the clock of a holder goes on", centre, replace(lane, clock=lane.clock + STEP))

    def grantors(self, centre: Centre, lane: Lane) -> list[int]:
        """Whom a holder may ask: the one that it has, or any that there is."""
        if lane.grantor is not None:
            return [lane.grantor]
        blocks = [len(centre.accounts) - 1] if centre.accounts else []
        return blocks + ([ROOT] if self.bounds.direct else [])

    def asks(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A holder sends a request, also when the one before was not answered."""
        if not lane.asks or lane.stranger:
            return
        for grantor in self.grantors(centre, lane):
            for wants in self.bounds.amounts:
                holding = lease.ask(self.before_asking(lane, wants), lane.clock)
                sent = replace(
                    lane,
                    grantor=grantor,
                    holding=holding,
                    asks=lane.asks - 1,
                    wanted=lane.wanted + wants,
                    requests=lane.requests | {Request(self.told(holding), wants)},
                )
                yield Step(f"a holder asks {grantor} for {wants}", centre, sent)

    def before_asking(self, lane: Lane, wants: int) -> Holding:  # noqa: ARG002 - a broken rule needs it
        """What a holder has while its request is under way: nothing more than before."""
        return lane.holding

    def told(self, holding: Holding) -> Told:
        """What a holder tells its grantor."""
        return holding.told

    def uses(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A caller is told yes, from memory."""
        if (used := lease.use(lane.holding, 1, lane.clock)) is not None:
            yield Step("a holder uses 1", replace(centre, uses=centre.uses + 1), replace(lane, holding=used))

    def tells(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A holder gives up what it has, or tells its grantor how it stands."""
        holding = lane.holding
        if holding.left > 0:
            yield Step("a holder gives up the rest", centre, replace(lane, holding=lease.give_up(holding)))
        if holding.left > 1:
            yield Step("a holder gives up 1", centre, replace(lane, holding=lease.give_up(holding, 1)))
        if lane.tells and not lane.stranger and holding.used + holding.returned > 0:
            holding = lease.tell(holding)
            request = Request(self.told(holding), 0)
            told = replace(lane, holding=holding, tells=lane.tells - 1, requests=lane.requests | {request})
            yield Step("a holder settles", centre, told)

    def leaves(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A holder learns that its block is lost; from then on it tells the root, and the block nothing."""
        if lane.grantor is None or lane.grantor == ROOT or not centre.accounts[lane.grantor].closed:
            return
        if not lane.stranger:
            yield Step("a holder learns that its block is lost", centre, replace(lane, stranger=True))
        elif (letter := self.estranged(lane.holding)).used + letter.returned > 0:
            told = replace(lane, letters=lane.letters | {letter})
            if told != lane:
                yield Step("a holder of a lost block tells the root", centre, told)

    def estranged(self, holding: Holding) -> Told:
        """What the holder of a lost block tells the root."""
        return holding.estranged

    def hears(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """An answer arrives."""
        for terms in lane.answers:
            heard = replace(lane, holding=self.hear(lane, terms))
            if heard != lane:
                yield Step(f"a holder hears {terms.granted} for request {terms.sequence}", centre, heard)

    def hear(self, lane: Lane, terms: lease.Terms) -> Holding:
        """What an answer makes of a holding."""
        return lease.hear(lane.holding, terms, STEP)

    def crashes(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A holder dies, with or without a journal of what it did; another may come in its place."""
        if not centre.crashes or lane.grantor is None:
            return
        after = replace(centre, crashes=centre.crashes - 1)
        joins = None
        if centre.restarts:
            after = replace(after, restarts=centre.restarts - 1)
            joins = self.first_lane(lane.clock)
        dead = replace(lane, alive=False)
        yield Step("a holder crashes, its journal is lost", after, dead, joins)
        holding = lane.holding
        past = lease.former(holding.granted, holding.used)
        settling = replace(lane, asks=0, tells=1, holding=replace(past, sequence=holding.sequence))
        yield Step("a holder crashes and reads its journal", after, settling, joins)

    # ---- what its grantor does --------------------------------------------------------------------------

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
        """Settles, or grants as well."""
        if not request.wants:
            return lease.absorb(account, request.told)
        return lease.grant(account, request.told, request.wants, free, now + STEP)

    def rest(self, centre: Centre) -> int:
        """What the root may still grant."""
        return self.bounds.limit - centre.admitted - centre.unadmitted - centre.delegated

    def count(self, centre: Centre, outcome: Outcome) -> Centre:
        """Puts an outcome into the root's row."""
        admitted = outcome.used - outcome.overdrawn
        return replace(
            centre,
            delegated=centre.delegated + outcome.granted - outcome.freed - admitted,
            admitted=centre.admitted + admitted,
            unadmitted=centre.unadmitted + outcome.overdrawn,
        )

    def letters(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """What a holder of a lost block says reaches the root."""
        for letter in lane.letters:
            assert lane.grantor is not None
            outcome, orphan = lease.adopt(centre.accounts[lane.grantor], lane.orphan, letter)
            after = with_account(self.count(centre, outcome), lane.grantor, outcome.account)
            yield from _changed(
                centre, lane, "the root hears of a lost block", after, replace(lane, orphan=orphan)
            )

    def reclaims(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """The root takes back what a holder that is silent has."""
        if lane.grantor != ROOT or not centre.ticks < self.bounds.ticks:
            return
        outcome = lease.lose(lane.account, centre.now, OnHolderLoss.RECLAIM)
        untold = lane.holding.used - lane.account.used if outcome.freed else 0
        after = replace(self.count(centre, outcome), excess=centre.excess + untold)
        lost = replace(lane, account=outcome.account)
        yield from _changed(centre, lane, "the root reclaims", after, lost)

    # ---- what happens to all at once ---------------------------------------------------------------------

    def world_steps(self, centre: Centre) -> Iterator[tuple[str, Centre, Change]]:
        """What changes several holders' accounts at once, and how it changes each; None: not now."""
        run = len(centre.redis) - 1
        block = centre.redis[run]
        if block is not None and centre.copies:
            copied = replace(centre, copies=centre.copies - 1, copy=block)
            yield "the replica has everything so far", copied, _copied(block.number)
        if centre.failovers:
            after = replace(
                centre, failovers=centre.failovers - 1, lost=True, redis=(*centre.redis, centre.copy)
            )
            yield "the replica is made the main instance", after, _same
        if centre.flushes and block is not None:
            after = replace(centre, flushes=centre.flushes - 1, lost=True)
            yield f"Redis {run} is flushed", placed(after, run, None), _flushed(block.number)
        if centre.ticks:
            after = replace(centre, ticks=centre.ticks - 1, now=centre.now + STEP)
            yield "time goes on", after, _ticked(centre.now)

    # ---- root, worker and Redis -------------------------------------------------------------------------

    def centre_steps(self, centre: Centre) -> Iterator[tuple[str, Centre]]:
        """Everything that may happen next without any holder."""
        yield from self.opens(centre)
        yield from self.grows(centre)
        yield from self.commands(centre)
        yield from self.shrinks(centre)
        yield from self.reports(centre)
        yield from self.loses(centre)
        if centre.consumes and self.rest(centre) > 0:
            yield (
                "the root admits 1",
                replace(
                    centre, consumes=centre.consumes - 1, admitted=centre.admitted + 1, uses=centre.uses + 1
                ),
            )

    def opens(self, centre: Centre) -> Iterator[tuple[str, Centre]]:
        """The worker opens a block, in the database and then in Redis, without any tokens."""
        number = len(centre.accounts)
        if number >= self.bounds.blocks or (number and not centre.accounts[-1].closed):
            return
        command = Opening(number, len(centre.redis) - 1)
        yield (
            f"the worker opens block {number}",
            replace(
                centre,
                accounts=(*centre.accounts, Account()),
                opened=(*centre.opened, None),
                commands=centre.commands | {command},
            ),
        )

    def grows(self, centre: Centre) -> Iterator[tuple[str, Centre]]:
        """The worker delegates more to the block: the database first, then Redis."""
        number = len(centre.accounts) - 1
        if not centre.grows or number < 0 or centre.opened[number] is None:
            return
        for size in self.bounds.sizes:
            after = self.delegate(replace(centre, grows=centre.grows - 1), number, size)
            if after is not None:
                yield f"the worker grows block {number} by up to {size}", after

    def delegate(self, centre: Centre, number: int, size: int) -> Centre | None:
        """Raises `delegated`; only then is the command for Redis under way."""
        before = centre.accounts[number]
        told = Told(before.sequence + 1, before.used, before.returned)
        outcome = lease.grant(before, told, size, self.rest(centre), 0.0)
        if not outcome.granted:
            return None
        after = with_account(self.count(centre, outcome), number, outcome.account)
        return growing(after, number, outcome.account.granted)

    def commands(self, centre: Centre) -> Iterator[tuple[str, Centre]]:
        """A command of the worker reaches Redis, now or long after."""
        for command in centre.commands:
            if isinstance(command, Opening):
                yield from self.is_opened(centre, command)
                continue
            block = centre.redis[command.run]
            if block is None or not self.is_same(block, command):
                continue
            grown = replace(block, granted=max(block.granted, command.granted))
            if grown != block:
                label = f"Redis {command.run} grows block {command.block} to {command.granted}"
                yield label, placed(centre, command.run, grown)

    def is_same(self, block: Block, command: Growth) -> bool:
        """Whether a command is for this block, and for this opening of it."""
        return block.number == command.block and block.opened == command.opened

    def is_opened(self, centre: Centre, command: Opening) -> Iterator[tuple[str, Centre]]:
        """An opening is numbered by Redis, and its answer may be lost; one that is there stays as it is."""
        block = centre.redis[command.run]
        if block is None or block.number < command.block:
            block = Block(command.block, command.run, centre.openings + 1)
            centre = replace(placed(centre, command.run, block), openings=centre.openings + 1)
            yield f"Redis {command.run} opens block {command.block}, unheard", centre
        if block.number == command.block and centre.opened[command.block] is None:
            opened = list(centre.opened)
            opened[command.block] = block.opened
            yield (
                f"Redis {command.run} has opened block {command.block}",
                replace(centre, opened=tuple(opened)),
            )

    def shrinks(self, centre: Centre) -> Iterator[tuple[str, Centre]]:
        """A block gives up what is free, in Redis first, then tells the root; or it only tells its totals."""
        for run, block in enumerate(centre.redis):
            if block is None or not centre.shrinks or not self.is_its_own(block, run):
                continue
            paid = replace(centre, shrinks=centre.shrinks - 1)
            yield f"block {block.number} in {run} gives up {block.free}", self.shrink(paid, run, block)
            if block.used:
                yield f"block {block.number} in {run} tells its totals", reported(paid, block)

    def shrink(self, centre: Centre, run: int, block: Block) -> Centre:
        """Redis gives up; only then is the root told."""
        smaller = replace(block, returned=block.returned + block.free)
        return reported(placed(centre, run, smaller), smaller)

    def reports(self, centre: Centre) -> Iterator[tuple[str, Centre]]:
        """What a block said reaches the root."""
        for report in centre.reports:
            outcome = lease.absorb(centre.accounts[report.block], report.told)
            after = with_account(self.count(centre, outcome), report.block, outcome.account)
            if after != centre:
                yield f"the root hears from block {report.block}: {report.told}", after

    def loses(self, centre: Centre) -> Iterator[tuple[str, Centre]]:
        """The worker finds that the main instance has not the block that it opened, and forfeits it."""
        number = len(centre.accounts) - 1
        if not centre.lost or number < 0 or centre.accounts[number].closed:
            return
        run = len(centre.redis) - 1
        block = centre.redis[run]
        if block is not None and (block.number, block.run, block.opened) == (
            number,
            run,
            centre.opened[number],
        ):
            return
        outcome = lease.lose(centre.accounts[number], centre.now, OnHolderLoss.FORFEIT)
        yield (
            f"the worker forfeits block {number}",
            with_account(self.count(centre, outcome), number, outcome.account),
        )


_BUDGETS = (
    "grows", "shrinks", "consumes", "crashes", "restarts", "failovers", "copies", "flushes", "ticks",
)  # fmt: skip


def _changed(centre: Centre, lane: Lane, label: str, after: Centre, other: Lane) -> Iterator[Step]:
    if after != centre or other != lane:
        yield Step(label, after, other)


def placed(centre: Centre, run: int, block: Block | None) -> Centre:
    return replace(centre, redis=(*centre.redis[:run], block, *centre.redis[run + 1 :]))


def with_account(centre: Centre, number: int, account: Account) -> Centre:
    return replace(centre, accounts=(*centre.accounts[:number], account, *centre.accounts[number + 1 :]))


def growing(centre: Centre, number: int, granted: int) -> Centre:
    opened = centre.opened[number]
    assert opened is not None
    command = Growth(number, len(centre.redis) - 1, opened, granted)
    return replace(centre, commands=centre.commands | {command})


def reported(centre: Centre, block: Block) -> Centre:
    report = Report(block.number, Told(0, block.used, block.returned))
    return replace(centre, reports=centre.reports | {report})


def _same(lane: Lane) -> Lane:
    return lane


def _copied(number: int) -> Change:
    return lambda lane: replace(lane, copy=lane.account) if lane.grantor == number else lane


def _flushed(number: int) -> Change:
    return lambda lane: replace(lane, account=Account()) if lane.grantor == number else lane


def _ticked(now: float) -> Change:
    return lambda lane: lane if lane.clock == now else None
