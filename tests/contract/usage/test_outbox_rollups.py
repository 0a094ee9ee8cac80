"""Rollups of every outbox: a second's events that are alike become one record."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, Classification, Durability
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.sidecar.usage.outbox import Consumption, Outbox, OutboxRecord
from entitlement_sidecar.testing import FakeClock
from support.usage import NOW, event, ids, next_batch, outcomes, records, settled

DURABLE, BUFFERED = Durability.DURABLE, Durability.BUFFERED
MIB = 1 << 20


def rolled(id_: str, *, value: int = 1, answer: bytes = b"", **changes: object) -> OutboxRecord:
    """An event to sum up; with an answer it is a CONSUME."""
    fact = msgspec.structs.replace(event(id_, value=value), **changes)
    return OutboxRecord(fact, Consumption(value, answer) if answer else None, rollup=True)


async def sent(outbox: Outbox) -> list[UsageEvent]:
    """The events of the next batch."""
    batch = await next_batch(outbox, 500, MIB)
    return [] if batch is None else [one.event for one in batch.events]


async def test_what_is_alike_becomes_one_record(outbox: Outbox, clock: FakeClock) -> None:
    """Sum and count, over calls; each caller is told that its event was taken."""
    first = await outbox.append([rolled("a", value=2), rolled("b", value=3)], DURABLE)
    second = await outbox.append([rolled("c", value=5)], BUFFERED)
    clock.advance(1)

    [one] = await sent(outbox)

    assert outcomes([*first, *second]) == ["ACCEPTED"] * 3
    assert [result.id for result in first] == ["a", "b"]
    assert (one.value, one.count, one.metric, one.subject) == (10, 3, "exports", "")
    assert (await outbox.stats()).accepted == 1


async def test_a_rollup_has_an_identity_of_its_own(outbox: Outbox, clock: FakeClock) -> None:
    """It is that of its place, and stays the same however often it is sent; it is correlated with itself."""
    await outbox.append([rolled("a"), rolled("b")], DURABLE)
    clock.advance(1)

    [first], [again] = await sent(outbox), await sent(outbox)

    assert first == again
    assert first.id == first.correlation_id
    assert first.id.startswith("r-")
    assert not first.id_generated


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": "globex"},
        {"metric": "imports"},
        {"subject": "u1"},
        {"actor_id": "bot"},
        {"emitter": "crm"},
        {"feature": "exports"},
        {"lease_id": "l1"},
        {"classification": Classification.NON_BILLABLE},
        {"rule": "failed-work"},
        {"dimensions": {"region": "eu"}},
        {"recorded_at": NOW + timedelta(seconds=1)},
        {"occurred_at": NOW - timedelta(days=30)},
    ],
)
async def test_what_is_not_alike_stays_apart(
    outbox: Outbox, clock: FakeClock, changes: dict[str, object]
) -> None:
    """Everything that reports and rules look at tells records apart, and so does the second."""
    await outbox.append([rolled("a"), rolled("b", **changes), rolled("c")], DURABLE)
    clock.advance(2)

    assert sorted(
        one.count for batch in await outbox.next_batches(500, MIB) for one in map(_fact, batch.events)
    ) == [
        1,
        2,
    ]


def _fact(one: object) -> UsageEvent:
    return one.event  # type: ignore[attr-defined, no-any-return]


async def test_an_open_second_does_not_travel(outbox: Outbox, clock: FakeClock) -> None:
    """Nor does what came after its first event, so that nothing overtakes it; then everything does."""
    await outbox.append(records("x"), DURABLE)
    await outbox.append([rolled("a")], DURABLE)
    await outbox.append(records("y"), DURABLE)
    batch = await next_batch(outbox, 500, MIB)
    assert batch is not None
    await outbox.settle(batch, settled(batch))
    waiting = await next_batch(outbox, 500, MIB)
    await outbox.append([rolled("b")], DURABLE)
    clock.advance(1)

    assert ids(batch) == ["x"]
    assert waiting is None
    assert [(one.id[:1], one.count) for one in await sent(outbox)] == [("r", 2), ("y", 1)]


async def test_a_record_that_travels_grows_no_more(outbox: Outbox, clock: FakeClock) -> None:
    """What comes late for its second begins another record: nothing is added to what may have arrived."""
    await outbox.append([rolled("a")], DURABLE)
    clock.advance(1)
    first = await next_batch(outbox, 500, MIB)
    assert first is not None
    await outbox.append([rolled("b", value=7)], DURABLE)

    again = await next_batch(outbox, 500, MIB)
    await outbox.settle(first, settled(first))
    clock.advance(1)
    [late] = await sent(outbox)

    assert again == msgspec.structs.replace(first, accepted_total=2)
    assert (late.value, late.count) == (7, 1)


async def test_a_clock_that_was_set_back_stops_nothing(outbox: Outbox, clock: FakeClock) -> None:
    """A second of the future is not waited for."""
    await outbox.append([rolled("a")], DURABLE)
    clock.jump(-3600)

    assert [one.count for one in await sent(outbox)] == [1]


async def test_ids_of_callers_are_not_looked_at(outbox: Outbox, clock: FakeClock) -> None:
    """A report that is repeated counts again: that is what a rollup gives up."""
    await outbox.append([rolled("a"), rolled("a", value=2)], DURABLE)
    again = await outbox.append([rolled("a")], DURABLE, atomic=True)
    clock.advance(1)

    assert outcomes(again) == ["ACCEPTED"]
    assert [(one.value, one.count) for one in await sent(outbox)] == [(4, 3)]


async def test_a_consume_that_is_repeated_counts_once(outbox: Outbox, clock: FakeClock) -> None:
    """Its first answer is its identity: the same again is a duplicate, another quantity a conflict."""
    await outbox.append([rolled("a", value=5, answer=b"yes"), rolled("b", answer=b"yes")], DURABLE)
    again = await outbox.append(
        [
            rolled("a", value=5, answer=b"other"),
            rolled("a", value=6, answer=b"no"),
            rolled("c", answer=b"yes"),
        ],
        DURABLE,
    )
    twice = await outbox.append([rolled("d", answer=b"yes"), rolled("d", answer=b"yes")], DURABLE)
    clock.advance(1)

    assert outcomes(again) == ["DUPLICATE", "CONFLICT", "ACCEPTED"]
    assert outcomes(twice) == ["ACCEPTED", "DUPLICATE"]
    assert await outbox.consumption("acme", "a") == Consumption(5, b"yes")
    assert [(one.value, one.count) for one in await sent(outbox)] == [(8, 4)]


async def test_first_answers_of_a_rollup_stay_a_minute_after_it_left(
    outbox: Outbox, clock: FakeClock
) -> None:
    """Of every CONSUME in it; then they go."""
    await outbox.append([rolled("a", answer=b"yes"), rolled("b", answer=b"no")], DURABLE)
    clock.advance(3600)
    batch = await next_batch(outbox, 500, MIB)
    assert batch is not None
    await outbox.settle(batch, settled(batch))
    clock.advance(59)
    kept = [await outbox.consumption("acme", name) for name in "ab"]
    clock.advance(2)
    await outbox.append(records("x"), DURABLE)
    other = await next_batch(outbox, 500, MIB)
    assert other is not None
    await outbox.settle(other, settled(other))

    assert kept == [Consumption(1, b"yes"), Consumption(1, b"no")]
    assert await outbox.consumption("acme", "a") is None


async def test_a_sum_stays_within_what_a_quantity_may_be(outbox: Outbox, clock: FakeClock) -> None:
    """What would pass it begins another record."""
    await outbox.append(
        [rolled("a", value=MAX_QUANTITY), rolled("b", value=1), rolled("c", value=2)], DURABLE
    )
    clock.advance(1)

    assert [(one.value, one.count) for one in await sent(outbox)] == [(MAX_QUANTITY, 1), (3, 2)]


async def test_what_is_about_one_event_is_never_summed_up(outbox: Outbox) -> None:
    """A correction, and attributes of a consumption, keep their identity."""
    about = [rolled("a", corrects="x", voids=True), rolled("b", consumption_id="c-1")]
    await outbox.append(about, DURABLE)

    assert [one.id for one in await sent(outbox)] == ["a", "b"]
    assert outcomes(await outbox.append(about, DURABLE)) == ["DUPLICATE", "DUPLICATE"]


async def test_a_conflict_keeps_nothing_of_an_atomic_call(outbox: Outbox, clock: FakeClock) -> None:
    """What would have been summed up neither."""
    await outbox.append(records("x"), DURABLE)

    refused = await outbox.append(
        [rolled("a"), OutboxRecord(event("x", value=2)), rolled("b", answer=b"yes")], DURABLE, atomic=True
    )
    clock.advance(1)

    assert outcomes(refused) == ["INVALID", "CONFLICT", "INVALID"]
    assert await outbox.consumption("acme", "b") is None
    assert [one.id for one in await sent(outbox)] == ["x"]
