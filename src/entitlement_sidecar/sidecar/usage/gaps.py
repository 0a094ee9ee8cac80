"""What becomes of sequences that the plan store misses: on their way, given up, or lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from entitlement_sidecar.sidecar.usage.outbox import SequenceRange

QUEUED, DECLARED = "queued", "declared"
"""What an outbox knows of a sequence: on its way, or never to be sent (a dead letter, or declared before)."""

LAST_SEQUENCE = (1 << 40) - 1
"""The highest sequence that an epoch can have."""

Known = tuple[int, int, str]
"""First and last sequence of a run, and `QUEUED` or `DECLARED`."""


class Gaps(msgspec.Struct, frozen=True):
    """`declared` will not come; `lost` of these were settled here, and are counted as lost from now on."""

    declared: tuple[SequenceRange, ...]
    lost: tuple[SequenceRange, ...]


def sort_out(missing: SequenceRange, known: Iterable[Known], accepted: int) -> Gaps:
    """Tells what becomes of a range.

    Args:
        missing: What the plan store misses.
        known: What the outbox knows of it, in order, without overlaps. What it does not know it has settled.
        accepted: Sequences that the epoch has had. Beyond them nothing was kept: it will not come either.
    """
    runs = list(_with_the_unknown(missing, known))
    declared = [SequenceRange(first, last) for first, last, state in runs if state != QUEUED]
    lost = [SequenceRange(first, min(last, accepted)) for first, last, state in runs if not state]
    return Gaps(joined(declared), tuple(one for one in lost if one.first <= one.last))


def _with_the_unknown(missing: SequenceRange, known: Iterable[Known]) -> Iterator[Known]:
    at = missing.first
    for first, last, state in known:
        if at < first:
            yield at, first - 1, ""
        yield first, last, state
        at = last + 1
    if at <= missing.last:
        yield at, missing.last, ""


def joined(ranges: Sequence[SequenceRange]) -> tuple[SequenceRange, ...]:
    """Ranges in order, those that touch as one."""
    result: list[SequenceRange] = []
    for one in ranges:
        if result and one.first <= result[-1].last + 1:
            result[-1] = SequenceRange(result[-1].first, max(one.last, result[-1].last))
        else:
            result.append(one)
    return tuple(result)


def clipped(ranges: Sequence[SequenceRange]) -> tuple[SequenceRange, ...]:
    """Ranges in order and without overlaps, as far as sequences go: whoever asked may be anyone."""
    sound = (SequenceRange(max(one.first, 1), min(one.last, LAST_SEQUENCE)) for one in ranges)
    return joined(sorted((one for one in sound if one.first <= one.last), key=lambda one: one.first))


def count_of(ranges: Iterable[SequenceRange]) -> int:
    """How many sequences these are."""
    return sum(one.last - one.first + 1 for one in ranges)
