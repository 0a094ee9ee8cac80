"""Redis is emptied, goes back, restarts or fails over: no token is granted twice, none is lost for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.leases.redis_blocks import Status
from entitlement_sidecar.planstore.snapshots import redis_client
from entitlement_sidecar.sidecar.adapters.redis_leases import BlockStatus
from entitlement_sidecar.wire.redis_keys import BlockPlace
from entitlement_sidecar.wire.redis_target import redis_target
from support.blocks import BlockStore, Sidecar
from support.redis_server import RedisServer
from support.redis_servers import SentinelServers
from support.shop import Shop
from support.waiting import until

PLACE = BlockPlace("acme", "calls", None)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opened."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def store(database: Database, redis_server: RedisServer, stack: ExitStack) -> BlockStore:
    """A plan store with a limit of 100, and a Redis of its own."""
    client = stack.enter_context(closing(redis.Redis(port=redis_server.port)))
    return BlockStore(Shop(database), client)


@pytest.fixture
def one(store: BlockStore, redis_server: RedisServer) -> Sidecar:
    """A sidecar that has 10 of a block of 50, and has used 4 of them."""
    store.visit()
    one = Sidecar("one", redis_server.port)
    one.ask(10)
    assert one.use(4)
    return one


def test_a_flushed_block_is_forfeited_and_another_one_laid(store: BlockStore, one: Sidecar) -> None:
    """Given FLUSHALL, then what the block had stays spent, and a little of the rest is delegated anew."""
    store.client.flushall()

    assert one.ask(10).status is BlockStatus.MISSING
    store.visit()

    assert store.counters() == [(0, 56, 50)]
    assert store.redis.read(PLACE).granted == 6


def test_a_copy_of_the_command_that_laid_a_block_brings_nothing_back(
    store: BlockStore, redis_server: RedisServer
) -> None:
    """Given that it comes again after the block was filled and lost, then what filled it fills no other."""
    run, now = store.redis.read(PLACE).run, datetime.now(UTC)
    first = store.redis.open(PLACE, "name", run, now) or ""
    store.visit()
    assert store.block().id == first
    store.client.flushall()

    again = store.redis.open(PLACE, "name", run, now)
    row = store.block()

    assert again not in {None, first}
    assert store.redis.grow(PLACE, first, row.granted, row.sequence) is Status.ANOTHER_BLOCK
    assert Sidecar("one", redis_server.port).ask(10).terms.granted == 0
    store.visit()
    assert store.counters() == [(0, 56, 50)]


def test_holders_of_a_lost_block_settle_at_the_root(store: BlockStore, one: Sidecar) -> None:
    """Given a lost block, then what its holder used is admitted, and what it has left comes back."""
    store.client.flushall()
    store.visit()

    assert one.settle().status is BlockStatus.ANOTHER_BLOCK
    one.give_up()
    one.settle_at_root(store)

    admitted, delegated, forfeited = store.counters()[0]
    assert (admitted, delegated, forfeited) == (4, 46, 40)


def test_a_use_that_the_lost_block_had_told_counts_once(store: BlockStore, one: Sidecar) -> None:
    """Given that the block had passed a use on, then its holder tells the root, and it is the same use."""
    one.settle()
    store.visit(wanted=False)
    assert store.counters()[0][0] == 4
    store.client.flushall()
    store.visit()
    assert one.use(2)

    one.settle_at_root(store)

    assert store.counters()[0][0] == 6


def test_a_block_is_laid_again_without_a_wish(store: BlockStore, one: Sidecar) -> None:
    """Given a round that finds a block missing, then there is another one after it."""
    store.client.flushall()

    store.visit(wanted=False)

    assert one.settle().status is BlockStatus.ANOTHER_BLOCK
    assert len(store.accounts_of_blocks(closed=True)) == 1


def test_an_old_dump_grants_nothing(store: BlockStore, one: Sidecar, redis_server: RedisServer) -> None:
    """Given a server that comes back with what it had before, then its block is refused, and replaced."""
    store.client.save()
    one.ask(30, least=30)
    redis_server.stop()
    redis_server.start()

    two = Sidecar("two", redis_server.port)
    assert two.ask(40, least=40).status is BlockStatus.ANOTHER_RUN
    assert one.settle().status is BlockStatus.ANOTHER_RUN
    store.visit()

    assert two.ask(40, least=40).terms.granted == 6
    assert one.holding.granted + two.holding.granted <= 100


def test_a_block_that_went_back_is_forfeited(store: BlockStore, one: Sidecar) -> None:
    """Given an older state of a block on the same server, then the plan store sees it and lays another."""
    older: Any = store.client.dump(PLACE.key)
    one.settle()
    store.visit(wanted=False)
    store.client.restore(PLACE.key, 0, older, replace=True)

    store.visit(wanted=False)

    assert one.ask(1).status is BlockStatus.ANOTHER_BLOCK
    assert store.accounts_of_blocks(closed=True)[0].used == 4


def test_a_block_that_went_back_grants_nothing_where_no_other_follows(
    store: BlockStore, one: Sidecar
) -> None:
    """Given that nothing is left for another block, then one that went back is taken away all the same."""
    older: Any = store.client.dump(PLACE.key)
    one.settle()
    store.visit(wanted=False)
    assert store.consume(50, "all the rest")
    store.client.restore(PLACE.key, 0, older, replace=True)

    store.visit(wanted=False)

    assert one.ask(1).status is BlockStatus.MISSING


def test_a_block_that_the_database_knows_less_of_is_forfeited(store: BlockStore, one: Sidecar) -> None:
    """Given a database that was restored from before a block grew, then that block grants nothing more."""
    row = store.block()
    store.redis.grow(PLACE, row.id, row.granted + 30, row.sequence + 1)

    store.visit()

    assert one.ask(1).status is BlockStatus.ANOTHER_BLOCK
    admitted, delegated, _ = store.counters()[0]
    assert admitted + delegated <= 100


def test_what_no_plan_store_laid_is_replaced(store: BlockStore, redis_server: RedisServer) -> None:
    """Given a block that somebody made up, or another kind of key, then one is laid in its place."""
    store.client.set(PLACE.key, "nonsense")
    store.visit()
    assert Sidecar("one", redis_server.port).ask(5).terms.granted == 5
    store.client.delete(PLACE.key)
    run = store.redis.read(PLACE).run
    totals = dict.fromkeys(("returned", "given", "back", "used", "starts_at", "ends_at", "holders"), "0")
    forged = {"id": "forged", "run_id": run, "granted": "1000000000", **totals}
    store.client.hset(PLACE.key, mapping=forged)

    store.visit()

    assert store.redis.read(PLACE).granted == 6


def test_a_primary_that_was_a_replica_meanwhile_grants_nothing(
    store: BlockStore, one: Sidecar, redis_server: RedisServer, tmp_path: Path, stack: ExitStack
) -> None:
    """Given a failover and one back before any plan store looked, then the same run of the server refuses.

    It has what the replica had, which may have missed grants.
    """
    folder = tmp_path / "other"
    folder.mkdir()
    other = RedisServer(folder, "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
    other.start()
    stack.callback(other.stop)
    there = stack.enter_context(closing(redis.Redis(port=other.port)))
    # A first replica gives the primary's data another name: the block is of the time after that.
    follow(there, redis_server.port)
    store.visit()
    store.visit()
    before = store.redis.read(PLACE)
    assert before.ours
    until(lambda: there.hget(PLACE.key, "id") == before.id.encode(), "the replica to have the block")

    there.execute_command("REPLICAOF", "NO", "ONE")
    follow(store.client, other.port)
    store.client.execute_command("REPLICAOF", "NO", "ONE")

    after = store.redis.read(PLACE)
    assert after.id == before.id
    assert after.run.partition(":")[0] == before.run.partition(":")[0]
    one.start_anew()
    assert one.ask(1).status is BlockStatus.ANOTHER_RUN


def follow(replica: redis.Redis, port: int) -> None:
    """Has a server follow another one, and waits until it does."""
    replica.execute_command("REPLICAOF", "127.0.0.1", str(port))

    def follows() -> bool:
        told: Any = replica.info("replication")
        return bool(told["master_link_status"] == "up")

    until(follows, "a replica to follow", 60)


def test_a_replica_that_missed_grants_grants_none_of_them_again(
    database: Database, tmp_path: Path, stack: ExitStack
) -> None:
    """Given that a replica without the last grants takes over, then its block is refused, and one laid."""
    servers = stack.enter_context(SentinelServers.running(tmp_path / "sentinels"))
    client = redis_client.connect(redis_target(servers.url))
    assert isinstance(client, redis.Redis)
    store = BlockStore(Shop(database), stack.enter_context(closing(client)))
    store.visit()
    servers.wait_for_replica()
    one = Sidecar("one", servers.primary.port)
    with servers.replica_apart():
        one.ask(40, least=40)
        assert one.use(40)
        servers.primary.stop()
    two = Sidecar("two", servers.replica.port)
    until(lambda: is_primary(servers.replica.port), "the replica to take over", 60)

    refused = two.ask(40, least=40)
    until(lambda: looked_after(store), "the new primary to be found", 60)

    assert refused.status is BlockStatus.ANOTHER_RUN
    assert two.ask(100, least=100).terms.granted == 6
    assert not store.consume(45, "too many")
    assert store.consume(44, "the rest")
    one.settle_at_root(store)
    assert store.counters() == [(84, 16, 10)]


def is_primary(port: int) -> bool:
    """Whether it takes writes."""
    with closing(redis.Redis(port=port)) as client, suppress(redis.RedisError):
        told: Any = client.info("replication")
        return bool(told["role"] == "master")
    return False


def looked_after(store: BlockStore) -> bool:
    """Whether the plan store reached Redis."""
    with suppress(redis.RedisError):
        store.visit()
        return True
    return False
