"""What every outbox promises."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import OutboxFullError
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.outbox import Batch, Consumption, Outbox, OutboxRecord
from entitlement_sidecar.testing import FakeClock
from support.usage import event, ids, next_batch, outcomes, record, records, settled

DURABLE, BUFFERED = Durability.DURABLE, Durability.BUFFERED
MIB = 1 << 20


async def batch_of(outbox: Outbox, max_events: int = 100, max_bytes: int = MIB) -> Batch:
    """The next batch, which there has to be."""
    batch = await next_batch(outbox, max_events, max_bytes)
    assert batch is not None
    return batch


async def test_events_come_out_as_they_went_in(outbox: Outbox) -> None:
    """In order, unchanged, contiguously numbered, whatever their durability class."""
    full = msgspec.structs.replace(
        event("a"), dimensions={"region": "eu"}, subject="u1", lease_id="l1", feature="exports"
    )
    first = await outbox.append([OutboxRecord(full), record("b")], DURABLE)
    second = await outbox.append([record("c")], BUFFERED)

    batch = await batch_of(outbox)

    assert outcomes([*first, *second]) == ["ACCEPTED"] * 3
    assert [result.id for result in first] == ["a", "b"]
    assert ids(batch) == ["a", "b", "c"]
    assert batch.events[0].event == full
    assert [one.sequence for one in batch.events] == [1, 2, 3]
    assert batch.accepted_total == 3


async def test_an_empty_outbox_has_no_batch(outbox: Outbox) -> None:
    """Nothing to ship is no batch, not an empty one."""
    assert await next_batch(outbox, 100, MIB) is None


async def test_what_is_held_is_not_held_twice(outbox: Outbox) -> None:
    """Same id and same content is a duplicate, other content a conflict; neighbours are not affected."""
    await outbox.append(records("a"), DURABLE)

    again = await outbox.append([record("a"), record("a", value=2), record("b")], DURABLE)

    assert outcomes(again) == ["DUPLICATE", "CONFLICT", "ACCEPTED"]
    assert ids(await next_batch(outbox, 100, MIB)) == ["a", "b"]


async def test_duplicates_inside_one_call(outbox: Outbox) -> None:
    """The first of equal ids counts."""
    results = await outbox.append([record("a"), record("a"), record("a", value=9)], DURABLE)

    assert outcomes(results) == ["ACCEPTED", "DUPLICATE", "CONFLICT"]
    assert ids(await next_batch(outbox, 100, MIB)) == ["a"]


async def test_an_atomic_call_is_kept_in_full_or_not_at_all(outbox: Outbox) -> None:
    """One conflict keeps nothing of it, no first answer either; the results say which it was."""
    await outbox.append(records("a", "b"), DURABLE)

    mixed = [record("a"), record("c", answer=b"yes"), record("b", value=2)]
    refused = await outbox.append(mixed, DURABLE, atomic=True)
    nothing = await outbox.consumption("acme", "c")
    before = ids(await next_batch(outbox, 1, MIB)), (await outbox.stats()).accepted
    kept = await outbox.append([record("a"), record("c", answer=b"yes")], DURABLE, atomic=True)

    assert outcomes(refused) == ["DUPLICATE", "INVALID", "CONFLICT"]
    assert [result.retriable for result in refused] == [False, True, False]
    assert nothing is None
    assert before == (["a"], 2)
    assert outcomes(kept) == ["DUPLICATE", "ACCEPTED"]
    assert (await outbox.stats()).accepted == 3


async def test_an_atomic_call_may_conflict_with_itself(outbox: Outbox) -> None:
    """Then nothing of it is kept either, and callers at the same time are not affected."""
    results = await asyncio.gather(
        outbox.append([record("a")], DURABLE),
        outbox.append([record("b"), record("c"), record("b", value=2)], DURABLE, atomic=True),
        outbox.append([record("b", value=3), record("a")], DURABLE),
        outbox.append([record("c", value=3), record("d")], DURABLE, atomic=True),
    )

    assert [outcomes(one) for one in results] == [
        ["ACCEPTED"],
        ["INVALID", "INVALID", "CONFLICT"],
        ["ACCEPTED", "DUPLICATE"],
        ["ACCEPTED", "ACCEPTED"],
    ]
    assert [(one.event.id, one.event.value) for one in (await batch_of(outbox)).events] == [
        ("a", 1),
        ("b", 3),
        ("c", 3),
        ("d", 1),
    ]


async def test_tenants_do_not_share_ids(outbox: Outbox) -> None:
    """Identity is tenant and id."""
    both = [OutboxRecord(event("a", tenant_id=tenant)) for tenant in ("acme", "globex")]

    assert outcomes(await outbox.append(both, DURABLE)) == ["ACCEPTED", "ACCEPTED"]


async def test_boundaries_of_a_batch_never_change(outbox: Outbox) -> None:
    """What was sent once is sent again as it was, whatever came in or is asked for meanwhile."""
    await outbox.append(records("a", "b", "c"), DURABLE)
    first = await batch_of(outbox, max_events=2)
    await outbox.append(records("d"), DURABLE)

    again = await batch_of(outbox, max_events=100)

    assert ids(first) == ids(again) == ["a", "b"]
    assert again.batch_id == first.batch_id


async def test_a_batch_is_bounded_in_bytes_but_never_empty(outbox: Outbox) -> None:
    """One event larger than the bound still travels, alone."""
    await outbox.append(records("a", "b"), DURABLE)

    assert ids(await next_batch(outbox, 100, max_bytes=1)) == ["a"]


async def test_the_next_batch_follows_the_settled_one(outbox: Outbox) -> None:
    """Settled events are gone; the next batch has another id and begins where the last ended."""
    await outbox.append(records("a", "b", "c"), DURABLE)
    first = await batch_of(outbox, max_events=2)
    await outbox.settle(first, settled(first))

    second = await batch_of(outbox)

    assert ids(second) == ["c"]
    assert second.batch_id != first.batch_id
    assert second.events[0].sequence == 3


async def test_retriable_events_stay_in_their_batch(outbox: Outbox) -> None:
    """Only they are sent again, before anything that came later."""
    await outbox.append(records("a", "b", "c"), DURABLE)
    batch = await batch_of(outbox, max_events=2)
    retriable = UsageResult("a", UsageOutcome.UNKNOWN_METRIC, "not yet", retriable=True)

    await outbox.settle(batch, [retriable, UsageResult("b", UsageOutcome.ACCEPTED)])

    again = await batch_of(outbox)
    assert ids(again) == ["a"]
    assert again.batch_id == batch.batch_id


@pytest.mark.parametrize(
    "outcome",
    [UsageOutcome.INVALID, UsageOutcome.CONFLICT, UsageOutcome.UNKNOWN_METRIC, UsageOutcome.LATE_REFUSED],
)
async def test_what_is_refused_for_good_becomes_a_dead_letter(outbox: Outbox, outcome: UsageOutcome) -> None:
    """It does not hold up the line, and it is counted apart."""
    await outbox.append(records("a", "b"), DURABLE)
    batch = await batch_of(outbox)

    await outbox.settle(batch, [UsageResult("a", outcome, "no"), UsageResult("b", UsageOutcome.DUPLICATE)])

    stats = await outbox.stats()
    assert (stats.accepted, stats.settled, stats.queued, stats.dead) == (2, 1, 0, 1)
    assert await next_batch(outbox, 100, MIB) is None


async def test_settling_again_changes_nothing(outbox: Outbox) -> None:
    """A late answer to a batch that was settled meanwhile is not counted."""
    await outbox.append(records("a", "b"), DURABLE)
    batch = await batch_of(outbox, max_events=1)
    await outbox.settle(batch, settled(batch))
    await outbox.settle(batch, settled(batch, UsageOutcome.INVALID))

    stats = await outbox.stats()

    assert (stats.accepted, stats.settled, stats.queued, stats.dead) == (2, 1, 1, 0)


async def test_a_settled_id_may_come_again(outbox: Outbox) -> None:
    """The outbox tells apart what it holds; what has left is told apart by the ledger."""
    await outbox.append(records("a"), DURABLE)
    batch = await batch_of(outbox)
    await outbox.settle(batch, settled(batch))

    assert outcomes(await outbox.append(records("a"), DURABLE)) == ["ACCEPTED"]
    assert ids(await next_batch(outbox, 100, MIB)) == ["a"]


async def test_the_first_answer_is_kept_a_minute_after_its_event_left(
    outbox: Outbox, clock: FakeClock
) -> None:
    """A CONSUME that is tried again gets its answer while queued and for 60 s after."""
    await outbox.append([record("a", value=7, answer=b"yes")], DURABLE)
    while_queued = await outbox.consumption("acme", "a")
    batch = await batch_of(outbox)
    clock.advance(3600)
    await outbox.settle(batch, settled(batch))
    clock.advance(59)

    assert while_queued == await outbox.consumption("acme", "a") == Consumption(7, b"yes")
    assert await outbox.consumption("globex", "a") is None
    assert await outbox.consumption("acme", "b") is None


async def test_first_answers_are_not_kept_for_ever(outbox: Outbox, clock: FakeClock) -> None:
    """After a minute they go, at the latest when the next batch is settled."""
    await outbox.append([record("a", answer=b"yes"), record("b", answer=b"no")], DURABLE)
    first = await batch_of(outbox, max_events=1)
    await outbox.settle(first, settled(first))
    clock.advance(61)
    second = await batch_of(outbox)
    await outbox.settle(second, settled(second))

    assert await outbox.consumption("acme", "a") is None
    assert await outbox.consumption("acme", "b") == Consumption(1, b"no")


async def test_a_jump_of_the_wall_clock_ends_no_answer(outbox: Outbox, clock: FakeClock) -> None:
    """The minute is measured on the monotonic clock."""
    await outbox.append([record("a", answer=b"yes"), record("b")], DURABLE)
    first = await batch_of(outbox, max_events=1)
    await outbox.settle(first, settled(first))
    clock.jump(3600)
    second = await batch_of(outbox)
    await outbox.settle(second, settled(second))

    assert await outbox.consumption("acme", "a") is not None


async def test_a_full_outbox_refuses_all_of_a_call(outbox: Outbox) -> None:
    """Nothing of it is kept, the caller is told when to come back, and room returns with shipping."""
    names: list[str] = []
    with pytest.raises(OutboxFullError) as refused:
        await _append_for_ever(outbox, names)
    with pytest.raises(OutboxFullError):
        await outbox.require_room(100_000)

    stats = await outbox.stats()
    assert refused.value.retry_after
    assert stats.accepted == stats.queued == len(names) > 0
    while batch := await next_batch(outbox, 500, MIB):
        await outbox.settle(batch, settled(batch))
    await _append_when_there_is_room(outbox, record("later"))


async def test_first_answers_alone_do_not_keep_an_outbox_full(outbox: Outbox, clock: FakeClock) -> None:
    """A minute after their events have left there is room again, without any further settlement."""
    answer, count = b"x" * 1000, 0
    for _ in range(300):
        await outbox.append([record(f"e{count + i}", answer=answer) for i in range(10)], DURABLE)
        count += 10
        while batch := await next_batch(outbox, 500, MIB):
            await outbox.settle(batch, settled(batch))
        if (await outbox.stats()).bytes_used > 450_000:
            break

    clock.advance(61)
    for i in range(40):
        await _append_when_there_is_room(outbox, record(f"f{i}", answer=answer))
    assert await outbox.consumption("acme", "e0") is None


async def _append_for_ever(outbox: Outbox, kept: list[str]) -> None:
    while True:
        names = [f"e{len(kept) + offset}" for offset in range(50)]
        await outbox.append(records(*names), DURABLE)
        kept += names


async def _append_when_there_is_room(outbox: Outbox, one: OutboxRecord) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            assert outcomes(await outbox.append([one], DURABLE)) == ["ACCEPTED"]
        except OutboxFullError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        else:
            return


async def test_many_callers_at_once(outbox: Outbox) -> None:
    """Each gets the outcomes of its own records; no sequence is missing or doubled."""
    calls = [[f"e{caller}-{i}" for i in range(7)] for caller in range(40)]

    answers = await asyncio.gather(
        *(outbox.append(records(*call), DURABLE if len(call[0]) % 2 else BUFFERED) for call in calls)
    )

    assert [[result.id for result in answer] for answer in answers] == calls
    batch = await batch_of(outbox, max_events=1000)
    assert [one.sequence for one in batch.events] == list(range(1, 281))
    assert sorted(ids(batch)) == sorted(id_ for call in calls for id_ in call)


async def test_stats_say_since_when_the_oldest_waits(outbox: Outbox) -> None:
    """In seconds since 1970; nothing when nothing waits."""
    before = (await outbox.stats()).oldest_recorded_at
    await outbox.append(records("a"), DURABLE)

    stats = await outbox.stats()

    assert before is None
    assert stats.oldest_recorded_at == event("a").recorded_at.timestamp()
    assert stats.bytes_used > 0
