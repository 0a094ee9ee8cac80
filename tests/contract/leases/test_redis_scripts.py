"""The scripts of blocks do exactly what the transition functions of `domain.lease` say."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from entitlement_sidecar.domain.lease import (
    Account,
    OnHolderLoss,
    Outcome,
    Told,
    absorb,
    account_for,
    end,
    grant,
    lose,
)
from entitlement_sidecar.planstore.leases.redis_blocks import BlockState, RedisBlocks, Status
from entitlement_sidecar.sidecar.adapters.redis_leases import (
    LARGEST,
    BlockAnswer,
    BlockStatus,
    RedisLeases,
)
from entitlement_sidecar.wire.redis_keys import BlockPlace

HOLDERS = ("one:1", "two:1", "two:2", "three:1#1", "three:1#2", "three:1#3")
PAST, FUTURE, NOW = 0.0, 1e12, 1000.0
"""Seconds on the clock of the functions: a grant's end, and when accounts are closed."""

amounts = st.one_of(st.integers(0, 12), st.integers(0, LARGEST))


class Ask(msgspec.Struct, frozen=True):
    """A request; `late`: its time is over at once."""

    holder: str
    told: Told
    wants: int
    least: int
    late: bool


class Settle(msgspec.Struct, frozen=True):
    """A settlement."""

    holder: str
    told: Told


class End(msgspec.Struct, frozen=True):
    """A holder has finished."""

    holder: str
    used: int


class Lose(msgspec.Struct, frozen=True):
    """Holders whose time is over are lost."""

    on_loss: OnHolderLoss


class AccountFor(msgspec.Struct, frozen=True):
    """All events of a holder are there, and say what it used."""

    holder: str
    used: int


class Grow(msgspec.Struct, frozen=True):
    """The root's word of how much the block was granted."""

    granted: int


class Shrink(msgspec.Struct, frozen=True):
    """The block is to give up what is free."""

    keep: int


Step = Ask | Settle | End | Lose | AccountFor | Grow | Shrink

tolds = st.builds(Told, st.integers(0, 4), amounts, amounts)
steps = st.one_of(
    st.builds(Ask, st.sampled_from(HOLDERS), tolds, amounts, amounts, st.booleans()),
    st.builds(Settle, st.sampled_from(HOLDERS), tolds),
    st.builds(End, st.sampled_from(HOLDERS), amounts),
    st.builds(AccountFor, st.sampled_from(HOLDERS), amounts),
    st.builds(Lose, st.sampled_from(OnHolderLoss)),
    st.builds(Grow, amounts),
    st.builds(Shrink, amounts),
)


class Model:
    """A block, kept by the functions."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.granted = self.returned = self.overdrawn = self.used = 0
        self.holders = 0
        # Accounts that are settled and forgotten, and of those that are numbered the last number.
        self.forgotten: list[Account] = []
        self.last: dict[str, int] = {}

    @property
    def free(self) -> int:
        """What it may still grant."""
        return self.granted - self.returned - sum(account.held for account in self.all)

    @property
    def all(self) -> list[Account]:
        """Also those that are forgotten."""
        return [*self.accounts.values(), *self.forgotten]

    def apply(self, step: Step) -> tuple[Account, int] | None:
        """One step; an account after it, and what is free then."""
        match step:
            case Ask():
                return self._ask(step)
            case Settle(holder):
                if holder in self.accounts:
                    self._keep(holder, absorb(self.accounts[holder], step.told))
                return self.accounts.get(holder, Account()), self.free
            case End(holder, used):
                if holder in self.accounts:
                    self.holders -= not self.accounts[holder].closed
                    self._keep(holder, end(self.accounts[holder], used))
                return self.accounts.get(holder, Account()), self.free
            case Lose(on_loss):
                self._lose(on_loss)
            case AccountFor(holder, used):
                if holder in self.accounts:
                    self._keep(holder, account_for(self.accounts[holder], used))
            case _:
                self._resize(step)
        return None

    def _resize(self, step: Grow | Shrink) -> None:
        match step:
            case Grow(granted):
                self.granted = max(self.granted, granted)
            case Shrink(keep):
                self.returned += max(0, self.free - keep)

    def _ask(self, ask: Ask) -> tuple[Account, int]:
        if ask.holder not in self.accounts and self._is_forgotten(ask.holder):
            return Account(closed=True), self.free
        account = self.accounts.get(ask.holder, Account())
        heard = absorb(account, ask.told)
        granting = not account.closed and ask.told.sequence > account.sequence
        self.holders += granting and ask.holder not in self.accounts
        free = self.free + heard.freed
        share = max(1, ask.least, free // (2 * max(1, self.holders)))
        given_in_all = sum(one.granted for one in self.all)
        wants = min(ask.wants, share, LARGEST - given_in_all)
        until = PAST if ask.late else FUTURE
        if not granting and ask.holder not in self.accounts:
            return account, self.free
        self._keep(ask.holder, grant(account, ask.told, wants, self.free, until))
        return self.accounts[ask.holder], self.free

    def _is_forgotten(self, holder: str) -> bool:
        name, _, number = holder.partition("#")
        return bool(number) and int(number) <= self.last.get(name, 0)

    def _forget(self) -> None:
        """Numbered accounts that no message can change any more."""
        for holder, account in list(self.accounts.items()):
            name, _, number = holder.partition("#")
            settled = account.closed and account.granted == account.used + account.returned
            if number and settled and not account.reclaimed:
                self.forgotten.append(self.accounts.pop(holder))
                self.last[name] = max(self.last.get(name, 0), int(number))

    def _lose(self, on_loss: OnHolderLoss) -> None:
        self._forget()
        for holder, account in self.accounts.items():
            self.accounts[holder] = lose(account, NOW, on_loss).account
        self.holders = sum(not account.closed for account in self.accounts.values())

    def _keep(self, holder: str, outcome: Outcome) -> None:
        self.accounts[holder] = outcome.account
        self.overdrawn += outcome.overdrawn
        self.used += outcome.used


class Block:
    """The same block, kept by the scripts."""

    def __init__(self, client: redis.Redis, url: str) -> None:
        now = datetime.now(UTC)
        place = BlockPlace("acme", uuid.uuid4().hex, now + timedelta(days=1))
        self.blocks = RedisBlocks(client)
        self._url = url
        self.place = place
        self._block_place = place
        self._id = self.blocks.open(place, "b", self.state.run, now - timedelta(days=1)) or ""

    @property
    def state(self) -> BlockState:
        """What Redis holds."""
        return self.blocks.read(self.place)

    async def apply(self, leases: RedisLeases, step: Step) -> BlockAnswer | None:
        """One step."""
        match step:
            case Ask(holder, told, wants, least, late):
                ttl = 0.0 if late else 3600.0
                return await leases.grant(self._block_place, "", holder, told, wants, least=least, ttl=ttl)
            case Settle(holder, told):
                return await leases.settle(self._block_place, self._id, holder, told)
            case End(holder, used):
                return await leases.end(self._block_place, self._id, holder, used)
            case Lose(on_loss):
                assert self.blocks.lose(self.place, self._id, on_loss, 0).status is Status.OK
            case AccountFor(holder, used):
                self.blocks.account_for(self.place, self._id, holder, used)
            case Grow(granted):
                assert self.blocks.grow(self.place, self._id, granted, 1) is Status.OK
            case Shrink(keep):
                assert self.blocks.shrink(self.place, self._id, keep)[0] is Status.OK
        return None

    async def run(self, history: list[Step], model: Model) -> None:
        """The whole history, beside the functions."""
        redis_ = Redis.from_url(self._url)
        leases = RedisLeases(redis_, patience=30)
        try:
            for step in history:
                self._compare(model, model.apply(step), await self.apply(leases, step))
        finally:
            await redis_.aclose()

    def _compare(
        self, model: Model, expected: tuple[Account, int] | None, answer: BlockAnswer | None
    ) -> None:
        if expected is not None and answer is not None:
            account, free = expected
            assert answer.status is BlockStatus.OK
            assert answer.terms == Outcome(account, 0, 0, 0).terms
            assert (answer.free, answer.size) == (free, model.granted - model.returned)
        state = self.state
        assert (state.granted, state.returned) == (model.granted, model.returned)
        assert (state.used, state.overdrawn) == (model.used, model.overdrawn)
        assert (state.free, state.holders) == (model.free, model.holders)
        assert state.free >= 0


@pytest.fixture
def client(redis_db: str) -> Iterator[redis.Redis]:
    """The shared Redis."""
    with closing(redis.Redis.from_url(redis_db)) as client:
        yield client


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, max_size=25))
def test_scripts_and_functions_agree(client: redis.Redis, redis_db: str, history: list[Step]) -> None:
    """Given any history, then a block's totals, and what each holder is told, are those of the functions."""
    asyncio.run(Block(client, redis_db).run(history, Model()))
