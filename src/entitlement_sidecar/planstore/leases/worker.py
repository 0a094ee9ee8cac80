"""Looks after blocks: those that sidecars wish for at once, and all of them again and again.

A wish is taken by one plan store alone. The rounds over all blocks are paced, and made by whoever's turn it
is; that two make one at the same time does no harm.
"""

from __future__ import annotations

import logging

import redis
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.db import QuotaAccountRow
from entitlement_sidecar.planstore.leases.blocks import Blocks, OpenBlock, open_of
from entitlement_sidecar.planstore.leases.redis_blocks import BlockState, RedisBlocks
from entitlement_sidecar.planstore.usage.account_rows import places_of
from entitlement_sidecar.planstore.usage.counters import Place as CounterPlace

EVERY = 0.25
"""Seconds between two looks at what is wished for."""

AGAIN = 1.0
"""Seconds between two visits to one feature for wishes: where nothing is left everyone goes on wishing."""

MAX_WISHES = 100_000
"""Wishes at most that wait for that; what is left out is wished for again."""

ROUND = 2.0
"""Seconds from the beginning of one round over all blocks to that of the next one, at least."""

AT_ONCE = 100
"""Blocks of a round that one step looks at, so that wishes do not wait for the whole of it."""

IDLE = 30.0
"""Seconds between two visits to a block of which nothing changes, nor of its tenant."""

MAX_SEEN = 100_000
"""Blocks at most whose last state is remembered; of others every round is a visit."""

PAUSE = 2.0
"""Seconds in which no call asks Redis again that did not answer: its caller would wait for it."""

_log = logging.getLogger(__name__)


class Delegation:
    """The steps of the worker, and what the root asks of it."""

    def __init__(self, blocks: Blocks, redis_blocks: RedisBlocks, clock: Clock) -> None:
        self._blocks = blocks
        self._redis = redis_blocks
        self._clock = clock
        # Where the round under way is; None: there is none.
        self._cursor: str | None = None
        self._silent_until = 0.0
        # What lay free in each block when somebody looked last. Calls of several threads share it.
        self._free: dict[str, int] = {}
        self._waiting: set[tuple[str, str]] = set()
        # When (monotonic) features were last visited for a wish.
        self._fulfilled: dict[tuple[str, str], float] = {}
        # What each block was when it was last visited, by which snapshot, and when (monotonic).
        self._seen: dict[str, tuple[tuple[BlockState, int | None], float]] = {}

    def recall(self, tenant_id: str, feature: str, quantity: int) -> int:
        """Has blocks give up to `quantity` back to the root, in transactions of its own; says how much came.

        To be called, outside of any transaction, before a consumption is refused for lack of room. Where
        Redis does not answer nothing comes, and it is not asked again for `PAUSE`. May block for its timeout.
        """
        if self._clock.monotonic() < self._silent_until:
            return 0
        try:
            return self._blocks.recall(tenant_id, feature, quantity)
        except redis.RedisError as error:
            self._silent_until = self._clock.monotonic() + PAUSE
            _log.warning("blocks: nothing can be recalled: %s", type(error).__name__)
            return 0

    def free(self, session: Session, tenant_id: str, feature: str) -> dict[CounterPlace, int]:
        """What lies free in the blocks of a feature, of each counter; where Redis is away, as known last."""
        found: dict[CounterPlace, int] = {}
        for row in open_of(session, tenant_id, feature):
            lying = self._free_in(row)
            for place in places_of(row):
                found[place] = found.get(place, 0) + lying
        return found

    def _free_in(self, row: QuotaAccountRow) -> int:
        known = self._free.pop(row.id, 0)
        if self._clock.monotonic() >= self._silent_until:
            try:
                known = self._blocks.free_in(row)
            except redis.RedisError:
                self._silent_until = self._clock.monotonic() + PAUSE
        self._free[row.id] = known
        while len(self._free) > MAX_SEEN:
            self._free.pop(next(iter(self._free)), None)
        return known

    def step(self) -> float:
        """Fulfils wishes, then goes on with the round. Raises redis.RedisError when Redis is away."""
        for tenant_id, feature in self._due_wishes(self._redis.wanted()):
            self._visit(tenant_id, feature, wanted=True)
        if self._cursor is None and self._redis.takes_turn(ROUND):
            self._cursor = ""
        if self._cursor is not None:
            self._go_on(self._cursor)
        return 0.0 if self._cursor is not None else EVERY

    def _due_wishes(self, wishes: set[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of features that were not visited lately; the others wait."""
        now = self._clock.monotonic()
        self._fulfilled = {wish: at for wish, at in self._fulfilled.items() if now - at < AGAIN}
        wishes |= self._waiting
        due = sorted(wishes - self._fulfilled.keys())
        self._waiting = set(sorted(wishes - set(due))[:MAX_WISHES])
        self._fulfilled.update(dict.fromkeys(due, now))
        return due

    def _go_on(self, cursor: str) -> None:
        found = self._blocks.open_blocks(cursor, AT_ONCE)
        self._cursor = found[-1].id if len(found) == AT_ONCE else None
        due = [block.place for block in found if self._is_due(block)]
        for tenant_id, feature in dict.fromkeys((place.tenant_id, place.feature) for place in due):
            self._visit(tenant_id, feature)

    def _is_due(self, block: OpenBlock) -> bool:
        """Whether it, or what its tenant has, changed, or it was not visited for long. Costs one look."""
        state, now = (self._redis.read(block.place), block.snapshot_version), self._clock.monotonic()
        seen = self._seen.pop(block.id, None)
        idle = seen is not None and seen[0] == state and now - seen[1] < IDLE
        self._seen[block.id] = seen if seen is not None and idle else (state, now)
        while len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        return not idle

    def _visit(self, tenant_id: str, feature: str, *, wanted: bool = False) -> None:
        """One feature; what is wrong with it keeps no other one waiting."""
        try:
            self._blocks.visit(tenant_id, feature, wanted=wanted)
        except redis.RedisError:
            raise
        except Exception:  # noqa: BLE001 - the others are to be looked after
            _log.exception("blocks of %s, %s: not looked after", tenant_id, feature)
