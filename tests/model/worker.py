"""The steps of the worker between database and Redis, and what befalls Redis and the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from entitlement_sidecar.domain import lease
from entitlement_sidecar.domain.lease import Account, OnHolderLoss, Told
from model.root import Root
from model.states import (
    STEP,
    Block,
    Centre,
    Growth,
    Lane,
    Opening,
    growing,
    placed,
    reported,
    with_account,
)

Change = Callable[[Lane], Lane | None]
"""What becomes of a lane; None: the step cannot be taken while a lane is like this."""


class Workers(Root):
    """What may happen next to a block, as it is."""

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
                told=(*centre.told, 0),
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


def _same(lane: Lane) -> Lane:
    return lane


def _copied(number: int) -> Change:
    return lambda lane: replace(lane, copy=lane.account) if lane.grantor == number else lane


def _flushed(number: int) -> Change:
    return lambda lane: replace(lane, account=Account()) if lane.grantor == number else lane


def _ticked(now: float) -> Change:
    return lambda lane: lane if lane.clock == now else None
