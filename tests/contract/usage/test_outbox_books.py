"""What every outbox says of sequences that the plan store misses, and of how full it is."""

from __future__ import annotations

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Classification, Durability
from entitlement_sidecar.domain.errors import OutboxFullError
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.outbox import Batch, Outbox, OutboxRecord, OutboxStats, SequenceRange
from support.usage import event, next_batch, outcomes, records, settled

DURABLE = Durability.DURABLE
MIB = 1 << 20


def books(stats: OutboxStats) -> tuple[int, int, int, int, int]:
    """Accepted, settled, queued, dead and lost."""
    return stats.accepted, stats.settled, stats.queued, stats.dead, stats.lost


@pytest.fixture
async def batch(outbox: Outbox) -> Batch:
    """The first six of ten events: 1 and 2 are settled, 3 is dead, 4 to 10 are queued."""
    await outbox.append(records(*"abcdefghij"), DURABLE)
    first = await next_batch(outbox, 6, MIB)
    assert first is not None
    taken = [UsageResult(name, UsageOutcome.ACCEPTED) for name in "ab"]
    later = [UsageResult(name, UsageOutcome.ACCEPTED, retriable=True) for name in "def"]
    await outbox.settle(first, [*taken, UsageResult("c", UsageOutcome.INVALID, "no"), *later])
    return first


async def test_what_is_queued_is_on_its_way(outbox: Outbox, batch: Batch) -> None:
    """It will come: nothing is declared, nothing counted."""
    assert await outbox.declare(batch.instance, batch.epoch, [SequenceRange(4, 10)]) == ()
    assert books(await outbox.stats()) == (10, 2, 7, 1, 0)


async def test_a_dead_letter_will_not_come(outbox: Outbox, batch: Batch) -> None:
    """It is declared, and is not lost: it is kept here."""
    assert await outbox.declare(batch.instance, batch.epoch, [SequenceRange(3, 5)]) == (SequenceRange(3, 3),)
    assert books(await outbox.stats()) == (10, 2, 7, 1, 0)


async def test_what_was_settled_and_is_missed_is_lost_once(outbox: Outbox, batch: Batch) -> None:
    """The plan store forgot what it had taken: it is said again whenever asked, and counted once."""
    told = [await outbox.declare(batch.instance, batch.epoch, [SequenceRange(2, 4)]) for _ in range(3)]
    counted = books(await outbox.stats())
    wider = await outbox.declare(batch.instance, batch.epoch, [SequenceRange(1, 2), SequenceRange(3, 3)])

    assert told == [(SequenceRange(2, 3),)] * 3
    assert counted == (10, 1, 7, 1, 1)
    assert wider == (SequenceRange(1, 3),)
    assert books(await outbox.stats()) == (10, 0, 7, 1, 2)


async def test_what_never_was_will_not_come_and_is_not_lost(outbox: Outbox, batch: Batch) -> None:
    """Sequences beyond those accepted, and of a start that never was; other instances are none of ours."""
    beyond = await outbox.declare(batch.instance, batch.epoch, [SequenceRange(9, 12)])
    no_start = await outbox.declare(batch.instance, batch.epoch + 7, [SequenceRange(1, 2)])
    other = await outbox.declare("another", batch.epoch, [SequenceRange(1, 2)])

    assert beyond == (SequenceRange(11, 12),)
    assert other == ()
    assert no_start in {(), (SequenceRange(1, 2),)}
    assert books(await outbox.stats()) == (10, 2, 7, 1, 0)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([SequenceRange(5, 3)], ()),
        ([SequenceRange(-4, 1)], (SequenceRange(1, 1),)),
        ([SequenceRange(2, 3), SequenceRange(1, 2)], (SequenceRange(1, 3),)),
        ([SequenceRange(9, 1 << 70)], (SequenceRange(11, (1 << 40) - 1),)),
    ],
)
async def test_ranges_that_make_no_sense_do_no_harm(
    outbox: Outbox, batch: Batch, asked: list[SequenceRange], told: tuple[SequenceRange, ...]
) -> None:
    """Whatever a plan store asks for: books still add up."""
    assert await outbox.declare(batch.instance, batch.epoch, asked) == told
    accepted, *rest = books(await outbox.stats())
    assert accepted == sum(rest)


def some(number: int) -> list[OutboxRecord]:
    """A few events: much less than what lies between two watermarks."""
    return records(*(f"e{number}-{i}" for i in range(10)))


def classified(name: str, classification: Classification | None) -> list[OutboxRecord]:
    """An event of that class."""
    return [OutboxRecord(msgspec.structs.replace(event(name), classification=classification))]


async def test_the_last_part_of_the_room_is_for_billable_usage(outbox: Outbox) -> None:
    """Other usage is refused first; what may be billable is taken a while longer."""
    refused: list[str] = []
    number = 0
    while not refused:
        await outbox.append(some(number), DURABLE)
        number += 1
        try:
            await outbox.append(classified(f"free{number}", Classification.NON_BILLABLE), DURABLE)
        except OutboxFullError as error:
            refused.append(str(error))

    assert "billable" in refused[0]
    assert outcomes(await outbox.append(classified("unknown", None), DURABLE)) == ["ACCEPTED"]
    mixed = [*classified("free", Classification.NON_BILLABLE), *records("paid")]
    assert outcomes(await outbox.append(mixed, DURABLE)) == ["ACCEPTED", "ACCEPTED"]


async def test_room_is_asked_for_beforehand(outbox: Outbox) -> None:
    """A consumption that is not billable is refused while one that is would be admitted."""
    number = 0
    while not await _refused(outbox, billable=False):
        assert not await _refused(outbox, billable=True)
        await outbox.append(some(number), DURABLE)
        number += 1

    assert not await _refused(outbox, billable=True)


async def _refused(outbox: Outbox, *, billable: bool) -> bool:
    try:
        await outbox.require_room(1, billable=billable)
    except OutboxFullError:
        return True
    return False


async def _fill_up(outbox: Outbox) -> None:
    for number in range(100_000):
        await outbox.append(records(*(f"x{number}-{i}" for i in range(10))), DURABLE)


async def test_fill_says_how_much_of_the_room_is_taken(outbox: Outbox) -> None:
    """From next to nothing to where nothing more is taken."""
    empty = outbox.fill
    with pytest.raises(OutboxFullError):
        await _fill_up(outbox)

    assert 0 <= empty < 0.4
    assert empty < outbox.fill < 1


async def test_everything_is_accounted_for(outbox: Outbox, batch: Batch) -> None:
    """Accepted = settled + queued + dead + lost, to the end."""
    await outbox.declare(batch.instance, batch.epoch, [SequenceRange(1, 10)])
    while left := await next_batch(outbox, 3, MIB):
        await outbox.settle(left, settled(left))

    assert books(await outbox.stats()) == (10, 7, 0, 1, 2)
