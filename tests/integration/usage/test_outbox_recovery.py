"""Starting on what an earlier start left: its books, its dead letters, its rollups."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import place_of
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_file import OutboxFile
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Call, kept
from entitlement_sidecar.sidecar.usage.outbox import OutboxRecord
from support.usage import event, ids, records, settled

MIB = 1 << 20


def books(file: OutboxFile) -> tuple[int, int, int, int, int]:
    """Accepted, settled, queued, dead and lost."""
    return file.accepted, file.settled, file.queued, file.dead, file.lost


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that accepted five events: `a` is dead, `b` to `e` are queued."""
    file = OutboxFile(tmp_path / "outbox.db")
    file.append([Call([kept(one) for one in records(*"abcde")])], durable=True)
    [batch] = file.next_batches(1, MIB)
    file.settle(batch, [UsageResult("a", UsageOutcome.INVALID, "no")], 1)
    file.close()
    return tmp_path / "outbox.db"


@pytest.mark.parametrize(
    ("damage", "after"),
    [
        ("DELETE FROM records WHERE event_id IN ('b', 'c')", (5, 0, 2, 1, 2)),
        ("UPDATE epochs SET accepted = 3", (5, 0, 4, 1, 0)),
        ("DELETE FROM dead_letters", (5, 0, 4, 0, 1)),
    ],
)
def test_books_that_do_not_fit_are_corrected_and_said(
    path: Path, caplog: pytest.LogCaptureFixture, damage: str, after: tuple[int, ...]
) -> None:
    """What is missing is lost, what is too much was accepted: nothing that waits is left unsent for it."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(damage)

    with closing(OutboxFile(path)) as file:
        assert books(file) == after
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "epoch 1" in caplog.text
    with closing(OutboxFile(path)) as file:
        assert books(file) == after
    assert len(caplog.records) == 1


def test_a_batch_whose_events_are_gone_holds_nothing_up(path: Path) -> None:
    """What waits behind it is sent."""
    with closing(OutboxFile(path)) as file:
        [batch] = file.next_batches(2, MIB)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM records WHERE event_id IN ('b', 'c')")

    with closing(OutboxFile(path)) as file:
        [following] = file.next_batches(2, MIB)
        assert (ids(batch), ids(following)) == (["b", "c"], ["d", "e"])
        assert books(file) == (5, 0, 2, 1, 2)


def test_a_dead_letter_comes_back_behind_the_others(path: Path) -> None:
    """With its identity, at a place of this start; the old place counts as settled."""
    with closing(OutboxFile(path)) as file:
        assert file.revive([place_of(1, 1), place_of(1, 2), place_of(7, 7)]) == 1
        assert books(file) == (6, 1, 5, 0, 0)
        sent = []
        while batches := file.next_batches(10, MIB):
            sent += [(batches[0].epoch, name) for name in ids(batches[0])]
            file.settle(batches[0], settled(batches[0]), 2)

    assert sent == [(1, "b"), (1, "c"), (1, "d"), (1, "e"), (2, "a")]


def test_a_revived_identity_is_held(path: Path) -> None:
    """The same event again is a duplicate, and with other content a conflict."""
    with closing(OutboxFile(path)) as file:
        file.revive([place_of(1, 1)])
        again = [kept(OutboxRecord(event("a"))), kept(OutboxRecord(event("a", value=2)))]
        [results] = file.append([Call(again)], durable=True)

    assert [result.outcome.name for result in results] == ["DUPLICATE", "CONFLICT"]


def test_a_dead_letter_that_waits_again_stays(path: Path) -> None:
    """Its sender was quicker: it is not queued twice."""
    with closing(OutboxFile(path)) as file:
        file.append([Call([kept(one) for one in records("a")])], durable=True)

        assert file.revive([place_of(1, 1)]) == 0
        assert books(file) == (6, 0, 5, 1, 0)


def test_a_rollup_comes_back_as_it_was(tmp_path: Path) -> None:
    """Sum, count and identity survive refusal, restart and replay."""
    path = tmp_path / "rollups.db"
    alike = [
        kept(OutboxRecord(msgspec.structs.replace(event(name, value=3)), rollup=True)) for name in ("x", "y")
    ]
    with closing(OutboxFile(path)) as file:
        file.append([Call(alike)], durable=True)
        [first] = file.next_batches(10, MIB, second=0)
        file.settle(first, [UsageResult(first.events[0].event.id, UsageOutcome.INVALID, "no")], 1)
    with closing(OutboxFile(path)) as file:
        file.revive([place_of(1, 1)])
        [second] = file.next_batches(10, MIB)

    assert second.events[0].event == first.events[0].event
    assert (second.events[0].event.value, second.events[0].event.count) == (6, 2)


def test_a_rollup_of_an_earlier_start_does_not_grow(tmp_path: Path) -> None:
    """It may travel at once; what is alike begins a record of this start."""
    path = tmp_path / "rollups.db"
    alike = [kept(OutboxRecord(event("x"), rollup=True))]
    with closing(OutboxFile(path)) as file:
        file.append([Call(alike)], durable=True)
    with closing(OutboxFile(path)) as file:
        file.append([Call(alike)], durable=True)
        [batch] = file.next_batches(10, MIB, second=int(event("x").recorded_at.timestamp()))

    assert (batch.epoch, [one.event.count for one in batch.events]) == (1, [1])
