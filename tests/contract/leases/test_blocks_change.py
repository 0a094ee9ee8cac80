"""What becomes of a block, and of those who hold of it, when what its tenant has changes."""

from __future__ import annotations

import pytest

from entitlement_sidecar.planstore.leases import worker
from entitlement_sidecar.planstore.leases.worker import Delegation
from entitlement_sidecar.planstore.subscriptions import Target
from entitlement_sidecar.sidecar.adapters.redis_leases import BlockStatus
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.wire.redis_keys import TENDING_KEY, BlockPlace
from support.blocks import CATALOGUE, HUNDRED, BlockStore, Sidecar

PLACE = BlockPlace("acme", "calls", None)
ENTITLED = f"calls: {{limits: [{HUNDRED}]}}"


def sell(store: BlockStore, entitlement: str) -> None:
    """The tenant's plan says something else of calls, or nothing."""
    content = CATALOGUE.format(limits=HUNDRED)
    assert ENTITLED in content
    content = content.replace(ENTITLED, entitlement).replace(
        "features:\n", "features:\n  sso: {kind: boolean}\n"
    )
    store.shop.apply(content)
    store.shop.subscribe(plan="basic@2")


def cancel(store: BlockStore) -> None:
    """The tenant's subscription ends."""
    with store.database.writing() as session:
        store.shop.subscriptions.cancel(session, Target(tenant_id="acme"))


def holding(port: int, wants: int) -> Sidecar:
    """A sidecar that has so many tokens, and has used 4."""
    one = Sidecar("one", port)
    assert one.ask(wants, least=wants).terms.granted == wants
    assert one.use(4)
    return one


def test_a_limit_below_what_is_out_is_called_back(store: BlockStore, port: int) -> None:
    """Given a holder with more than the lowered limit, then it is told to give back, and its uses count."""
    store.visit()
    one = holding(port, 40)

    store.limit("{amount: 30, window: lifetime}")
    store.visit(wanted=False)

    assert store.counters() == [(0, 40, 0)]
    assert one.ask(10).status is BlockStatus.CLOSING
    assert Sidecar("two", port).ask(1).status is BlockStatus.CLOSING
    assert not store.consume(1, "none")
    one.give_up()
    one.settle()
    store.visit()
    assert store.counters() == [(4, 13, 0)]
    assert Sidecar("three", port).ask(5).terms.granted == 5


def test_a_limit_that_leaves_room_for_what_is_out_calls_nothing_back(store: BlockStore, port: int) -> None:
    """Given that what is free in the block suffices, then its holders go on."""
    store.visit()
    one = holding(port, 20)

    store.limit("{amount: 30, window: lifetime}")
    store.visit(wanted=False)

    assert one.ask(1).status is BlockStatus.OK
    admitted, delegated, _ = store.counters()[0]
    assert admitted + delegated <= 30


@pytest.mark.parametrize("change", ["unlimited", "not entitled", "cancelled", "suspended"])
def test_what_has_no_limit_any_more_has_no_block(store: BlockStore, port: int, change: str) -> None:
    """Given holders of a block when that happens, then they are told to give back, and their uses count."""
    store.visit()
    one = holding(port, 10)

    match change:
        case "unlimited":
            sell(store, "calls: true")
        case "not entitled":
            sell(store, "sso: true")
        case "cancelled":
            cancel(store)
        case _:
            store.suspend()
    store.visit()

    assert one.ask(10).status is BlockStatus.CLOSING
    one.give_up()
    one.settle()
    store.visit()
    assert store.counters() == [(4, 0, 0)]
    (row,) = store.accounts_of_blocks(closed=True)
    assert (row.used, row.returned) == (4, 46)
    assert Sidecar("two", port).ask(1).status is BlockStatus.MISSING


def test_a_tenant_that_comes_back_has_a_block_again(store: BlockStore, port: int) -> None:
    """Given a tenant that was suspended while tokens were out, then all that was not used is there again."""
    store.visit()
    one = holding(port, 10)
    store.suspend()
    store.visit()
    one.give_up()
    one.settle()
    store.visit()

    with store.database.writing() as session:
        store.shop.subscriptions.resume(session, Target(tenant_id="acme"))
    store.visit()

    assert store.counters() == [(4, 48, 0)]
    assert Sidecar("two", port).ask(5).terms.granted == 5


def test_a_change_is_seen_in_the_next_round(store: BlockStore) -> None:
    """Given a block of which nothing changed for long, then a new limit is not waited for."""
    steady = FakeClock()
    delegation = Delegation(store.blocks, store.redis, steady)
    store.visit()
    for _ in range(3):
        round_of(delegation, store)
    before = store.redis.read(PLACE).free

    store.limit("{amount: 1000, window: lifetime}")
    steady.advance(worker.ROUND)
    round_of(delegation, store)

    assert (before, store.redis.read(PLACE).free) == (50, 500)


def round_of(delegation: Delegation, store: BlockStore) -> None:
    """One round over all blocks, whoever's turn it is."""
    store.client.delete(TENDING_KEY)
    while delegation.step() == 0.0:
        pass
