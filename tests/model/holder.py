"""The steps of holders: what they ask, use, give up, tell and hear, and how they die."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from entitlement_sidecar.domain import lease
from entitlement_sidecar.domain.lease import Holding, Told
from model.root import Root, Step
from model.states import ENDS, ROOT, STEP, Centre, Lane, Request


class Holders(Root):
    """What a holder may do next, as it is."""

    def grantors(self, centre: Centre, lane: Lane) -> list[int]:
        """Whom a holder may ask: the one that it has, or any that there is."""
        if lane.grantor is not None:
            return [lane.grantor]
        blocks = [len(centre.accounts) - 1] if centre.accounts else []
        return blocks + ([ROOT] if self.bounds.direct else [])

    def asks(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A holder sends a request, also when the one before was not answered."""
        if not lane.asks or lane.stranger:
            return
        for grantor in self.grantors(centre, lane):
            for wants in self.bounds.amounts:
                holding = lease.ask(self.before_asking(lane, wants), lane.clock)
                sent = replace(
                    lane,
                    grantor=grantor,
                    holding=holding,
                    asks=lane.asks - 1,
                    wanted=lane.wanted + wants,
                    requests=lane.requests | {Request(self.told(holding), wants)},
                )
                yield Step(f"a holder asks {grantor} for {wants}", centre, sent)

    def before_asking(self, lane: Lane, wants: int) -> Holding:  # noqa: ARG002 - a broken rule needs it
        """What a holder has while its request is under way: nothing more than before."""
        return lane.holding

    def told(self, holding: Holding) -> Told:
        """What a holder tells its grantor."""
        return holding.told

    def uses(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A caller is told yes, from memory."""
        if (used := lease.use(lane.holding, 1, lane.clock)) is not None:
            yield Step("a holder uses 1", replace(centre, uses=centre.uses + 1), replace(lane, holding=used))

    def tells(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A holder gives up what it has, or tells its grantor how it stands."""
        holding = lane.holding
        if holding.left > 0:
            yield Step("a holder gives up the rest", centre, replace(lane, holding=lease.give_up(holding)))
        if holding.left > 1 and self.bounds.parts:
            yield Step("a holder gives up 1", centre, replace(lane, holding=lease.give_up(holding, 1)))
        if lane.tells and not lane.stranger and holding.used + holding.returned > 0:
            holding = lease.tell(holding)
            request = Request(self.told(holding), 0)
            told = replace(lane, holding=holding, tells=lane.tells - 1, requests=lane.requests | {request})
            yield Step("a holder settles", centre, told)

    def ends(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A holder is done with its lease, and says so."""
        if lane.grantor is None or lane.stranger or not self.bounds.ends or not lane.asks + lane.holding.left:
            return
        holding = lease.finish(lane.holding)
        request = Request(self.told(holding), ENDS)
        yield Step(
            "a holder ends its lease",
            centre,
            replace(lane, holding=holding, asks=0, tells=0, requests=lane.requests | {request}),
        )

    def leaves(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A holder learns that its block is lost; from then on it tells the root, and the block nothing."""
        if lane.grantor is None or lane.grantor == ROOT or not centre.accounts[lane.grantor].closed:
            return
        if not lane.stranger:
            yield Step("a holder learns that its block is lost", centre, replace(lane, stranger=True))
        letter = self.estranged(lane.holding)
        if lane.stranger and letter.used + letter.returned > 0 and len(lane.letters) < self.bounds.letters:
            told = replace(lane, letters=lane.letters | {letter})
            if told != lane:
                yield Step("a holder of a lost block tells the root", centre, told)

    def estranged(self, holding: Holding) -> Told:
        """What the holder of a lost block tells the root."""
        return holding.estranged

    def hears(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """An answer arrives."""
        for terms in lane.answers:
            heard = replace(lane, holding=self.hear(lane, terms))
            if heard != lane:
                yield Step(f"a holder hears {terms.granted} for request {terms.sequence}", centre, heard)

    def hear(self, lane: Lane, terms: lease.Terms) -> Holding:
        """What an answer makes of a holding."""
        return lease.hear(lane.holding, terms, STEP)

    def crashes(self, centre: Centre, lane: Lane) -> Iterator[Step]:
        """A holder dies, with or without a journal of what it did; another may come in its place."""
        if not centre.crashes or lane.grantor is None:
            return
        after = replace(centre, crashes=centre.crashes - 1)
        joins = None
        if centre.restarts:
            after = replace(after, restarts=centre.restarts - 1)
            joins = self.first_lane(lane.clock)
        dead = replace(lane, alive=False)
        yield Step("a holder crashes, its journal is lost", after, dead, joins)
        holding = lane.holding
        past = lease.former(holding.granted, holding.used)
        settling = replace(lane, asks=0, tells=1, holding=replace(past, sequence=holding.sequence))
        yield Step("a holder crashes and reads its journal", after, settling, joins)
