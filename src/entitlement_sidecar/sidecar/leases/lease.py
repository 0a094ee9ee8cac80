"""One lease as its holder has it: the totals of domain/lease.py, and the uses that are under way.

taken ──┬── kept: committed to the outbox, told to the grantor
        └── under way: answered nobody yet, told nobody
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from entitlement_sidecar.domain.lease import Holding, Terms, Told, ask, finish, give_up, hear
from entitlement_sidecar.sidecar.leases.grantor import Grantor, Opening

NEVER = datetime.max.replace(tzinfo=UTC)


class Lease:
    """Tokens that may be used while `monotonic < until` and `wall clock < ends_at`.

    `left` of them are neither taken nor given up. `id` is '' until the grantor was heard of.
    """

    __slots__ = (
        "asked_at",
        "burnt_up",
        "busy",
        "credit_grant",
        "ends_at",
        "estranged",
        "grantor",
        "holding",
        "id",
        "kept",
        "known",
        "left",
        "opening",
        "seen",
        "seen_at",
        "taken",
        "told",
        "until",
    )

    def __init__(self, opening: Opening, grantor: Grantor) -> None:
        self.opening = opening
        self.grantor = grantor
        self.id = ""
        self.left = 0
        self.taken = 0
        self.kept = 0
        self.until = 0.0
        self.ends_at = opening.ends_at or NEVER
        self.holding = Holding()
        # When it was asked for last; what was taken when somebody looked last whether it is used, and when
        # that had changed (both monotonic).
        self.asked_at = 0.0
        self.seen = 0
        self.seen_at = 0.0
        # A request is under way.
        self.busy = False
        # What the grantor has confirmed to know as used, and as granted and not used.
        self.told = 0
        self.known = 0
        # The block that granted it is gone.
        self.estranged = False
        # Of credits: the grant that it is of, and whether this has nothing more for anybody.
        self.credit_grant = ""
        self.burnt_up = False

    @property
    def under_way(self) -> int:
        """Tokens taken of which nobody knows yet whether they are used."""
        return self.taken - self.kept

    @property
    def closed(self) -> bool:
        """Whether it brings nothing more."""
        return self.holding.closed or self.estranged

    def ask(self, now: float) -> Told:
        """Numbers a request that is about to be sent; one that was never heard of is sent as it was."""
        self.asked_at = now
        if self.id or self.holding.sent is None:
            self.holding = ask(self._holding(), now)
        return Told(self.holding.sequence, self.kept, self.holding.returned)

    def hear(self, terms: Terms, ends_at: datetime | None, told: int) -> int:
        """Takes over an answer to what was `told` as used; says how many tokens it brought."""
        before = self.holding.granted
        self.holding = hear(self._holding(), terms)
        self.left, self.until = self.holding.left, self.holding.until
        self.ends_at = ends_at or NEVER
        self.told = max(self.told, told)
        self.known = self.holding.granted - self.holding.returned - self.told
        return self.holding.granted - before

    def void(self, quantity: int) -> None:
        """What was taken is not used."""
        self.taken -= quantity
        self.left += quantity

    def give_up(self) -> None:
        """Uses nothing any more. Without a word to the grantor: `ending` does that."""
        self.holding = give_up(self._holding())
        self.left, self.until = 0, float("-inf")

    def finish(self) -> int:
        """Gives everything up, for the grantor to be told that it ends; says what was used of it."""
        self.holding = finish(self._holding())
        self.left, self.until = 0, float("-inf")
        return self.kept

    def orphaned(self) -> Told:
        """What the root is told where the block that granted it is gone."""
        self.give_up()
        return self.holding.estranged

    def _holding(self) -> Holding:
        return msgspec.structs.replace(self.holding, used=self.taken)
