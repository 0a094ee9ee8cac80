"""What grants leases to sidecars keeps one contract: in memory, a block in Redis, the root over gRPC."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import grpc.aio
import pytest
import redis

from entitlement_sidecar.domain.lease import Told
from entitlement_sidecar.planstore.api.rpc_quotas import QuotaServicer
from entitlement_sidecar.planstore.db import Database, create_engine_for
from entitlement_sidecar.sidecar.adapters.grpc_leases import RootGrantor
from entitlement_sidecar.sidecar.adapters.redis_client import connect
from entitlement_sidecar.sidecar.adapters.redis_grantor import BlockGrantor
from entitlement_sidecar.sidecar.adapters.redis_leases import RedisLeases
from entitlement_sidecar.sidecar.leases.grantor import Grantor, Opening, Request
from entitlement_sidecar.testing.memory_leases import MemoryRoot
from entitlement_sidecar.wire.redis_target import redis_target
from entitlement_sidecar.wire.v1 import quota_pb2_grpc
from support.blocks import BlockStore
from support.shop import Shop

SIZE = 100


def opening(name: str = "1", holder: str = "sidecar:1") -> Opening:
    """A lease of calls, of a limit for a lifetime."""
    return Opening("acme", "calls", None, holder, name)


@pytest.fixture
def database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """A plan store's tables. What they do with accounts on each database, test_grantors.py shows."""
    copy = tmp_path / "planstore.db"
    shutil.copyfile(sqlite_template, copy)
    opened = Database(create_engine_for(f"sqlite:///{copy}"))
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database, redis_db: str) -> Iterator[BlockStore]:
    """A plan store with a limit of 100, and its Redis."""
    with closing(redis.Redis.from_url(redis_db)) as client:
        yield BlockStore(Shop(database), client)


@pytest.fixture
def address(store: BlockStore) -> Iterator[str]:
    """Where the plan store's QuotaService is."""
    server = grpc.server(ThreadPoolExecutor(4))
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(QuotaServicer(store.shop.quotas), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(params=["memory", "root", "block"])
async def grantor(request: pytest.FixtureRequest) -> AsyncIterator[Grantor]:
    """A grantor with a limit of 100; the block has half of that."""
    if request.param == "memory":
        yield MemoryRoot(SIZE, lambda: 0.0)
    elif request.param == "root":
        async with grpc.aio.insecure_channel(request.getfixturevalue("address")) as channel:
            yield RootGrantor(channel, "token")
    else:
        request.getfixturevalue("store").visit()
        client = connect(redis_target(request.getfixturevalue("redis_db")))
        yield BlockGrantor(RedisLeases(client, patience=30))
        await client.aclose()


def asking(sequence: int, wants: int, needs: int = 0, used: int = 0, returned: int = 0) -> Request:
    """A request of that number."""
    return Request(Told(sequence, used, returned), wants, needs)


async def test_a_lease_is_opened_named_and_prolonged(grantor: Grantor) -> None:
    """Given a first request and a second one, then both bring tokens of one lease."""
    first = await grantor.ask(opening(), "", asking(1, 4))
    second = await grantor.ask(opening(), first.lease_id, asking(2, 3, used=2))

    assert first.terms is not None
    assert second.terms is not None
    assert (first.terms.granted, first.terms.sequence) == (4, 1)
    assert (second.lease_id, second.terms.granted, second.terms.sequence) == (first.lease_id, 7, 2)
    assert not second.gone


async def test_the_same_request_again_is_the_same_lease(grantor: Grantor) -> None:
    """Given that the first answer was lost, then the same request tells what it brought, and no more."""
    first = await grantor.ask(opening(), "", asking(1, 4))

    again = await grantor.ask(opening(), "", asking(1, 4))

    assert (again.lease_id, again.terms) == (first.lease_id, first.terms)


async def test_two_names_are_two_leases(grantor: Grantor) -> None:
    """Given two names of one holder, then each has a lease of its own."""
    first = await grantor.ask(opening("1"), "", asking(1, 4))
    second = await grantor.ask(opening("2"), "", asking(1, 4))

    assert first.lease_id != second.lease_id


async def test_what_is_needed_is_granted_beyond_a_fair_share(grantor: Grantor) -> None:
    """Given more than a fair share, then as much as is needed now comes, where it is free."""
    modest = await grantor.ask(opening("1"), "", asking(1, 1000))
    needy = await grantor.ask(opening("2"), "", asking(1, 20, needs=20))

    assert modest.terms is not None
    assert needy.terms is not None
    assert modest.terms.granted <= SIZE // 2
    assert needy.terms.granted == 20


async def test_what_was_not_used_is_granted_to_others_once_a_lease_ends(grantor: Grantor) -> None:
    """Given a lease of 40 that ends with 1 used, then another one can have the other 39, and not the one."""
    first = await grantor.ask(opening("1"), "", asking(1, 40, needs=40))
    left = await grantor.ask(opening("2"), "", asking(1, SIZE, needs=SIZE))
    assert left.terms is not None

    assert await grantor.end(opening("1"), first.lease_id, 1)
    more = await grantor.ask(opening("2"), left.lease_id, asking(2, SIZE, needs=SIZE))

    assert more.terms is not None
    assert more.terms.granted - left.terms.granted == 39


async def test_an_ended_lease_brings_nothing_more(grantor: Grantor) -> None:
    """Given a lease that has ended, then it is closed, and ending it again changes nothing."""
    first = await grantor.ask(opening(), "", asking(1, 4))
    assert await grantor.end(opening(), first.lease_id, 3)

    late = await grantor.ask(opening(), first.lease_id, asking(2, 4, used=3))

    assert late.terms is not None
    assert late.terms.closed
    assert await grantor.end(opening(), first.lease_id, 3)


async def test_where_nothing_is_left_there_is_no_lease(grantor: Grantor) -> None:
    """Given that everything is granted, then another holder gets no token."""
    await grantor.ask(opening("1"), "", asking(1, SIZE, needs=SIZE))

    other = await grantor.ask(opening("2", "other:1"), "", asking(1, 1))

    assert other.terms is None or other.terms.granted == 0


async def test_the_root_hears_the_holders_of_a_lost_block(
    store: BlockStore, address: str, redis_db: str
) -> None:
    """Given a lease of a block that is lost, then the root takes over what was used of it, once it knows."""
    store.visit()
    client = connect(redis_target(redis_db))
    block = BlockGrantor(RedisLeases(client, patience=30))
    lease = await block.ask(opening(), "", asking(1, 10))
    store.client.flushall()

    async with grpc.aio.insecure_channel(address) as channel:
        root = RootGrantor(channel, "token")
        assert (await block.ask(opening(), lease.lease_id, asking(2, 5, used=3))).gone
        assert not await block.end(opening(), lease.lease_id, 3)
        assert not await root.adopt(lease.lease_id, Told(0, 3, 7))
        store.visit(wanted=False)
        assert await root.adopt(lease.lease_id, Told(0, 3, 7))
    await client.aclose()

    assert store.counters()[0][0] == 3
