"""Holders of a block that are lost: closed in Redis, and settled once their events are here."""

from __future__ import annotations

from datetime import UTC, datetime

import redis

from entitlement_sidecar.domain.clock import SystemClock
from entitlement_sidecar.domain.lease import Terms
from entitlement_sidecar.planstore.ingest.servicer import UsageIngestServicer
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.wire.codec import to_timestamp
from entitlement_sidecar.wire.redis_keys import BlockPlace
from entitlement_sidecar.wire.v1 import usage_pb2
from support.blocks import BlockStore, Sidecar
from support.ingesting import sent_event

PLACE = BlockPlace("acme", "calls", None)


def is_over(client: redis.Redis, holder: str) -> None:
    """Sets a holder's time back, so that it is over."""
    field = f"a:{holder}"
    account = str(client.hget(PLACE.key, field), "ascii").split()  # type: ignore[arg-type]
    account[4] = "0"
    client.hset(PLACE.key, field, " ".join(account))


def deliver(store: BlockStore, epoch: int, lease_id: str, value: int) -> None:
    """A start of sidecar one sends all of its events: one."""
    now = to_timestamp(datetime.now(UTC))
    event = sent_event(
        f"e-{epoch}", value=value, lease_id=lease_id, occurred_at=now, recorded_at=now, feature="calls"
    )
    request = usage_pb2.IngestBatchRequest(
        instance="one",
        epoch=epoch,
        batch_id=1,
        accepted_total=1,
        events=[usage_pb2.SequencedEvent(sequence=1, event=event)],
    )
    UsageIngestServicer(store.database, Ledger(limits_of), SystemClock()).ingest(request)


def test_a_lost_holder_of_a_block_is_settled_by_its_events(store: BlockStore, port: int) -> None:
    """Given a holder that is gone, then what it had stays spent until its next start has delivered."""
    store.visit()
    one = Sidecar("one", port)
    one.ask(10)
    is_over(store.client, one.holder)
    store.visit(wanted=False)
    deliver(store, 1, f"{one.block}/{one.holder}", 4)
    store.visit(wanted=False)
    assert store.counters() == [(0, 50, 0)]
    assert store.redis.read(PLACE).free == 40

    deliver(store, 2, "root:other", 1)
    store.visit(wanted=False)

    assert store.redis.read(PLACE).free == 46
    assert store.counters() == [(4, 46, 0)]


def test_a_settled_holder_is_forgotten_after_a_day(store: BlockStore, port: int) -> None:
    """Given one that gave back all it had, and one that is lost with tokens, then only this one is kept."""
    store.visit()
    one, two = Sidecar("one", port), Sidecar("two", port)
    one.ask(10)
    two.ask(10)
    one.give_up()
    one.settle()
    is_over(store.client, one.holder)
    is_over(store.client, two.holder)

    store.visit(wanted=False)
    store.visit(wanted=False)

    assert not store.client.hexists(PLACE.key, f"a:{one.holder}")
    assert store.client.hexists(PLACE.key, f"a:{two.holder}")
    assert store.redis.read(PLACE).free == 40


def test_a_settled_lease_is_forgotten_and_not_opened_again(store: BlockStore, port: int) -> None:
    """Given leases that a sidecar numbers, then one that ended is gone, and a late request gets nothing."""
    store.visit()
    one, two = Sidecar("one", port), Sidecar("one", port)
    one.holder, two.holder = "one:1#1", "one:1#2"
    one.ask(10)
    assert one.use(4)
    one.give_up()
    one.settle()
    is_over(store.client, one.holder)
    store.visit(wanted=False)
    store.visit(wanted=False)
    assert not store.client.hexists(PLACE.key, f"a:{one.holder}")
    free = store.redis.read(PLACE).free

    one.start_anew()
    late, next_ = one.ask(10), two.ask(3)

    assert (late.terms, late.free) == (Terms(0, 0, closed=True), free)
    assert next_.terms.granted == 3
    assert store.redis.read(PLACE).used == 4


def test_what_a_holder_tells_after_its_events_did_is_counted_again(store: BlockStore, port: int) -> None:
    """Given a holder that had used more than its events say, then that is counted beyond what it had."""
    store.visit()
    one = Sidecar("one", port)
    one.ask(10)
    assert one.use(6)
    is_over(store.client, one.holder)
    store.visit(wanted=False)
    deliver(store, 1, f"{one.block}/{one.holder}", 4)
    deliver(store, 2, "root:other", 1)
    store.visit(wanted=False)

    one.settle()

    assert (store.redis.read(PLACE).used, store.redis.read(PLACE).overdrawn) == (6, 2)
