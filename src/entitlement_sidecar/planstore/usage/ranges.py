"""Sets of whole numbers as ranges: in order, apart from each other, both ends included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Range = tuple[int, int]
"""First and last."""


def joined(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers in as few ranges as they take, in order."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def without(ranges: Iterable[Range], taken: Sequence[Range]) -> list[Range]:
    """The numbers of `ranges` that are in none of `taken`, which is in order and has no overlaps."""
    left: list[Range] = []
    at, taken = 0, list(taken)
    for first, last in joined(ranges):
        begin = first
        while at < len(taken) and taken[at][1] < begin:
            at += 1
        here = at
        while here < len(taken) and taken[here][0] <= last:
            if taken[here][0] > begin:
                left.append((begin, taken[here][0] - 1))
            begin = taken[here][1] + 1
            here += 1
        if begin <= last:
            left.append((begin, last))
    return left


def size(ranges: Iterable[Range]) -> int:
    """How many numbers they are."""
    return sum(last - first + 1 for first, last in ranges)
