"""Events whose identity was made here are not kept apart on disk: the ledger does so, and nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import FILE_NAME, SqliteOutbox
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_checks import check
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import OutboxReader
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_replay import StoppedOutbox
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import payload_of
from entitlement_sidecar.sidecar.usage.outbox import Batch, OutboxRecord, PreparedRecord
from entitlement_sidecar.sidecar.usage.window import lane_of
from entitlement_sidecar.wire.codec import microseconds
from support.usage import event, outcomes

DURABLE = Durability.DURABLE


def consumed(name: str = "named-here") -> UsageEvent:
    """What a consumption from a lease is."""
    return msgspec.structs.replace(event(name, lease_id="one"), feature="exports", id_generated=True)


def prepared(one: UsageEvent) -> PreparedRecord:
    """The same, as it is kept."""
    lane = lane_of(one.tenant_id, one.metric)
    at = microseconds(one.recorded_at)
    return PreparedRecord(one.tenant_id, one.id, at, payload_of(one), lane, one.lease_id, one.value)


def ledger(batch: Batch, known: dict[str, bytes]) -> list[UsageResult]:
    """What the plan store says of a batch: the first of an identity counts, once."""
    results = []
    for event_ in (one.event for one in batch.events):
        if event_.id not in known:
            outcome = UsageOutcome.ACCEPTED
            known[event_.id] = event_.digest()
        else:
            same = known[event_.id] == event_.digest()
            outcome = UsageOutcome.DUPLICATE if same else UsageOutcome.CONFLICT
        results.append(UsageResult(event_.id, outcome))
    return results


async def shipped(outbox: SqliteOutbox, known: dict[str, bytes]) -> list[str]:
    """Everything goes to the ledger; what it said of each event, in order."""
    told: list[str] = []
    while batches := await outbox.next_batches(1, 1 << 20):
        for batch in batches:
            results = ledger(batch, known)
            told += outcomes(results)
            await outbox.settle(batch, results)
    return told


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[SqliteOutbox]:
    """An empty one."""
    made = SqliteOutbox(tmp_path)
    yield made
    await made.close()


async def test_somebody_reports_an_event_of_that_very_identity(outbox: SqliteOutbox, tmp_path: Path) -> None:
    """Given a report under a name that was made here: both are queued, the second alone is refused."""
    await outbox.append_prepared([prepared(consumed())], DURABLE, billable=True)
    reported = event("named-here", value=500)
    assert outcomes(await outbox.append([OutboxRecord(reported)], DURABLE)) == ["ACCEPTED"]
    assert outcomes(await outbox.append([OutboxRecord(reported)], DURABLE)) == ["DUPLICATE"]
    assert await shipped(outbox, {}) == ["ACCEPTED", "CONFLICT"]
    await outbox.append_prepared([prepared(consumed("next"))], DURABLE, billable=True)
    stats = await outbox.stats()
    assert (stats.accepted, stats.settled, stats.dead, stats.queued) == (3, 1, 1, 1)
    with OutboxReader(tmp_path / FILE_NAME) as reader:
        assert list(check(reader, lambda _: None)) == []


async def test_an_append_that_comes_twice_counts_once(outbox: SqliteOutbox) -> None:
    """Given the same records again after an error: they are queued twice, and the ledger counts them once."""
    records = [prepared(consumed(name)) for name in ("a", "b")]
    for _ in range(2):
        await outbox.append_prepared(records, DURABLE, billable=True)
    assert sorted(await shipped(outbox, {})) == ["ACCEPTED", "ACCEPTED", "DUPLICATE", "DUPLICATE"]
    assert (await outbox.stats()).queued == 0


async def test_dead_letters_are_revived_beside_what_is_queued(tmp_path: Path) -> None:
    """Given a dead letter, and one of its identity in the queue: both travel, and one counts."""
    outbox = SqliteOutbox(tmp_path)
    await outbox.append_prepared([prepared(consumed())], DURABLE, billable=True)
    [batch] = await outbox.next_batches(10, 1 << 20)
    await outbox.settle(batch, [UsageResult(batch.events[0].event.id, UsageOutcome.INVALID)])
    await outbox.append_prepared([prepared(consumed())], DURABLE, billable=True)
    await outbox.close()
    with OutboxReader(tmp_path / FILE_NAME) as reader:
        places = [one.place for one in reader.rows("dead")]
    with StoppedOutbox.at(tmp_path / FILE_NAME) as stopped:
        assert (stopped.revive(places), stopped.revive(places)) == (1, 0)
    outbox = SqliteOutbox(tmp_path)
    assert sorted(await shipped(outbox, {})) == ["ACCEPTED", "DUPLICATE"]
    stats = await outbox.stats()
    assert (stats.queued, stats.dead, stats.lost) == (0, 0, 0)
    await outbox.close()


async def test_what_is_put_back_again_is_not_queued_again(tmp_path: Path) -> None:
    """Given an export that is put back twice, then the second time adds nothing, whoever named the events."""
    later = msgspec.structs.replace(
        consumed("other"), occurred_at=consumed().occurred_at - timedelta(hours=1)
    )
    events = [consumed(), later, event("reported")]
    with StoppedOutbox.at(tmp_path / FILE_NAME) as stopped:
        first, again = (list(stopped.put_back(events)) for _ in range(2))
    assert (first, again) == ([{UsageOutcome.ACCEPTED: 3}], [{UsageOutcome.DUPLICATE: 3}])
