"""Quota goes from the root into a block in Redis and back, and never is in both."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import redis

from entitlement_sidecar.domain.lease import Told
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.leases.blocks import Blocks
from entitlement_sidecar.planstore.leases.redis_blocks import RedisBlocks
from entitlement_sidecar.planstore.usage.account_rows import account_of
from entitlement_sidecar.sidecar.adapters.redis_leases import BlockStatus
from entitlement_sidecar.wire.redis_keys import BlockPlace
from support.blocks import BlockStore, Sidecar
from support.shop import Shop

PLACE = BlockPlace("acme", "calls", None)


def end_of_year() -> datetime:
    """When the window of a yearly limit ends."""
    return datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)


def test_a_block_that_is_wanted_has_half_of_what_is_left(store: BlockStore, port: int) -> None:
    """Given that 20 of 100 are used, then a block has 40, and sidecars are granted from it."""
    assert store.consume(20, "first")

    store.visit()

    assert store.counters() == [(20, 40, 0)]
    answer = Sidecar("one", port).ask(10)
    assert (answer.status, answer.terms.granted, answer.free) == (BlockStatus.OK, 10, 30)


def test_nothing_is_laid_that_nobody_wants(store: BlockStore) -> None:
    """Given a round without a wish, then there is no block."""
    store.visit(wanted=False)

    assert store.accounts_of_blocks() == []


def test_a_holder_gets_a_fair_share_but_enough(store: BlockStore, port: int) -> None:
    """Given a block of 50, then one holder gets half, the second a quarter of the rest, or what it needs."""
    store.visit()

    assert Sidecar("one", port).ask(1000).terms.granted == 25
    assert Sidecar("two", port).ask(1000).terms.granted == 6
    assert Sidecar("three", port).ask(1000, least=15).terms.granted == 15


def test_what_is_used_is_admitted_and_what_comes_back_is_free(store: BlockStore, port: int) -> None:
    """Given a holder that used 3 and gave up 2 of 10, then the root counts 3, and the block has 2 again."""
    store.visit()
    one = Sidecar("one", port)
    one.ask(10)
    one.use(3)
    one.give_up(2)
    one.settle()

    store.visit(wanted=False)

    assert store.counters() == [(3, 47, 0)]
    assert store.redis.read(PLACE).free == 42


def test_a_block_that_runs_low_grows(store: BlockStore, port: int) -> None:
    """Given that nearly all of a block is given, then it gets half of what is left in all."""
    store.visit()
    Sidecar("one", port).ask(49, least=49)

    store.visit(wanted=False)

    assert store.counters() == [(0, 74, 0)]
    assert store.redis.read(PLACE).free == 25


def test_two_plan_stores_at_once_let_a_block_grow_once(store: BlockStore, port: int) -> None:
    """Given plan stores that see to the same block at the same time, then it is as if one had."""
    store.visit()
    Sidecar("one", port).ask(49, least=49)
    others = [Blocks(store.database, RedisBlocks(store.client)) for _ in range(4)]
    together = threading.Barrier(len(others))

    def visit(blocks: Blocks) -> None:
        together.wait(20)
        blocks.visit("acme", "calls", wanted=True)

    threads = [threading.Thread(target=visit, args=[blocks]) for blocks in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    block = account_of(store.block())
    assert (block.granted, store.redis.read(PLACE).granted) == (74, 74)


def test_growth_that_redis_did_not_hear_of_is_told_again(store: BlockStore) -> None:
    """Given a plan store that ended between the database and Redis, then the next one goes on."""
    store.visit()
    row = store.block()
    with store.database.writing() as session:
        told = Told(row.sequence + 1, 0, 0)
        allowance = store.allowance(session)
        store.accounts.grant(session, row.id, told, 7, allowance)
    assert store.redis.read(PLACE).granted == 50

    store.visit(wanted=False)

    assert store.redis.read(PLACE).granted == 57
    assert store.counters() == [(0, 57, 0)]


def test_a_block_that_was_laid_and_not_delegated_is_taken_on(store: BlockStore) -> None:
    """Given a plan store that ended right after it laid a block, then the next one delegates to that."""
    run = store.redis.read(PLACE).run
    laid = store.redis.open(PLACE, "laid", run, datetime.now(UTC))

    store.visit()

    assert store.block().id == laid
    assert store.redis.read(PLACE).granted == 50


def test_the_root_calls_back_what_it_lacks(store: BlockStore, port: int) -> None:
    """Given a block with half of the limit, then the root admits all that no holder has."""
    store.visit()
    Sidecar("one", port).ask(10)

    assert store.consume(90, "nearly all")

    assert store.counters() == [(90, 10, 0)]
    assert not store.consume(1, "one more")
    assert Sidecar("two", port).ask(1).terms.granted == 0


def test_a_limit_that_is_lowered_is_taken_from_the_block(store: BlockStore, port: int) -> None:
    """Given a limit of 100 that becomes 30, then the block gives up what is beyond it."""
    store.visit()
    Sidecar("one", port).ask(10)

    store.limit("{amount: 30, window: lifetime}")
    store.visit(wanted=False)

    assert store.counters()[0][1] <= 30
    assert store.redis.read(PLACE).free == store.counters()[0][1] - 10


def test_a_limit_that_is_raised_lets_the_block_grow(store: BlockStore) -> None:
    """Given a limit of 100 that becomes 1000, then the block gets half of that."""
    store.visit()

    store.limit("{amount: 1000, window: lifetime}")
    store.visit(wanted=False)

    assert store.redis.read(PLACE).free == 500


def test_other_windows_close_the_block(store: BlockStore, port: int) -> None:
    """Given a limit with another window, then the block of the former is closed, and a new one laid."""
    store.visit()
    one = Sidecar("one", port)
    one.ask(10)
    one.use(4)

    store.limit("{amount: 100, window: year}")
    store.visit()

    assert one.ask(10).status is BlockStatus.CLOSING
    assert len(store.accounts_of_blocks()) == 2
    one.give_up()
    one.settle()
    store.visit(wanted=False)
    (row,) = store.accounts_of_blocks(closed=True)
    assert (row.used, row.returned) == (4, 46)
    assert Sidecar("two", port, end_of_year()).ask(5).terms.granted == 5


def test_a_suspended_tenant_is_granted_nothing_more(store: BlockStore, port: int) -> None:
    """Given a tenant without an entitlement, then its block closes."""
    store.visit()

    store.suspend()
    store.visit()

    assert Sidecar("one", port).ask(1).status is BlockStatus.MISSING
    assert store.counters() == [(0, 0, 0)]


def test_all_limits_are_taken_at_once(database: Database, client: redis.Redis) -> None:
    """Given two limits, then a block has as much of both as the smaller allows."""
    store = BlockStore(Shop(database), client, "{amount: 10, window: year}, {amount: 100, window: lifetime}")

    store.visit()

    assert store.counters() == [(0, 5, 0), (0, 5, 0)]


def test_the_next_window_has_its_block_before_it_begins(
    database: Database, client: redis.Redis, port: int
) -> None:
    """Given a block in use when its window nearly ends, then the next is laid, and grants nothing yet."""
    store = BlockStore(Shop(database), client, "{amount: 100, window: year}")
    store.at = end_of_year() - timedelta(minutes=30)
    store.visit()
    assert len(store.accounts_of_blocks()) == 1
    Sidecar("one", port, end_of_year()).ask(5)

    store.visit(wanted=False)

    _, following = store.accounts_of_blocks()
    assert (following.starts_at, following.granted) == (end_of_year(), 50)
    early = Sidecar("two", port, following.ends_at)
    assert early.ask(5).status is BlockStatus.NOT_BEGUN


def test_a_block_ends_with_its_window(database: Database, client: redis.Redis, port: int) -> None:
    """Given holders of a block whose window ends, then what they settle counts, and the block is closed."""
    store = BlockStore(Shop(database), client, "{amount: 100, window: year}")
    store.visit()
    one = Sidecar("one", port, end_of_year())
    one.ask(10)
    one.use(6)
    store.at = end_of_year() + timedelta(seconds=1)

    store.visit(wanted=False)
    assert store.counters()[0] == (0, 10, 0)
    one.give_up()
    one.settle()
    store.visit(wanted=False)

    (row,) = store.accounts_of_blocks(closed=True)
    assert (row.used, row.granted - row.used - row.returned) == (6, 0)
    assert store.counters()[0] == (6, 0, 0)


def test_nothing_is_granted_after_the_window(store: BlockStore, port: int) -> None:
    """Given a block whose window ended by the clock of Redis, then it grants nothing, and hears all."""
    store.visit()
    one = Sidecar("one", port)
    one.ask(10)
    one.use(2)
    store.client.hset(PLACE.key, "ends_at", "1000000")

    answer = one.ask(10)

    assert (answer.status, answer.terms.granted) == (BlockStatus.ENDED, 10)
    assert store.redis.read(PLACE).used == 2
