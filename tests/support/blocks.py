"""A plan store's blocks in a real Redis, and sidecars that are granted leases from them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import redis
from redis.asyncio import Redis as AsyncRedis
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.lease import TTL, Holding, Terms, ask, give_up, hear, tell, use
from entitlement_sidecar.planstore.db import Database, QuotaAccountRow, QuotaCounterRow
from entitlement_sidecar.planstore.leases.blocks import Blocks
from entitlement_sidecar.planstore.leases.redis_blocks import RedisBlocks
from entitlement_sidecar.planstore.snapshots import in_force
from entitlement_sidecar.planstore.subscriptions import Target
from entitlement_sidecar.planstore.usage.accounts import Accounts
from entitlement_sidecar.planstore.usage.allowances import Allowance
from entitlement_sidecar.sidecar.adapters.redis_leases import (
    SETTLES_AT_ROOT,
    BlockAnswer,
    BlockStatus,
    RedisLeases,
)
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.wire.redis_keys import BlockPlace
from support.shop import Shop

_T = TypeVar("_T")

CATALOGUE = """
catalogue: shop
features:
  calls: {{kind: metered, metric: calls}}
metrics:
  calls: {{domain: api, unit: call, aggregation: sum, window: month, classification: billable,
           feature: calls}}
plans:
  basic:
    title: Basic
    price: {{amount: "29.90", currency: EUR}}
    billing_period: month
    entitlements:
      calls: {{limits: [{limits}]}}
"""

HUNDRED = "{amount: 100, window: lifetime}"


class BlockStore:
    """A plan store whose only tenant, acme, has `limits` of the feature calls."""

    def __init__(
        self, shop: Shop, client: redis.Redis, limits: str = "{amount: 100, window: lifetime}"
    ) -> None:
        self.shop = shop
        self.client = client
        self.redis = RedisBlocks(client)
        self._version = 0
        self.limit(limits)
        self.at: datetime | None = None
        self.blocks = Blocks(shop.database, self.redis, lambda _: self.now())
        self.accounts = Accounts(lambda _: self.now())

    def now(self) -> datetime:
        """The database's clock: the real one, unless a test moved it."""
        return self.at or datetime.now(UTC)

    def limit(self, limits: str) -> None:
        """Puts other limits into force."""
        self._version += 1
        self.shop.apply(CATALOGUE.format(limits=limits))
        self.shop.subscribe(plan=f"basic@{self._version}")

    def suspend(self) -> None:
        """Suspends the tenant."""
        with self.database.writing() as session:
            self.shop.subscriptions.suspend(session, Target(tenant_id="acme"))

    def allowance(self, session: Session) -> Allowance:
        """The limits in force."""
        resolution = in_force(session, "acme", "calls", self.now()).resolution
        assert resolution is not None
        return Allowance("acme", "calls", resolution.limits)

    def visit(self, *, wanted: bool = True) -> None:
        """Sees to the blocks."""
        self.blocks.visit("acme", "calls", wanted=wanted)

    def consume(self, quantity: int, request_id: str) -> bool:
        """Consumes at the root, which calls back what it lacks."""
        with self.shop.database.reading() as session:
            limits = self.allowance(session).limits
        asked = ("acme", "calls", quantity, request_id, limits)
        if self.shop.authority.consume(*asked).admitted:
            return True
        self.blocks.recall("acme", "calls", quantity)
        return bool(self.shop.authority.consume(*asked).admitted)

    def counters(self) -> list[tuple[int, int, int]]:
        """Admitted, delegated, and the part of that which is forfeited, of each counter, by its key."""
        row = QuotaCounterRow
        query = select(row.admitted, row.delegated, row.forfeited)
        query = query.order_by(row.limit_key, row.window_start)
        with self.shop.database.reading() as session:
            return [
                (admitted, delegated, forfeited) for admitted, delegated, forfeited in session.execute(query)
            ]

    def accounts_of_blocks(self, *, closed: bool = False) -> list[QuotaAccountRow]:
        """Accounts of blocks."""
        row = QuotaAccountRow
        query = select(row).where(row.run_id != "", row.closed.is_(closed)).order_by(row.id)
        with self.shop.database.reading() as session:
            return list(session.scalars(query))

    def block(self) -> QuotaAccountRow:
        """The only one that is open."""
        (row,) = self.accounts_of_blocks()
        return row

    @property
    def database(self) -> Database:
        """Its database."""
        return self.shop.database


class Sidecar:
    """Keeps one holding, by the functions that sidecars run, on a clock of its own."""

    def __init__(self, name: str, port: int, ends_at: datetime | None = None) -> None:
        self.holder = f"{name}:1"
        self.clock = FakeClock()
        self.place = BlockPlace("acme", "calls", ends_at)
        self.block = ""
        self.holding = Holding()
        self.used = 0
        self._port = port

    def ask(self, wants: int, *, least: int = 1, heard: bool = True) -> BlockAnswer:
        """Asks for more; the answer may be lost on its way."""
        holding = self.holding = ask(self.holding, self.clock.monotonic())
        answer = self._call(
            lambda leases: leases.grant(
                self.place, self.block, self.holder, holding.told, wants, least=least, ttl=TTL
            )
        )
        if heard and answer.status is BlockStatus.OK:
            self.block = answer.block
            self.holding = hear(self.holding, answer.terms)
        return answer

    def settle(self) -> BlockAnswer:
        """Says what it used and gave up."""
        holding = self.holding = tell(self.holding)
        return self._call(lambda leases: leases.settle(self.place, self.block, self.holder, holding.told))

    def use(self, quantity: int) -> bool:
        """Uses tokens where it can."""
        after = use(self.holding, quantity, self.clock.monotonic())
        if after is None:
            return False
        self.holding, self.used = after, self.used + quantity
        return True

    def give_up(self, quantity: int | None = None) -> None:
        """Gives tokens up, and does not say so yet."""
        self.holding = give_up(self.holding, quantity)

    def settle_at_root(self, store: BlockStore) -> Terms:
        """Says at the root what a lost block does not hear any more."""
        told = self.holding.estranged
        with store.database.writing() as session:
            return store.accounts.adopt(session, self.block, self.holder, told).terms

    def start_anew(self) -> None:
        """Leaves the block for the next one."""
        self.block, self.holding = "", Holding()

    def is_gone(self, answer: BlockAnswer) -> bool:
        """Whether its block is."""
        return answer.status in SETTLES_AT_ROOT

    def _call(self, what: Callable[[RedisLeases], Coroutine[Any, Any, _T]]) -> _T:
        async def call() -> _T:
            client = AsyncRedis(port=self._port)
            try:
                return await what(RedisLeases(client, patience=30))
            finally:
                await client.aclose()

        return asyncio.run(call())
