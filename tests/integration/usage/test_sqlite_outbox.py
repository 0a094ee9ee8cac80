"""What the outbox on disk promises beyond the port: restarts, kills, damage, full disks."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import (
    ConfigurationError,
    DrainingError,
    OutboxFullError,
    SourceUnavailableError,
)
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.adapters import sqlite_outbox_writer
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import FILE_NAME, SqliteOutbox
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import place_of
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_file import OutboxFile
from entitlement_sidecar.sidecar.usage.outbox import Consumption, OutboxRecord, SequenceRange
from support.usage import NOW, event, ids, next_batch, outcomes, record, records, settled

DURABLE = Durability.DURABLE
MIB = 1 << 20

Opener = Callable[[], SqliteOutbox]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The state folder, not made yet."""
    return tmp_path / "state"


@pytest.fixture
async def opened(folder: Path) -> AsyncIterator[Opener]:
    """Opens the folder's outbox; whatever is left open is closed."""
    made: list[SqliteOutbox] = []

    def opener() -> SqliteOutbox:
        made.append(SqliteOutbox(folder))
        return made[-1]

    yield opener
    for outbox in made:
        await outbox.close()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that another thread does."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_restart_begins_an_epoch_and_keeps_the_rest(opened: Opener) -> None:
    """Events of an earlier start keep their place; a batch belongs to one epoch."""
    before = opened()
    await before.append(records("a", "b", "c"), DURABLE)
    first = await next_batch(before, 2, MIB)
    await before.close()

    after = opened()
    await after.append(records("d"), DURABLE)
    again = await next_batch(after, 100, MIB)
    assert first is not None
    assert again is not None
    await after.settle(again, settled(again))
    second = await next_batch(after, 100, MIB)
    assert second is not None
    await after.settle(second, settled(second))
    third = await next_batch(after, 100, MIB)
    assert third is not None

    assert again.events == first.events
    assert (again.batch_id, again.epoch, again.instance) == (first.batch_id, 1, first.instance)
    assert (ids(second), second.epoch, second.events[0].sequence) == (["c"], 1, 3)
    assert (ids(third), third.epoch, third.events[0].sequence) == (["d"], 2, 1)
    assert (second.accepted_total, third.accepted_total) == (3, 1)


async def test_a_folder_restored_from_a_copy_gives_no_rollup_an_identity_twice(tmp_path: Path) -> None:
    """Its places come again; the ledger would take what is new for what it has already."""
    folder, copy = tmp_path / "state", tmp_path / "copy"
    await SqliteOutbox(folder).close()
    shutil.copytree(folder, copy)
    found = []
    for seconds, one in enumerate((folder, copy)):
        outbox = SqliteOutbox(one)
        fact = msgspec.structs.replace(event("e1"), recorded_at=NOW + timedelta(seconds=seconds))
        await outbox.append([OutboxRecord(fact, rollup=True)], DURABLE)
        found.append(await next_batch(outbox, 500, MIB))
        await outbox.close()

    first, again = found
    assert first is not None
    assert again is not None
    assert (first.instance, first.epoch) == (again.instance, again.epoch)
    assert ids(first) != ids(again)


async def test_totals_survive_a_restart(opened: Opener) -> None:
    """Accepted = settled + queued + dead, over all epochs."""
    before = opened()
    await before.append(records("a", "b", "c"), DURABLE)
    batch = await next_batch(before, 2, MIB)
    assert batch is not None
    await before.settle(
        batch, [UsageResult("a", UsageOutcome.ACCEPTED), UsageResult("b", UsageOutcome.INVALID, "bad")]
    )
    await before.close()

    after = opened()
    await after.append(records("d"), DURABLE)
    stats = await after.stats()

    assert (stats.epoch, stats.accepted, stats.settled, stats.queued, stats.dead) == (2, 4, 1, 2, 1)


async def test_identities_and_first_answers_survive_a_restart(opened: Opener) -> None:
    """A CONSUME tried again after a restart gets the first answer; an event is still a duplicate."""
    before = opened()
    await before.append([record("a", value=3, answer=b"yes"), record("b", answer=b"no")], DURABLE)
    batch = await next_batch(before, 1, MIB)
    assert batch is not None
    await before.settle(batch, settled(batch))
    await before.close()

    after = opened()

    assert await after.consumption("acme", "a") == Consumption(3, b"yes")
    assert await after.consumption("acme", "b") == Consumption(1, b"no")
    assert outcomes(await after.append([record("b", answer=b"other")], DURABLE)) == ["DUPLICATE"]
    assert await after.consumption("acme", "b") == Consumption(1, b"no")


def _acked_before_kill(folder: Path, durability: str) -> list[str]:
    """Ids that a process acked before it was killed in the middle of its work."""
    script = Path(__file__).with_name("kept_events.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    acked: list[str] = []
    with subprocess.Popen(
        [sys.executable, str(script), str(folder), durability], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        while len(acked) < 2000 and (line := process.stdout.readline()):
            acked.append(line.decode().strip())
        process.kill()
        return acked + process.stdout.read().decode().split()


@pytest.mark.parametrize("durability", ["DURABLE", "BUFFERED"])
async def test_acked_events_survive_sigkill(opened: Opener, folder: Path, durability: str) -> None:
    """Every id that was acked before the process was killed is held afterwards, once, with its answer."""
    acked = _acked_before_kill(folder, durability)

    outbox = opened()
    held: list[str] = []
    while batch := await next_batch(outbox, 500, MIB):
        held += ids(batch)
        await outbox.settle(batch, settled(batch))

    assert len(acked) >= 2000
    assert len(held) == len(set(held))
    assert set(acked) <= set(held)
    assert await outbox.consumption("acme", acked[-1]) == Consumption(1, b"yes")
    stats = await outbox.stats()
    assert stats.accepted == stats.settled == len(held)


async def test_two_processes_do_not_share_a_folder(opened: Opener, folder: Path) -> None:
    """The second is told which folder, and what would be right."""
    opened()

    with pytest.raises(ConfigurationError, match=r"state.*in use by another running process.*of its own"):
        SqliteOutbox(folder)


async def test_a_folder_is_free_after_close(opened: Opener) -> None:
    """Closing lets go of it, and closing again is harmless."""
    first = opened()
    await first.close()
    await first.close()

    assert (await opened().stats()).epoch == 2


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """The message names the folder and what would be right."""
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(ConfigurationError, match=r"file/state: .*give a folder that this user may"):
        SqliteOutbox(tmp_path / "file" / "state")


async def test_files_are_private(opened: Opener, folder: Path) -> None:
    """Usage says who did what: only the sidecar's user may read it."""
    await opened().append(records("a"), DURABLE)

    assert _modes(folder) == {0o700, 0o600}


def _modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}


async def test_a_closed_outbox_says_so(opened: Opener) -> None:
    """What can no longer be kept is refused in a way that can be repeated elsewhere."""
    outbox = opened()
    await outbox.close()

    with pytest.raises(DrainingError):
        await outbox.append(records("a"), DURABLE)


async def test_close_commits_what_was_appended(opened: Opener) -> None:
    """Appends under way end with their commit."""
    outbox = opened()
    pending = [outbox.append(records(f"e{number}"), DURABLE) for number in range(100)]
    await outbox.close()

    answers: list[list[UsageResult]] = [await _within(answer) for answer in pending]

    assert {result.outcome for answer in answers for result in answer} == {UsageOutcome.ACCEPTED}
    assert (await opened().stats()).queued == 100


async def _within(answer: Awaitable[list[UsageResult]]) -> list[UsageResult]:
    return await asyncio.wait_for(answer, 20)


@pytest.mark.parametrize(
    "content", [b"this is not a database at all" * 400, b"SQLite format 3\0" + b"x" * 9000]
)
async def test_a_corrupt_file_is_set_aside(opened: Opener, folder: Path, content: bytes) -> None:
    """It is renamed, never deleted; the sidecar goes on with a new one of another identity."""
    _write(folder / FILE_NAME, content)

    outbox = opened()

    assert outcomes(await outbox.append(records("a"), DURABLE)) == ["ACCEPTED"]
    assert (folder / f"{FILE_NAME}.corrupt-1").read_bytes() == content


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)


async def test_damage_is_found_at_the_start(opened: Opener, folder: Path) -> None:
    """A page overwritten while the sidecar was down; the second such file gets the next number."""
    instances = set()
    for number in (1, 2):
        outbox = opened()
        instances.add((await outbox.stats()).instance)
        await outbox.append(records(*(f"e{i}" for i in range(200))), DURABLE)
        await outbox.close()
        _damage(folder / FILE_NAME)
        outbox = opened()
        assert (await outbox.stats()).queued == 0
        assert (folder / f"{FILE_NAME}.corrupt-{number}").exists()
        instances.add((await outbox.stats()).instance)
        await outbox.close()
    assert len(instances) == 3


async def test_damage_is_found_while_running(opened: Opener, folder: Path) -> None:
    """The call that met it is to be repeated, and succeeds on a new file; no batch mixes up the two."""
    outbox = opened()
    await outbox.append(records(*(f"e{i}" for i in range(200))), DURABLE)
    stale = await next_batch(outbox, 500, MIB)
    assert stale is not None
    await until(lambda: outbox._writer.file.wal_bytes == 0)
    _damage(folder / FILE_NAME)
    outbox._writer.file._pragma("shrink_memory")

    with pytest.raises(SourceUnavailableError, match="replaced"):
        await outbox.append(records("x"), DURABLE)
    again = await outbox.append(records("x"), DURABLE)
    await outbox.settle(stale, settled(stale))

    stats = await outbox.stats()
    assert outcomes(again) == ["ACCEPTED"]
    assert (stats.accepted, stats.settled, stats.queued) == (1, 0, 1)
    assert stats.oldest_recorded_at is not None
    assert stats.instance != stale.instance
    assert (folder / f"{FILE_NAME}.corrupt-1").exists()


async def test_an_event_that_cannot_be_read_does_not_stop_the_line(opened: Opener, folder: Path) -> None:
    """Pages may look well around damaged content: the file is damaged, and a new one takes over."""
    outbox = opened()
    await outbox.append(records("e1", "e2", "e3"), DURABLE)
    with outbox._writer.file.transaction(durable=True):
        outbox._writer.file._db.execute("UPDATE records SET payload = x'ffff' WHERE event_id = 'e2'")

    with pytest.raises(SourceUnavailableError, match="replaced"):
        await outbox.next_batches(500, MIB)
    await outbox.append(records("x"), DURABLE)

    assert ids(await next_batch(outbox, 500, MIB)) == ["x"]
    assert (folder / f"{FILE_NAME}.corrupt-1").exists()


def _damage(path: Path) -> None:
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


async def test_a_newer_file_is_left_alone(opened: Opener, folder: Path) -> None:
    """A downgrade is refused in words, not by setting aside a good file."""
    await opened().close()
    with sqlite3.connect(folder / FILE_NAME) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()

    with pytest.raises(ConfigurationError, match="newer version"):
        SqliteOutbox(folder)
    assert not (folder / f"{FILE_NAME}.corrupt-1").exists()


async def test_callers_who_are_refused_do_not_keep_the_writer_busy(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often they come back: room is looked for once at a time."""
    outbox = opened()
    looks: list[asyncio.Future[None]] = []

    def make_room() -> asyncio.Future[None]:
        looks.append(asyncio.get_running_loop().create_future())
        return looks[-1]

    monkeypatch.setattr(outbox._writer, "make_room", make_room)
    outbox._max_bytes = 1

    for expected in (1, 2):
        for _ in range(3):
            with pytest.raises(OutboxFullError):
                await outbox.append(records("e1"), DURABLE)
        assert len(looks) == expected
        looks[-1].set_result(None)


async def test_a_full_disk_refuses_and_recovers(opened: Opener) -> None:
    """Appends fail as a whole while it is full; what was kept can still be shipped, which makes room."""
    outbox = opened()
    await outbox.append(records("first"), DURABLE)
    outbox._writer.file._pragma("max_page_count", outbox._writer.file._pragma("page_count") + 2)
    kept = ["first"]
    with pytest.raises(OutboxFullError) as refused:
        await _append_for_ever(outbox, kept)

    batch = await next_batch(outbox, 10_000, MIB)
    assert batch is not None
    assert refused.value.retry_after
    assert ids(batch) == kept
    await outbox.settle(batch, settled(batch))
    assert outcomes(await outbox.append(records("later"), DURABLE)) == ["ACCEPTED"]


async def _append_for_ever(outbox: SqliteOutbox, kept: list[str]) -> None:
    while True:
        name = f"e{len(kept)}"
        await outbox.append(records(name), DURABLE)
        kept.append(name)


async def test_dead_letters_keep_the_event_and_the_reason(opened: Opener, folder: Path) -> None:
    """Nothing refused is lost: it can be looked into, and sent again once its cause is gone."""
    outbox = opened()
    await outbox.append(records("a"), DURABLE)
    batch = await next_batch(outbox, 1, MIB)
    assert batch is not None
    await outbox.settle(batch, [UsageResult("a", UsageOutcome.UNKNOWN_METRIC, "no metric 'exports'")])
    await outbox.close()

    database = sqlite3.connect(folder / FILE_NAME)
    rows = database.execute(
        "SELECT tenant_id, event_id, outcome, reason, payload FROM dead_letters"
    ).fetchall()
    database.close()

    [(tenant, event_id, outcome, reason, payload)] = rows
    assert (tenant, event_id, outcome) == ("acme", "a", UsageOutcome.UNKNOWN_METRIC)
    assert reason == "no metric 'exports'"
    assert b"work-a" in payload


async def test_the_place_of_a_dead_letter_that_came_back_is_not_lost(opened: Opener) -> None:
    """Its event travels under another; the old place will not come, and nothing is missing."""
    outbox = opened()
    await outbox.append(records("e1"), DURABLE)
    batch = await next_batch(outbox, 10, MIB)
    assert batch is not None
    await outbox.settle(batch, settled(batch, UsageOutcome.INVALID))
    await outbox._writer.call(lambda: outbox._writer.file.revive([place_of(batch.epoch, 1)]))

    told = await outbox.declare(batch.instance, batch.epoch, [SequenceRange(1, 1)])

    assert told == (SequenceRange(1, 1),)
    assert (await outbox.stats()).lost == 0
    assert ids(await next_batch(outbox, 10, MIB)) == ["e1"]


async def test_the_log_is_emptied_when_it_is_quiet(opened: Opener) -> None:
    """Checkpoints happen between commits; a quiet outbox has moved everything into its file."""
    outbox = opened()
    await outbox.append(records("a"), DURABLE)

    await until(lambda: outbox._writer.file.wal_bytes == 0)

    assert outcomes(await outbox.append(records("b"), DURABLE)) == ["ACCEPTED"]


async def test_a_cancelled_caller_disturbs_nobody(opened: Opener) -> None:
    """Its events may be kept or not; the others get their answers."""
    outbox = opened()
    gone = asyncio.ensure_future(_within(outbox.append(records("a"), DURABLE)))
    await asyncio.sleep(0)
    gone.cancel()

    assert outcomes(await outbox.append(records("b"), DURABLE)) == ["ACCEPTED"]
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_log_that_cannot_be_looked_at_ends_nothing(opened: Opener, folder: Path) -> None:
    """The writer goes on: its size is not known, and that is all."""
    outbox = opened()
    outbox._writer.file._wal = folder / FILE_NAME / "not a folder"

    for name in ("a", "b"):
        assert outcomes(await asyncio.wait_for(outbox.append(records(name), DURABLE), 20)) == ["ACCEPTED"]


@pytest.mark.parametrize(
    "failure", [ConfigurationError("newer"), PermissionError("no"), sqlite3.OperationalError("no")]
)
async def test_a_new_file_that_cannot_be_made_is_tried_again(
    opened: Opener, folder: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Calls are refused meanwhile, and kept as soon as it can be made."""
    outbox = opened()
    await outbox.append(records(*(f"e{i}" for i in range(200))), DURABLE)
    await until(lambda: outbox._writer.file.wal_bytes == 0)
    _damage(folder / FILE_NAME)
    outbox._writer.file._pragma("shrink_memory")

    def refuse(*_: object) -> OutboxFile:
        raise failure

    with monkeypatch.context() as broken:
        broken.setattr(sqlite_outbox_writer, "OutboxFile", refuse)
        for _ in range(3):
            with pytest.raises(OutboxFullError):
                await asyncio.wait_for(outbox.append(records("x"), DURABLE), 20)

    assert outcomes(await asyncio.wait_for(outbox.append(records("x"), DURABLE), 20)) == ["ACCEPTED"]
    assert (await outbox.stats()).queued == 1


async def test_an_outbox_without_its_writer_says_so(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ended the writer: nobody waits for it for ever, neither who waits already nor who comes."""
    outbox = opened()

    def end(_: object) -> list[object]:
        raise SystemExit

    monkeypatch.setattr(outbox._writer, "_commit", end)
    waiting = [outbox.append(records(name), DURABLE) for name in ("a", "b", "c")]
    await until(lambda: not outbox._writer._thread.is_alive())
    for answer in [*waiting, outbox.append(records("d"), DURABLE)]:
        with pytest.raises(SourceUnavailableError, match="restart"):
            await asyncio.wait_for(answer, 20)


async def test_a_writer_that_fails_goes_on_with_the_file_opened_again(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect costs one call, not the outbox."""
    outbox = opened()
    await outbox.append(records("a"), DURABLE)

    def fail(_: object) -> list[object]:
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr(outbox._writer, "_commit", fail)
    with pytest.raises(SourceUnavailableError):
        await asyncio.wait_for(outbox.append(records("b"), DURABLE), 20)

    assert outcomes(await asyncio.wait_for(outbox.append(records("b"), DURABLE), 20)) == ["ACCEPTED"]
    assert (await outbox.stats()).queued == 2


async def test_first_answers_go_by_time_alone(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing needs to be appended or settled for it."""
    monkeypatch.setattr(sqlite_outbox_writer, "KEEP_CONSUMPTIONS", 0.02)
    monkeypatch.setattr(sqlite_outbox_writer, "_PURGE_EVERY", 0.01)
    outbox = opened()
    await outbox.append([record("a", answer=b"yes")], DURABLE)
    batch = await next_batch(outbox, 1, MIB)
    assert batch is not None
    await outbox.settle(batch, settled(batch))

    deadline = time.monotonic() + 20
    while await outbox.consumption("acme", "a") is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
