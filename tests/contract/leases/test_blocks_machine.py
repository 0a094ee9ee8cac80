"""Any history of sidecars, plan stores and a Redis that loses its memory: the limit is never passed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from random import Random
from typing import Any

import pytest
import redis

from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.sidecar.adapters.redis_leases import BlockStatus
from entitlement_sidecar.wire.redis_keys import BlockPlace
from support.blocks import BlockStore, Sidecar
from support.shop import Shop

LIMIT = 100
STEPS = 100
PLACE = BlockPlace("acme", "calls", None)


class Story:
    """Three sidecars, the root, and what goes wrong between them, by chance."""

    def __init__(self, store: BlockStore, port: int, chance: Random) -> None:
        self.store = store
        self.chance = chance
        self.sidecars = [Sidecar(name, port) for name in ("one", "two", "three")]
        self.at_root = 0
        self._older: Any = None

    @property
    def used(self) -> int:
        """What was used by anybody, whether anyone was told or not."""
        return self.at_root + sum(sidecar.used for sidecar in self.sidecars)

    def step(self, number: int) -> None:
        """One thing happens."""
        steps = [self._ask, self._ask, self._use, self._use, self._settle, self._visit, self._give_up]
        rare = [self._consume, self._flush, self._remember, self._go_back, self._expire]
        self.chance.choice(steps * 4 + rare)(number)

    def calm(self) -> None:
        """Everyone says what they have used and gives up the rest."""
        for sidecar in self.sidecars:
            self._tell_all(sidecar)
        self.store.visit()
        # A block that was lost just before is closed now, and hears its holders.
        for sidecar in self.sidecars:
            self._tell_all(sidecar)

    def _ask(self, _: int) -> None:
        sidecar = self._anyone()
        heard = self.chance.random() > 0.2
        answer = sidecar.ask(self.chance.randint(1, 20), least=self.chance.randint(1, 5), heard=heard)
        if answer.status is not BlockStatus.OK and sidecar.block:
            self._leave(sidecar)

    def _leave(self, sidecar: Sidecar) -> None:
        """Its block is gone: what it has left it gives back to the root, as soon as that knows."""
        self.store.visit()
        sidecar.give_up()
        sidecar.settle_at_root(self.store)
        sidecar.start_anew()

    def _use(self, _: int) -> None:
        self._anyone().use(self.chance.randint(1, 3))

    def _settle(self, _: int) -> None:
        sidecar = self._anyone()
        if sidecar.block and sidecar.is_gone(sidecar.settle()):
            self._leave(sidecar)

    def _give_up(self, _: int) -> None:
        self._anyone().give_up(self.chance.randint(1, 5))

    def _visit(self, _: int) -> None:
        self.store.visit(wanted=self.chance.random() > 0.3)

    def _consume(self, number: int) -> None:
        quantity = self.chance.randint(1, 5)
        if self.store.consume(quantity, f"request {number}"):
            self.at_root += quantity

    def _flush(self, _: int) -> None:
        self.store.client.flushall()

    def _remember(self, _: int) -> None:
        self._older = self.store.client.dump(PLACE.key)

    def _go_back(self, _: int) -> None:
        """The server restarts with an older state: another run has it."""
        self.store.client.flushall()
        if self._older is not None:
            self.store.client.restore(PLACE.key, 0, self._older)
            self.store.client.hset(PLACE.key, "run_id", "another:run")

    def _expire(self, _: int) -> None:
        """A sidecar does not hear from anyone until its time is over."""
        self._anyone().clock.advance(60)

    def _tell_all(self, sidecar: Sidecar) -> None:
        if not sidecar.block:
            return
        if sidecar.is_gone(sidecar.settle()):
            self._leave(sidecar)
            return
        sidecar.give_up()
        sidecar.settle()

    def _anyone(self) -> Sidecar:
        return self.chance.choice(self.sidecars)


@pytest.fixture
def client(redis_db: str) -> Iterator[redis.Redis]:
    """The shared Redis, emptied."""
    with closing(redis.Redis.from_url(redis_db)) as client:
        yield client


@pytest.mark.parametrize("seed", range(4))
def test_no_history_passes_the_limit(
    database: Database, client: redis.Redis, redis_db: str, seed: int
) -> None:
    """Given any history, then at no instant is more used than the limit, nor more delegated than it has."""
    port = int(redis_db.rpartition(":")[2].partition("/")[0])
    story = Story(BlockStore(Shop(database), client), port, Random(seed))  # noqa: S311 - no secret: the same history each time
    for number in range(STEPS):
        story.step(number)

        assert story.used <= LIMIT
        counters = story.store.counters()
        assert all(admitted + delegated <= LIMIT for admitted, delegated, _ in counters)

    story.calm()

    admitted, delegated, forfeited = story.store.counters()[0]
    # What is used and was never told stays delegated: nobody else can have it.
    assert story.used <= admitted + delegated
    assert forfeited <= delegated
