"""The worker behind blocks: wishes, rounds and turns; and what the root calls back before it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc_testing
import msgspec
import pytest
import redis
from redis.asyncio import Redis as AsyncRedis

from entitlement_sidecar.domain.decision import CheckMode, CheckRequest
from entitlement_sidecar.planstore.api.quota_check import QuotaChecks
from entitlement_sidecar.planstore.api.rpc_quotas import QuotaServicer
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.leases import worker
from entitlement_sidecar.planstore.leases.recall import InBlocks
from entitlement_sidecar.planstore.leases.worker import Delegation
from entitlement_sidecar.planstore.usage.account_rows import places_of
from entitlement_sidecar.sidecar.adapters.redis_leases import RedisLeases
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.wire.redis_keys import TENDING_KEY, WANTED_KEY, BlockPlace
from entitlement_sidecar.wire.v1 import quota_pb2
from support.blocks import BlockStore, Sidecar
from support.redis_server import RedisServer
from support.shop import Shop

SERVICE = quota_pb2.DESCRIPTOR.services_by_name["QuotaService"]
PLACE = BlockPlace("acme", "calls", None)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A Redis of this test alone."""
    with closing(redis.Redis(port=redis_server.port)) as client:
        yield client


@pytest.fixture
def store(database: Database, client: redis.Redis) -> BlockStore:
    """A plan store with a limit of 100."""
    return BlockStore(Shop(database), client)


@pytest.fixture
def steady() -> FakeClock:
    """The worker's clock."""
    return FakeClock()


@pytest.fixture
def delegation(store: BlockStore, steady: FakeClock) -> Delegation:
    """The worker's steps."""
    return Delegation(store.blocks, store.redis, steady)


def wish(port: int, tenant_id: str, feature: str) -> None:
    """As a sidecar does."""

    async def add() -> None:
        client = AsyncRedis(port=port)
        try:
            await RedisLeases(client, patience=30).wish(tenant_id, feature)
        finally:
            await client.aclose()

    asyncio.run(add())


def test_what_a_sidecar_wishes_for_is_laid(
    store: BlockStore, delegation: Delegation, redis_server: RedisServer
) -> None:
    """Given a wish in Redis, then the next step lays the block, and takes the wish."""
    wish(redis_server.port, "acme", "calls")

    delegation.step()

    assert store.redis.read(PLACE).granted == 50
    assert not store.client.exists(WANTED_KEY)


def test_wishes_are_paced(
    store: BlockStore, delegation: Delegation, redis_server: RedisServer, steady: FakeClock
) -> None:
    """Given a wish right after one that was fulfilled, then it waits a while, and is not lost."""
    store.client.set(TENDING_KEY, b"")
    wish(redis_server.port, "acme", "calls")
    delegation.step()
    Sidecar("one", redis_server.port).ask(49, least=49)
    wish(redis_server.port, "acme", "calls")

    delegation.step()
    assert store.redis.read(PLACE).granted == 50
    steady.advance(worker.AGAIN)
    delegation.step()

    assert store.redis.read(PLACE).granted == 74


def test_wishes_for_nothing_keep_nobody_waiting(store: BlockStore, delegation: Delegation) -> None:
    """Given damaged wishes, and some for what does not exist, then the others are fulfilled."""
    wishes = [b"nonsense", b'["acme"]', b'["acme", "nothing"]', b'["nobody", "calls"]', b'["acme", "calls"]']
    store.client.sadd(WANTED_KEY, *wishes)

    delegation.step()

    assert store.redis.read(PLACE).granted == 50


def test_a_round_looks_after_every_block(
    store: BlockStore, delegation: Delegation, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given many blocks and few at once, then each is seen to in the steps of one round."""
    monkeypatch.setattr(worker, "AT_ONCE", 1)
    store.visit()
    one = Sidecar("one", redis_server.port)
    one.ask(10)
    one.use(3)
    one.settle()

    while delegation.step() == 0:
        pass

    assert store.counters() == [(3, 47, 0)]


def test_blocks_of_which_nothing_changes_are_visited_seldom(
    store: BlockStore, delegation: Delegation, redis_server: RedisServer, steady: FakeClock
) -> None:
    """Given that more is left at the root, then an idle block follows after a while, one in use at once."""
    assert store.consume(60, "first")
    store.visit()
    round_of(store, delegation)
    round_of(store, delegation)
    (place,) = places_of(store.block())
    with store.database.writing() as session:
        store.allowance(session).counters.give_back(session, place, 60)

    round_of(store, delegation)
    assert store.redis.read(PLACE).free == 20
    steady.advance(worker.IDLE)
    round_of(store, delegation)
    assert store.redis.read(PLACE).free == 50

    Sidecar("one", redis_server.port).ask(45, least=45)
    round_of(store, delegation)
    assert store.redis.read(PLACE).free == 27


def round_of(store: BlockStore, delegation: Delegation) -> None:
    """One round, whose turn it is now."""
    store.client.delete(TENDING_KEY)
    while delegation.step() == 0:
        pass


def test_one_plan_store_makes_the_round(
    store: BlockStore, delegation: Delegation, redis_server: RedisServer
) -> None:
    """Given another one that has its turn, then this one leaves the blocks to it."""
    store.visit()
    one = Sidecar("one", redis_server.port)
    one.ask(10)
    one.use(3)
    one.settle()
    store.client.set(TENDING_KEY, b"")

    delegation.step()

    assert store.counters() == [(0, 50, 0)]


def test_a_redis_that_is_away_is_not_waited_for_twice(
    store: BlockStore, delegation: Delegation, redis_server: RedisServer, steady: FakeClock
) -> None:
    """Given that Redis does not answer, then nothing is recalled, and it is asked again after a pause."""
    store.visit()
    redis_server.stop()
    assert delegation.recall("acme", "calls", 5) == 0
    redis_server.start()
    assert delegation.recall("acme", "calls", 5) == 0

    steady.advance(worker.PAUSE)

    # The server is another one now, whose block nobody gives anything of.
    assert delegation.recall("acme", "calls", 5) == 0
    store.visit()
    assert delegation.recall("acme", "calls", 5) == 5


def consume(store: BlockStore, method: str, request: Any, blocks: InBlocks | None = None) -> Any:
    """Calls the root over gRPC."""
    quotas = msgspec.structs.replace(store.shop.quotas, blocks=blocks or InBlocks(store.blocks.recall))
    server = grpc_testing.server_from_dictionary(
        {SERVICE: QuotaServicer(quotas)}, grpc_testing.strict_real_time()
    )
    call = server.invoke_unary_unary(SERVICE.methods_by_name[method], {}, request, None)
    return call.termination()[0]


def remaining(store: BlockStore, delegation: Delegation) -> tuple[int, int]:
    """What a look over gRPC, and one over REST, say is left."""
    shop, blocks = store.shop, InBlocks(delegation.recall, delegation.free)
    asked = quota_pb2.ConsumeRequest(tenant_id="acme", feature="calls")
    (usage,) = consume(store, "Consume", asked, blocks).usage
    checks = QuotaChecks(shop.database, shop.authority, shop.ledger, shop.clock, blocks)
    decision = checks.check(CheckRequest("acme", "calls", CheckMode.PEEK))
    with store.database.reading() as session:
        assert checks.entitlements(session, "acme")["calls"].remaining == decision.remaining
    return usage.amount - usage.used - usage.outstanding, decision.remaining or 0


def test_a_view_knows_what_nobody_holds(
    store: BlockStore, delegation: Delegation, redis_server: RedisServer
) -> None:
    """Given a block with half of the limit, then only what holders have is not left; Redis away or not."""
    store.visit()
    assert remaining(store, delegation) == (100, 100)
    Sidecar("one", redis_server.port).ask(10)
    assert remaining(store, delegation) == (90, 90)

    redis_server.stop()

    assert remaining(store, delegation) == (90, 90)
    never_looked = Delegation(store.blocks, store.redis, FakeClock())
    assert remaining(store, never_looked) == (50, 50)


def test_a_lease_of_the_root_says_what_nobody_holds(store: BlockStore, delegation: Delegation) -> None:
    """Given a block with half of the limit, then the view that a lease comes with is that of all."""
    store.visit()
    holder = quota_pb2.Holder(instance="one", epoch=1)
    asked = quota_pb2.AcquireLeaseRequest(
        holder=holder, tenant_id="acme", feature="calls", request_id="first", wants=10
    )

    answer = consume(store, "AcquireLease", asked, InBlocks(delegation.recall, delegation.free))

    (usage,) = answer.lease.usage
    assert (answer.lease.granted, usage.outstanding) == (10, 10)


def test_what_a_lost_block_had_is_not_left(store: BlockStore, delegation: Delegation) -> None:
    """Given a block that Redis has not any more, then nothing of it is anybody's."""
    store.visit()
    assert remaining(store, delegation) == (100, 100)

    store.client.flushall()

    assert remaining(store, delegation) == (50, 50)


def test_consume_has_all_that_nobody_holds(store: BlockStore) -> None:
    """Given a block with half of the limit, then Consume admits all of it, and one more is refused."""
    store.visit()
    asked = quota_pb2.ConsumeRequest(tenant_id="acme", feature="calls", quantity=100, request_id="all")

    assert consume(store, "Consume", asked).admitted

    asked = quota_pb2.ConsumeRequest(tenant_id="acme", feature="calls", quantity=1, request_id="more")
    assert not consume(store, "Consume", asked).admitted


def test_several_amounts_have_all_that_nobody_holds(store: BlockStore) -> None:
    """Given a block with half of the limit, then ConsumeAll admits two amounts that need it all."""
    store.visit()
    items = [
        quota_pb2.ConsumeRequest(feature="calls", quantity=50, request_id="one"),
        quota_pb2.ConsumeRequest(feature="calls", quantity=50, request_id="two"),
    ]

    answer = consume(store, "ConsumeAll", quota_pb2.ConsumeAllRequest(tenant_id="acme", items=items))

    assert answer.admitted


def test_a_check_has_all_that_nobody_holds(store: BlockStore) -> None:
    """Given a block with half of the limit, then a check at the plan store consumes all of it."""
    store.visit()
    shop = store.shop
    checks = QuotaChecks(
        shop.database, shop.authority, shop.ledger, shop.clock, InBlocks(store.blocks.recall)
    )

    asked = CheckRequest("acme", "calls", CheckMode.CONSUME, 100, request_id="all")

    assert checks.check(asked).allowed
    assert store.counters() == [(100, 0, 0)]
