"""Cuts what waits in an outbox into batches that may travel side by side.

    place   1  2  3  4  5  6  7 │ 8 …          a window: places 1 to 7, of one epoch
    lane    0  2  0  1  2  0  1 │ 0            its batches: lane 0: 1 3 6, lane 1: 4 7, lane 2: 2 5

All events of a tenant and metric are of one lane, and a window ends where one of its batches is full. The
next one begins when this one is settled: so each tenant's events of a metric arrive in their order. A window
also ends before a correction, whose original may be of any lane: it is there when the correction arrives.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import msgspec

LANES = 4
"""Batches of a window at most, beside one of corrections."""

CORRECTIONS = LANES
"""The lane of corrections: they name no metric."""


class Waiting(msgspec.Struct, frozen=True):
    """An event that waits: its place, its bytes, its lane."""

    place: int
    size: int
    lane: int


class Window(msgspec.Struct, frozen=True):
    """First and last place, and the lane of each batch, the one with the oldest event first.

    One batch of lane None takes the events of all.
    """

    first: int
    last: int
    lanes: tuple[int | None, ...]


class _Load(msgspec.Struct):
    events: int = 0
    size: int = 0

    def has_room(self, size: int, max_events: int, max_bytes: int) -> bool:
        """Whether one more fits. Something larger than the bound travels alone."""
        return self.events == 0 or (self.events < max_events and self.size + size <= max_bytes)

    def add(self, size: int) -> None:
        self.events += 1
        self.size += size


def lane_of(tenant_id: str, metric: str) -> int:
    """Which lane events of a tenant and metric take: the same in every version and process."""
    if not metric:
        return CORRECTIONS
    return zlib.crc32(f"{tenant_id}\0{metric}".encode()) % LANES


def cut(waiting: Iterable[Waiting], max_events: int, max_bytes: int) -> Window | None:
    """The window that begins with the first of these; None where nothing waits.

    Args:
        waiting: In the order of their places, of one epoch.
        max_events: Events of one batch at most.
        max_bytes: Bytes of one batch at most, but for one event that is larger.
    """
    first = last = None
    loads: dict[int, _Load] = {}
    for one in waiting:
        if one.lane == CORRECTIONS and loads.keys() - {CORRECTIONS}:
            break
        load = loads.setdefault(one.lane, _Load())
        if not load.has_room(one.size, max_events, max_bytes):
            break
        load.add(one.size)
        first = one.place if first is None else first
        last = one.place
    if first is None or last is None:
        return None
    used = {lane: load for lane, load in loads.items() if load.events}
    return Window(first, last, _lanes(used, max_events, max_bytes))


def _lanes(loads: dict[int, _Load], max_events: int, max_bytes: int) -> tuple[int | None, ...]:
    events = sum(load.events for load in loads.values())
    size = sum(load.size for load in loads.values())
    fits_one = events <= max_events and size <= max_bytes
    return (None,) if fits_one or len(loads) == 1 else tuple(loads)
