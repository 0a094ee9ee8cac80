"""How full an outbox is, and what it still takes: the last part of its room is for billable usage."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from enum import IntEnum
from math import inf

from entitlement_sidecar.domain.catalogue import Classification
from entitlement_sidecar.domain.errors import OutboxFullError
from entitlement_sidecar.domain.usage import UsageEvent

RETRY_AFTER = 1.0
"""Seconds after which a caller may try again what an outbox refused."""


_BELOW = 0.05
"""Part of the room that has to become free below a watermark before it is said again."""

_log = logging.getLogger(__name__)


class Level(IntEnum):
    """How full an outbox is."""

    ROOMY = 0
    HIGH = 1
    BILLABLE_ONLY = 2
    FULL = 3


WATERMARKS = {Level.HIGH: 0.70, Level.BILLABLE_ONLY: 0.85, Level.FULL: 0.95}
"""Parts of the room from which on each level holds."""

_MEANING = {
    Level.HIGH: "usage comes faster than it is settled, or is not settled at all",
    Level.BILLABLE_ONLY: "usage that is not billable is refused",
    Level.FULL: "all usage is refused",
}


def level_of(fill: float) -> Level:
    """The level of an outbox of whose room so much is taken (0 to 1)."""
    return max((level for level, mark in WATERMARKS.items() if fill >= mark), default=Level.ROOMY)


class RoomWatch:
    """Says once in the log when an outbox reaches a level, and again only after it has emptied well below."""

    def __init__(self) -> None:
        self._said = Level.ROOMY
        self._quiet_from, self._quiet_to = 0.0, WATERMARKS[Level.HIGH]

    def look(self, fill: float) -> None:
        """Takes notice of how much of the room is taken (0 to 1)."""
        if self._quiet_from <= fill < self._quiet_to:
            return
        level = level_of(fill)
        if level > self._said:
            _log.warning("the outbox is %.0f %% full: %s", fill * 100, _MEANING[level])
        self._said = level
        self._quiet_from = WATERMARKS.get(level, 0.0) - (_BELOW if level else 0.0)
        self._quiet_to = next((mark for one, mark in WATERMARKS.items() if one > level), inf)


def refuses(taken: int, max_bytes: int, *, billable: bool) -> bool:
    """Whether usage is not taken with which so many bytes would be held."""
    return taken > max_bytes * WATERMARKS[Level.FULL if billable else Level.BILLABLE_ONLY]


def full(taken: int, max_bytes: int, *, billable: bool) -> OutboxFullError:
    """What a caller is told whose usage is not taken."""
    mark = WATERMARKS[Level.FULL if billable else Level.BILLABLE_ONLY]
    rest = "" if billable else "; the rest is for billable usage"
    return OutboxFullError(
        f"the outbox holds {taken} of {max_bytes} bytes and takes this up to {mark:.0%}{rest}; "
        "it empties as usage is settled",
        RETRY_AFTER,
    )


def any_billable(events: Iterable[UsageEvent]) -> bool:
    """Whether an event is billable, or may turn out to be."""
    return any(event.classification in {None, Classification.BILLABLE} for event in events)
