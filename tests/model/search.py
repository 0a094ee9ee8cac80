"""Walks every state of the model, breadth first, and says how it came to the first one that must not be.

A state is the centre and its lanes. Holders that are alike are interchangeable, so the lanes are kept sorted.
A step touches the centre and at most one lane, so what may happen next is worked out once for each pair of
them and looked up from then on; states themselves are small tuples of numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from model.protocol import Protocol
from model.states import Centre, Lane

T = TypeVar("T", Centre, Lane)

State = tuple[int, ...]
"""The number of the centre, then those of the lanes in order."""


class Found(NamedTuple):
    """What the walk found: `broken` is the invariant that does not hold, `trace` what led there."""

    states: int
    steps: int
    most_uses: int
    broken: str = ""
    trace: tuple[str, ...] = ()


class Numbers(Generic[T]):
    """Gives each value a number, and the value of a number back."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[T, int] = {}

    def of(self, value: T) -> int:
        """The number of a value."""
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class LaneMove(NamedTuple):
    """A step of one lane in numbers; `joins` is -1 where nobody comes in."""

    label: str
    centre: int
    lane: int
    joins: int


class Search:
    """One walk through one protocol."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._centres: Numbers[Centre] = Numbers()
        self._lanes: Numbers[Lane] = Numbers()
        self._of_lanes: dict[tuple[int, int], list[LaneMove]] = {}
        self._of_centres: dict[int, list[tuple[str, int]]] = {}
        self._bad: dict[int, str] = {}

    def run(self, most_states: int = 3_000_000) -> Found:
        """Walks until there is nothing new, or an invariant does not hold.

        Raises:
            OverflowError: There are more states than that; the bounds are too wide to end.
        """
        lane = self._lane(self._protocol.first_lane())
        first = (self._centre(self._protocol.first_centre()), *([lane] * self._protocol.bounds.holders))
        came: dict[State, tuple[State, str] | None] = {first: None}
        queue = deque([first])
        steps = 0
        while queue:
            state = queue.popleft()
            for label, after in self._next(state):
                steps += 1
                if after in came:
                    continue
                came[after] = (state, label)
                queue.append(after)
                if self._bad and self._wrong(after):
                    return self._found(came, steps, after)
            if len(came) > most_states:
                raise OverflowError(f"more than {most_states} states")
        return self._found(came, steps, None)

    def _next(self, state: State) -> Iterator[tuple[str, State]]:
        centre, lanes = state[0], state[1:]
        if (moves := self._of_centres.get(centre)) is None:
            moves = self._of_centres[centre] = self._centre_moves(centre)
        for label, after in moves:
            yield label, (after, *lanes)
        yield from self._world(centre, lanes)
        for at, lane in enumerate(lanes):
            if at and lanes[at - 1] == lane:
                continue
            pair = (centre, lane)
            if (steps := self._of_lanes.get(pair)) is None:
                steps = self._of_lanes[pair] = self._lane_moves(centre, lane)
            for label, after, moved, joins in steps:
                others = [*lanes[:at], moved, *lanes[at + 1 :]]
                if joins >= 0:
                    others.append(joins)
                others.sort()
                yield label, (after, *others)

    def _world(self, centre: int, lanes: State) -> Iterator[tuple[str, State]]:
        for label, after, change in self._protocol.world_steps(self._centres.values[centre]):
            changed = [change(self._lanes.values[lane]) for lane in lanes]
            known = [self._lane(lane) for lane in changed if lane is not None]
            if len(known) == len(lanes):
                yield label, (self._centre(after), *sorted(known))

    def _centre_moves(self, centre: int) -> list[tuple[str, int]]:
        steps = self._protocol.centre_steps(self._centres.values[centre])
        return [(label, self._centre(after)) for label, after in steps]

    def _lane_moves(self, centre: int, lane: int) -> list[LaneMove]:
        steps = self._protocol.lane_steps(self._centres.values[centre], self._lanes.values[lane])
        return [
            LaneMove(
                step.label,
                self._centre(step.centre),
                self._lane(step.lane),
                -1 if step.joins is None else self._lane(step.joins),
            )
            for step in steps
        ]

    def _centre(self, centre: Centre) -> int:
        number = self._centres.of(centre)
        if wrong := self._protocol.wrong_centre(centre):
            self._bad[number] = wrong
        return number

    def _lane(self, lane: Lane) -> int:
        number = self._lanes.of(lane)
        if wrong := self._protocol.wrong_lane(lane):
            self._bad[-1 - number] = wrong
        return number

    def _found(self, came: dict[State, tuple[State, str] | None], steps: int, bad: State | None) -> Found:
        most = max(centre.uses for centre in self._centres.values)
        if bad is None:
            return Found(len(came), steps, most)
        trace: list[str] = []
        state = bad
        while (before := came[state]) is not None:
            state, label = before
            trace.append(label)
        return Found(len(came), steps, most, self._wrong(bad), tuple(reversed(trace)))

    def _wrong(self, state: State) -> str:
        keys = [state[0], *(-1 - lane for lane in state[1:])]
        return next((self._bad[key] for key in keys if key in self._bad), "")
