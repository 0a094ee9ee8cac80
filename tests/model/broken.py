"""The rules of leases, each broken: what the walk must find a way to, or it looks at nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from entitlement_sidecar.domain import lease
from entitlement_sidecar.domain.lease import Account, Holding, OnHolderLoss, Outcome, Terms, Told
from model.protocol import Protocol
from model.root import Step
from model.states import (
    STEP,
    Block,
    Bounds,
    Centre,
    Growth,
    Lane,
    Request,
    growing,
    placed,
    reported,
    with_account,
)

DIRECT = Bounds(holders=2, blocks=0, direct=True, amounts=(5,), tells=0)
RECLAIM = replace(DIRECT, limit=1, amounts=(1,), ticks=2, reclaims=True)
BLOCK = Bounds(holders=2, amounts=(3,), tells=0)
LOST = Bounds(holders=2, amounts=(3,), tells=1, consumes=3, failovers=1)


class Broken(msgspec.Struct, frozen=True):
    """A rule that is broken, and how: steps of another protocol, functions of `domain.lease`, or both."""

    rule: str
    bounds: Bounds
    protocol: type[Protocol] = Protocol
    functions: dict[str, Callable[..., object]] = {}

    def __str__(self) -> str:
        return self.rule.replace(" ", "-")


# ---- an order of steps is turned round -------------------------------------------------------------------


class GrantsBeforeItDelegates(Protocol):
    """The root's answer leaves, and the transaction that raises `delegated` is not committed."""

    def at_root(self, centre: Centre, lane: Lane, request: Request) -> tuple[Centre, Lane]:
        """Only the lane changes."""
        _, after = super().at_root(centre, lane, request)
        return centre, after


class GrowsRedisFirst(Protocol):
    """The command for Redis leaves before the database knows of it, and the worker dies in between."""

    def delegate(self, centre: Centre, number: int, size: int) -> Centre | None:
        """Only the command is made."""
        return growing(centre, number, centre.accounts[number].granted + size)


class ShrinksTheDatabaseFirst(Protocol):
    """The root is told what is free before Redis has given it up."""

    def shrink(self, centre: Centre, run: int, block: Block) -> Centre:  # noqa: ARG002 - Redis has none of it
        """Only the report is made."""
        return reported(centre, replace(block, returned=block.returned + block.free))


class AdmitsWhatIsDelegated(Protocol):
    """The root admits without looking at what it has delegated."""

    def rest(self, centre: Centre) -> int:
        """The limit less what is known as used."""
        return self.bounds.limit - centre.admitted - centre.unadmitted


class UsesWhatItAskedFor(Protocol):
    """A holder counts on what it asked for before it hears the answer."""

    def before_asking(self, lane: Lane, wants: int) -> Holding:
        """It has that already."""
        holding = lane.holding
        return replace(holding, granted=holding.granted + wants, until=lane.clock + STEP)


class TellsBeforeItGivesUp(Protocol):
    """A holder tells of a return that it may still use."""

    def told(self, holding: Holding) -> Told:
        """All that is left is told as returned."""
        return Told(holding.sequence, holding.used, holding.returned + holding.left)


class KeepsItsNameAfterARestart(Protocol):
    """A restarted holder, its journal lost, goes on in the account of its former self."""

    def crashes(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """It has forgotten what it used, and is told again what it was granted."""
        if centre.crashes and lane.grantor is not None:
            after = replace(centre, crashes=centre.crashes - 1)
            yield Step("a holder restarts with its old name", after, replace(lane, holding=Holding()))


class CountsTheTimeFromTheAnswer(Protocol):
    """The TTL begins when the answer is heard, however long it took."""

    def hear(self, lane: Lane, terms: Terms) -> Holding:
        """As if the request was sent now."""
        holding = lane.holding
        sent = None if holding.sent is None else lane.clock
        return lease.hear(replace(holding, sent=sent), terms, STEP)


# ---- a place is mistaken for another ---------------------------------------------------------------------


class DoesNotLookAtTheRun(Protocol):
    """An instance grants from a block that was delegated to another."""

    def is_its_own(self, block: Block, run: int) -> bool:  # noqa: ARG002 - that is what is broken
        """Every block will do."""
        return True


class DoesNotLookAtTheOpening(Protocol):
    """A command for the block of before a flush fills the one that was opened again after it."""

    def is_same(self, block: Block, command: Growth) -> bool:
        """The number of the block will do."""
        return block.number == command.block


class ReturnsToTwoGrantors(Protocol):
    """The holder of a lost block tells the root of returns that the block has heard of."""

    def estranged(self, holding: Holding) -> Told:
        """All of them."""
        return holding.told


class ForfeitsNothing(Protocol):
    """The worker takes back what a lost block still had."""

    def loses(self, centre: Centre) -> Iterator[tuple[str, Centre]]:
        """As if its holders could not use it any more."""
        for label, after in super().loses(centre):
            number = len(after.accounts) - 1
            outcome = lease.release(after.accounts[number])
            yield label, with_account(self.count(after, outcome), number, outcome.account)


class OpensWithTokens(Protocol):
    """The opening brings the tokens along, so that one that comes again after a flush brings them again."""

    def is_opened(self, centre: Centre, command: object) -> Iterator[tuple[str, Centre]]:
        """What the database has for the block is there at once."""
        for label, after in super().is_opened(centre, command):  # type: ignore[arg-type]
            run = len(after.redis) - 1
            block = after.redis[run]
            if block is not None and block != centre.redis[run]:
                granted = after.accounts[block.number].granted
                yield label, placed(after, run, replace(block, granted=granted))
            else:
                yield label, after


# ---- a function says something else ------------------------------------------------------------------------


def grants_twice(account: Account, told: Told, wants: int, free: int, expires_at: float) -> Outcome:
    """The number of the request is not looked at."""
    return _grant(
        replace(account, sequence=min(account.sequence, told.sequence - 1)), told, wants, free, expires_at
    )


def grants_though_closed(account: Account, told: Told, wants: int, free: int, expires_at: float) -> Outcome:
    """A closed account is granted more."""
    return _grant(replace(account, closed=False), told, wants, free, expires_at)


def grants_what_is_asked(account: Account, told: Told, wants: int, free: int, expires_at: float) -> Outcome:
    """What is free is not looked at."""
    return _grant(account, told, wants, max(wants, free), expires_at)


def believes_uses_twice(account: Account, told: Told) -> Outcome:
    """What is told as used is added, not taken for the total that it is."""
    return _absorb(account, replace(told, used=account.used + told.used))


def believes_returns_twice(account: Account, told: Told) -> Outcome:
    """What is told as returned is added."""
    return _absorb(account, replace(told, returned=account.returned + told.returned))


def reclaims_without_drift(account: Account, now: float, on_loss: OnHolderLoss) -> Outcome:
    """The two clocks are taken for one."""
    return _lose(replace(account, expires_at=account.expires_at - lease.DRIFT), now, on_loss)


def uses_after_the_end(holding: Holding, quantity: int, now: float) -> Holding | None:
    """The time is not looked at."""
    return _use(holding, quantity, min(now, holding.until - 1))


def hears_any_answer(holding: Holding, terms: Terms, ttl: float) -> Holding:
    """The answer to an earlier request prolongs."""
    return _hear(holding, replace(terms, sequence=holding.sequence), ttl)


def hears_nothing_of_the_end(holding: Holding, terms: Terms, ttl: float) -> Holding:
    """The answer of a closed account prolongs."""
    return _hear(holding, replace(terms, closed=False, sequence=holding.sequence), ttl)


def forgets_what_was_offered(holding: Holding) -> Holding:
    """A message leaves, and is not noted."""
    return holding


def ends_and_goes_on(holding: Holding) -> Holding:
    """What is heard of after the end is used."""
    return lease.tell(lease.give_up(holding))


def forgets_a_use(granted: int, used: int) -> Holding:
    """The journal is written after the caller was answered, and the last answer is not in it."""
    return _former(granted, max(0, used - 1))


_absorb, _grant, _lose, _use, _hear = lease.absorb, lease.grant, lease.lose, lease.use, lease.hear
_former = lease.former

BROKEN = [
    Broken("a lease is granted before it is delegated", DIRECT, GrantsBeforeItDelegates),
    Broken("a block grows in Redis first", replace(BLOCK, consumes=3), GrowsRedisFirst),
    Broken(
        "a block shrinks in the database first", replace(BLOCK, shrinks=1, grows=2), ShrinksTheDatabaseFirst
    ),
    Broken("the root admits what is delegated", replace(BLOCK, consumes=3), AdmitsWhatIsDelegated),
    Broken("what was asked for is used before the answer", DIRECT, UsesWhatItAskedFor),
    Broken(
        "a lease goes on after its end",
        replace(DIRECT, amounts=(3,), asks=2, ends=True),
        functions={"finish": ends_and_goes_on},
    ),
    Broken("a return is told before it is given up", replace(DIRECT, tells=1), TellsBeforeItGivesUp),
    Broken(
        "a restarted holder keeps its name", replace(DIRECT, asks=2, crashes=1), KeepsItsNameAfterARestart
    ),
    Broken(
        "a use is answered before the journal has it",
        replace(DIRECT, crashes=1),
        functions={"former": forgets_a_use},
    ),
    Broken("the TTL counts from the answer", RECLAIM, CountsTheTimeFromTheAnswer),
    Broken("the run is not looked at", replace(BLOCK, failovers=1, copies=1), DoesNotLookAtTheRun),
    Broken("the opening is not looked at", replace(BLOCK, grows=1, flushes=1), DoesNotLookAtTheOpening),
    Broken("an opening brings tokens", replace(BLOCK, grows=1, flushes=1), OpensWithTokens),
    Broken("a return is told to the lost block and to the root", LOST, ReturnsToTwoGrantors),
    Broken("what was told is not noted", LOST, functions={"tell": forgets_what_was_offered}),
    Broken("a lost block is taken back", LOST, ForfeitsNothing),
    Broken("a request is granted twice", replace(DIRECT, amounts=(2,)), functions={"grant": grants_twice}),
    Broken(
        "a closed account is granted more",
        replace(RECLAIM, asks=2),
        functions={"grant": grants_though_closed},
    ),
    Broken("what is free is not looked at", DIRECT, functions={"grant": grants_what_is_asked}),
    Broken("a use is believed twice", replace(DIRECT, tells=1), functions={"absorb": believes_uses_twice}),
    Broken(
        "a return is believed twice", replace(DIRECT, tells=1), functions={"absorb": believes_returns_twice}
    ),
    Broken("tokens are reclaimed without drift", RECLAIM, functions={"lose": reclaims_without_drift}),
    Broken("tokens are used after the end", RECLAIM, functions={"use": uses_after_the_end}),
    Broken("any answer prolongs", replace(RECLAIM, asks=2), functions={"hear": hears_any_answer}),
    Broken(
        "a closed account prolongs", replace(RECLAIM, asks=2), functions={"hear": hears_nothing_of_the_end}
    ),
]
"""Each rule, broken, and the smallest bounds in which it can be seen."""
