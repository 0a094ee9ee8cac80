"""The root of the model: its row, and what may still be granted of it."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from entitlement_sidecar.domain.lease import Outcome
from model.states import Bounds, Centre, Lane


class Step(NamedTuple):
    """What happened, and what it makes of the centre, of one lane, and of who else comes in."""

    label: str
    centre: Centre
    lane: Lane
    joins: Lane | None = None


class Root:
    """What every part of the protocol needs to know of the root."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds

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

    def first_lane(self, clock: float = 0.0) -> Lane:
        """A holder that has nothing."""
        return Lane(asks=self.bounds.asks, tells=self.bounds.tells, clock=clock)
