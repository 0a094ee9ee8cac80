"""The steps of the model. What an account or a holding becomes is said by `domain.lease`, and only there.

Each step is one atomic thing somewhere: a message sent, a message taken in, a script, a transaction, a use.
Rules of the protocol that are an order of steps are methods of their own, so that a test can break each.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from model.grantor import Grantors
from model.holder import Holders
from model.root import Step
from model.states import STEP, Centre, Lane
from model.worker import Workers

_BUDGETS = (
    "grows", "shrinks", "consumes", "crashes", "restarts", "failovers", "copies", "flushes", "ticks",
)  # fmt: skip


class Protocol(Holders, Grantors, Workers):
    """The rules as they are. Subclasses break one each."""

    def first_centre(self) -> Centre:
        """Nothing has happened, and everything may."""
        b = self.bounds
        left = {name: getattr(b, name) for name in _BUDGETS}
        return Centre(**left)

    def lane_steps(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """Everything that may happen next to a holder, to its account, or to a message between them."""
        if lane.alive:
            yield from self.asks(centre, lane)
            yield from self.uses(centre, lane)
            yield from self.tells(centre, lane)
            yield from self.ends(centre, lane)
            yield from self.leaves(centre, lane)
            yield from self.hears(centre, lane)
            yield from self.crashes(centre, lane)
        yield from self.arrivals(centre, lane)
        yield from self.letters(centre, lane)
        yield from self.reclaims(centre, lane)
        if lane.clock < centre.now:
            yield Step("the clock of a holder goes on", centre, replace(lane, clock=lane.clock + STEP))

    def centre_steps(self, centre: Centre) -> Iterator[tuple[str, Centre]]:
        """Everything that may happen next without any holder."""
        yield from self.opens(centre)
        yield from self.grows(centre)
        yield from self.commands(centre)
        yield from self.shrinks(centre)
        yield from self.reports(centre)
        yield from self.loses(centre)
        if centre.consumes and self.rest(centre) > 0:
            yield (
                "the root admits 1",
                replace(
                    centre, consumes=centre.consumes - 1, admitted=centre.admitted + 1, uses=centre.uses + 1
                ),
            )

    def wrong_centre(self, centre: Centre) -> str:
        """Says which invariant does not hold, or nothing.

        `excess` is zero unless a limit reclaims: then what was used before, and not told in time, is beyond.
        """
        if centre.uses > self.bounds.limit + centre.excess:
            return f"{centre.uses} were admitted of {self.bounds.limit}"
        if centre.admitted + centre.unadmitted > centre.uses:
            return f"{centre.admitted} and {centre.unadmitted} are counted of {centre.uses}"
        if centre.delegated < 0:
            return "more came back than was delegated"
        return ""

    def wrong_lane(self, lane: Lane) -> str:
        """Says what an account must not be, or nothing."""
        if lane.account.granted > lane.wanted:
            return f"{lane.account.granted} were granted where {lane.wanted} were asked for"
        return ""
