"""How large a block is: large enough that sidecars find quota, small enough that others do too. Pure."""

from __future__ import annotations

NEAR = 10
"""Near the limit: less than one part in so many is left."""


def goal(total: int, whole: int, *, wary: bool = False) -> int:
    """How much of what is left, `total`, a block should have free, where a limit has `whole` in all.

    A half; near the limit a quarter, because what lies in a block has to be asked for by everyone else. An
    eighth after much was lost (`wary`): a Redis that is lost again and again takes a block along each time.
    """
    if wary:
        return max(0, total // 8)
    return max(0, total // (4 if total * NEAR < whole else 2))


def resized(rest: int, free: int, whole: int, *, wary: bool = False) -> int:
    """By how much a block should grow, or below 0 shrink.

    `rest` is what nobody has of the limit, below 0 where more is out than there is; `free` lies in the block.
    Small differences are left alone: each change is a transaction.
    """
    if rest < 0:
        return max(rest, -free)
    aim = goal(rest + free, whole, wary=wary)
    if free * 2 < aim or free > aim * 2:
        return aim - free
    return 0
