"""Windows of every outbox: batches that may travel side by side, and order all the same."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import OutboxStoppedError
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.sidecar.usage.outbox import MANY_DEAD, Batch, Outbox, OutboxRecord
from entitlement_sidecar.sidecar.usage.window import LANES, lane_of
from support.usage import event, ids, settled

DURABLE = Durability.DURABLE
MIB = 1 << 20
TENANTS = "dcba"
"""One of each lane, 0 to 3."""


def facts(*names: str) -> list[OutboxRecord]:
    """Events; the first letter of each names its tenant."""
    return [OutboxRecord(event(name, tenant_id=name[0])) for name in names]


def window(batches: Sequence[Batch]) -> list[list[str]]:
    """The events of each batch."""
    return [ids(batch) for batch in batches]


def test_lanes_are_those_of_every_version() -> None:
    """A lane is stored with each event: how it is found must never change."""
    assert [lane_of(tenant, "exports") for tenant in TENANTS] == [0, 1, 2, 3]
    assert [lane_of("acme", metric) for metric in "mnop"] == [1, 3, 1, 0]


async def test_what_is_little_travels_in_one_batch(outbox: Outbox) -> None:
    """Several tenants share it while it has room."""
    await outbox.append(facts("a1", "b1", "c1", "d1"), DURABLE)

    assert window(await outbox.next_batches(4, MIB)) == [["a1", "b1", "c1", "d1"]]


async def test_a_window_is_a_batch_for_each_lane(outbox: Outbox) -> None:
    """The oldest first; each in its own order; up to four times as much as one batch takes."""
    names = [f"{tenant}{number}" for number in range(3) for tenant in TENANTS]
    await outbox.append(facts(*names), DURABLE)

    batches = await outbox.next_batches(3, MIB)

    assert window(batches) == [[f"{tenant}{number}" for number in range(3)] for tenant in TENANTS]
    assert len({batch.batch_id for batch in batches}) == len(batches) == LANES
    assert {batch.accepted_total for batch in batches} == {12}


async def test_a_window_ends_where_a_batch_is_full(outbox: Outbox) -> None:
    """What comes behind it waits, whatever its lane, so that nothing overtakes its elder."""
    await outbox.append(facts("a1", "b1", "a2", "a3", "b2"), DURABLE)

    assert window(await outbox.next_batches(2, MIB)) == [["a1", "a2"], ["b1"]]


async def test_a_window_is_bounded_in_bytes(outbox: Outbox) -> None:
    """Each of its batches holds what fits, and one event at least."""
    await outbox.append(facts("a1", "b1", "a2", "b2"), DURABLE)

    assert window(await outbox.next_batches(100, 1)) == [["a1"], ["b1"]]


async def test_a_window_ends_before_a_correction(outbox: Outbox) -> None:
    """It names no metric, so that its original may be of any lane: which is settled before it is sent."""
    correction = OutboxRecord(msgspec.structs.replace(event("k1"), metric="", corrects="a1"))
    another = OutboxRecord(msgspec.structs.replace(event("k2"), metric="", corrects="b1"))
    await outbox.append([*facts("a1", "b1"), correction, another, *facts("c1")], DURABLE)

    [first] = await outbox.next_batches(100, MIB)
    await outbox.settle(first, settled(first))

    assert ids(first) == ["a1", "b1"]
    assert window(await outbox.next_batches(100, MIB)) == [["k1", "k2", "c1"]]


async def test_the_next_window_waits_for_all_of_this_one(outbox: Outbox) -> None:
    """A batch that is settled leaves; while another waits, nothing else is handed out."""
    await outbox.append(facts("a1", "b1", "a2", "b2"), DURABLE)
    first, second = await outbox.next_batches(1, MIB)
    await outbox.settle(first, settled(first))

    left = await outbox.next_batches(1, MIB)
    await outbox.settle(second, settled(second))
    following = await outbox.next_batches(1, MIB)

    assert [(batch.batch_id, ids(batch)) for batch in left] == [(second.batch_id, ["b1"])]
    assert window(following) == [["a2"], ["b2"]]


async def test_boundaries_of_a_window_never_change(outbox: Outbox) -> None:
    """Whatever came in or is asked for meanwhile."""
    await outbox.append(facts("a1", "b1", "a2", "b2"), DURABLE)
    first = await outbox.next_batches(1, MIB)
    await outbox.append(facts("a3", "c1"), DURABLE)

    again = await outbox.next_batches(100, MIB)

    assert window(first) == window(again) == [["a1"], ["b1"]]
    assert [batch.batch_id for batch in first] == [batch.batch_id for batch in again]


async def test_metrics_of_a_tenant_may_travel_side_by_side(outbox: Outbox) -> None:
    """Order holds per tenant and metric, not beyond."""
    both = [
        OutboxRecord(msgspec.structs.replace(event(f"{metric}{number}"), metric=metric))
        for number in range(2)
        for metric in "mn"
    ]
    await outbox.append(both, DURABLE)

    assert window(await outbox.next_batches(2, MIB)) == [["m0", "m1"], ["n0", "n1"]]


async def test_too_many_dead_letters_stop_the_line(outbox: Outbox) -> None:
    """More than 1,000, and more than 1 % of what was accepted: what comes next stays where it is."""
    for start in range(0, MANY_DEAD + 1, 250):
        count = min(250, MANY_DEAD + 1 - start)
        await outbox.append(facts(*(f"a{start + number}" for number in range(count))), DURABLE)
        [batch] = await outbox.next_batches(250, MIB)
        await outbox.settle(batch, settled(batch, UsageOutcome.INVALID))
    await outbox.append(facts("b1"), DURABLE)

    with pytest.raises(OutboxStoppedError, match=r"1001 of 1002 events.*replay") as stopped:
        await outbox.next_batches(250, MIB)

    stats = await outbox.stats()
    assert stopped.value.retry_after
    assert (stats.accepted, stats.dead, stats.queued) == (1002, 1001, 1)


async def test_verdicts_about_single_events_stop_nothing(outbox: Outbox) -> None:
    """Any tenant can report an id again with another value: the others' usage goes on."""
    await outbox.append(facts(*(f"a{number}" for number in range(MANY_DEAD + 1))), DURABLE)
    for batch in await outbox.next_batches(MANY_DEAD + 1, 8 * MIB):
        await outbox.settle(batch, settled(batch, UsageOutcome.CONFLICT))
    await outbox.append(facts("b1"), DURABLE)

    assert window(await outbox.next_batches(250, MIB)) == [["b1"]]


async def test_a_batch_tells_how_many_were_given_up(outbox: Outbox) -> None:
    """The plan store adds up what it received, what is dead, and what is still to come."""
    await outbox.append(facts("a1", "a2", "a3"), DURABLE)
    [first] = await outbox.next_batches(2, MIB)
    await outbox.settle(first, settled(first, UsageOutcome.INVALID))

    [second] = await outbox.next_batches(2, MIB)

    assert (first.dead_total, second.dead_total, second.accepted_total) == (0, 2, 3)
