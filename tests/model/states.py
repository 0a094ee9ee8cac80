"""What the model of leases is made of: one root with its block in Redis, and lanes, one for each holder.

A lane is a holder, the account that its grantor keeps of it, and every message between the two. A message,
once sent, stays: it may arrive at any time, any number of times, before or after any other, or never. That
is loss, delay, duplication and reordering in one. Amounts are small; time goes in steps of three seconds,
with a TTL of one step.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from entitlement_sidecar.domain.lease import Account, Holding, Terms, Told

ROOT = -1
"""The grantor of a lane that holds a lease of the root itself; a block is named by its number."""

ENDS = -1
"""What a request wants that ends a lease."""

STEP = 3.0
"""Seconds by which time goes on, and the TTL of the model."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How far the model goes: everything that happens at all happens at most this often."""

    limit: int = 5
    holders: int = 3
    amounts: tuple[int, ...] = (2,)
    asks: int = 1
    tells: int = 1
    letters: int = 1
    parts: bool = True
    grows: int = 1
    sizes: tuple[int, ...] = (3,)
    shrinks: int = 0
    consumes: int = 0
    crashes: int = 0
    restarts: int = 0
    blocks: int = 1
    failovers: int = 0
    copies: int = 0
    flushes: int = 0
    ticks: int = 0
    reclaims: bool = False
    ends: bool = False
    direct: bool = False


class Request(msgspec.Struct, frozen=True, gc=False):
    """A message of a holder; one that wants 0 only settles."""

    told: Told
    wants: int


class Opening(msgspec.Struct, frozen=True, gc=False):
    """The command that opens a block in a Redis instance. It brings no tokens."""

    block: int
    run: int


class Growth(msgspec.Struct, frozen=True, gc=False):
    """The command that tells a block, as it was opened then, how much it was granted in total."""

    block: int
    run: int
    opened: int
    granted: int


class Report(msgspec.Struct, frozen=True, gc=False):
    """What a block tells the root of itself."""

    block: int
    told: Told


class Block(msgspec.Struct, frozen=True, gc=False):
    """The hash in Redis: its instance, which opening it is of, its own totals, the sums of its holders."""

    number: int
    run: int
    opened: int
    granted: int = 0
    returned: int = 0
    given: int = 0
    back: int = 0
    used: int = 0

    @property
    def free(self) -> int:
        """Tokens that it may grant or give up."""
        return self.granted - self.returned - self.given + self.back


class Lane(msgspec.Struct, frozen=True, gc=False):
    """A holder, what its grantor knows of it, and what is under way between them.

    `copy` is the account in the replica, `orphan` what the holder of a lost block told the root. `wanted` is
    the sum of what it ever asked for, `clock` its monotonic clock, which may be one step behind.
    """

    asks: int
    tells: int
    grantor: int | None = None
    holding: Holding = Holding()
    account: Account = Account()
    copy: Account = Account()
    orphan: Account = Account()
    alive: bool = True
    stranger: bool = False
    wanted: int = 0
    clock: float = 0.0
    requests: frozenset[Request] = frozenset()
    answers: frozenset[Terms] = frozenset()
    letters: frozenset[Told] = frozenset()


class Centre(msgspec.Struct, frozen=True, gc=False):
    """The root's row and accounts of blocks, the Redis instances, their messages, and what may still happen.

    `uses` counts real uses, whoever knows of them; `excess` those that were made, and not told, when their
    tokens were reclaimed. `told` is what all holders of each lost block told the root. `redis` holds the
    block of each instance by its run; the last one is the main one.
    """

    admitted: int = 0
    unadmitted: int = 0
    delegated: int = 0
    uses: int = 0
    excess: int = 0
    accounts: tuple[Account, ...] = ()
    told: tuple[int, ...] = ()
    opened: tuple[int | None, ...] = ()
    redis: tuple[Block | None, ...] = (None,)
    openings: int = 0
    copy: Block | None = None
    lost: bool = False
    now: float = 0.0
    commands: frozenset[Opening | Growth] = frozenset()
    reports: frozenset[Report] = frozenset()
    grows: int = 0
    shrinks: int = 0
    consumes: int = 0
    crashes: int = 0
    restarts: int = 0
    failovers: int = 0
    copies: int = 0
    flushes: int = 0
    ticks: int = 0


def placed(centre: Centre, run: int, block: Block | None) -> Centre:
    return replace(centre, redis=(*centre.redis[:run], block, *centre.redis[run + 1 :]))


def with_account(centre: Centre, number: int, account: Account) -> Centre:
    return replace(centre, accounts=(*centre.accounts[:number], account, *centre.accounts[number + 1 :]))


def with_told(centre: Centre, number: int, told: int) -> Centre:
    return replace(centre, told=(*centre.told[:number], told, *centre.told[number + 1 :]))


def growing(centre: Centre, number: int, granted: int) -> Centre:
    opened = centre.opened[number]
    assert opened is not None
    command = Growth(number, len(centre.redis) - 1, opened, granted)
    return replace(centre, commands=centre.commands | {command})


def reported(centre: Centre, block: Block) -> Centre:
    report = Report(block.number, Told(0, block.used, block.returned))
    return replace(centre, reports=centre.reports | {report})
