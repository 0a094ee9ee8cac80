"""What the next start may believe of the journal: after a kill, a lost machine, damage, and on a copy."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from subprocess import PIPE
from typing import NamedTuple

import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import DrainingError
from entitlement_sidecar.sidecar.adapters import sqlite_outbox_leases
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import FILE_NAME, SqliteOutbox
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_replay import StoppedOutbox
from support.leased_usage import account, journalled_uses, queued_uses, use
from support.usage import outcomes

DURABLE, BUFFERED = Durability.DURABLE, Durability.BUFFERED
KILLS = 12

Opener = Callable[..., SqliteOutbox]
Boot = Callable[[str], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The state folder, not made yet."""
    return tmp_path / "state"


@pytest.fixture
async def opened(folder: Path) -> AsyncIterator[Opener]:
    """Opens the folder's outbox; whatever is left open is closed."""
    made: list[SqliteOutbox] = []

    def opener(where: Path = folder) -> SqliteOutbox:
        made.append(SqliteOutbox(where))
        return made[-1]

    yield opener
    for outbox in made:
        await outbox.close()


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Starts the machine anew, under another boot id."""

    def start(name: str) -> None:
        monkeypatch.setattr(sqlite_outbox_leases, "boot_id", lambda: name)

    start("first")
    return start


async def leave(folder: Path, opened: Opener, *uses: Durability, as_: Durability = BUFFERED) -> None:
    """Leaves the files of a process that was killed: it had opened a lease, and used it."""
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder), as_)
    for number, durability in enumerate(uses):
        await outbox.append([use(f"e{number}", "lease:a")], durability)
    left = {one: one.read_bytes() for one in files(folder)}
    await outbox.close()
    # The same files, without what the orderly end did to them.
    for one, content in left.items():
        one.write_bytes(content)


def files(folder: Path) -> list[Path]:
    """Everything in a folder."""
    return list(folder.iterdir())


async def found(outbox: SqliteOutbox) -> list[tuple[str, int, bool]]:
    """Former accounts: which, how much was used, and whether that is proved."""
    return [(one.lease_id, one.used, one.proved) for one in await outbox.leases.former()]


class Case(NamedTuple):
    """How a lease was opened and used, and whether that is proved after the machine was lost."""

    as_: Durability
    uses: tuple[Durability, ...]
    proved: bool


CASES = [
    Case(DURABLE, (DURABLE, DURABLE), proved=True),
    Case(DURABLE, (DURABLE, BUFFERED), proved=False),
    Case(DURABLE, (), proved=True),
    Case(BUFFERED, (BUFFERED,), proved=False),
    Case(BUFFERED, (DURABLE,), proved=False),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("boots", ["same", "another"])
async def test_what_a_lost_machine_may_have_taken_is_not_proved(
    folder: Path, opened: Opener, boot: Boot, case: Case, boots: str
) -> None:
    """A process that was killed lost nothing; a machine may have lost what was not forced to disk."""
    # Given a lease that was used, and a process that ended without notice
    await leave(folder, opened, *case.uses, as_=case.as_)
    # When the next one starts, on the machine as it was or after it was started anew
    boot("first" if boots == "same" else "second")
    # Then what it finds is proved where nothing can be missing
    assert await found(opened()) == [("lease:a", len(case.uses), case.proved or boots == "same")]


async def test_a_start_forces_to_disk_what_it_found(folder: Path, opened: Opener, boot: Boot) -> None:
    """What was proved at one start is still proved after the machine was lost before it was settled."""
    await leave(folder, opened, BUFFERED)
    await opened().close()
    boot("second")

    assert await found(opened()) == [("lease:a", 1, True)]


async def test_what_is_not_proved_stays_so(folder: Path, opened: Opener, boot: Boot) -> None:
    """No later start makes it better."""
    await leave(folder, opened, BUFFERED)
    boot("second")
    await opened().close()

    assert await found(opened()) == [("lease:a", 1, False)]


async def test_an_orderly_end_proves(opened: Opener, boot: Boot) -> None:
    """A machine that is shut down in order takes nothing with it."""
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder), BUFFERED)
    await outbox.append([use("e", "lease:a")], BUFFERED)
    await outbox.close()
    boot("second")

    assert await found(opened()) == [("lease:a", 1, True)]


async def test_a_copy_proves_nothing(opened: Opener, folder: Path, tmp_path: Path) -> None:
    """Its original may have gone on since: what the copy says was used may not be all."""
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder))
    await outbox.append([use("1", "lease:a")], DURABLE)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    await outbox.append([use("2", "lease:a")], DURABLE)

    beside = opened(copy)

    assert await found(beside) == [("lease:a", 1, False)]
    await beside.close()
    assert await found(opened(copy)) == [("lease:a", 1, False)]


async def test_a_file_that_was_put_back_proves_nothing(opened: Opener, folder: Path) -> None:
    """In the place of the one that was used since, and perhaps under its number in the file system."""
    # Given a backup, and a sidecar that went on after it
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder))
    await outbox._writer.make_room()
    backup = (folder / FILE_NAME).read_bytes()
    await outbox.append([use("1", "lease:a")], DURABLE)
    await outbox.close()
    # When its file is replaced by the backup
    (folder / FILE_NAME).unlink()
    (folder / FILE_NAME).write_bytes(backup)
    # Then what that says was used is not believed to be all
    assert await found(opened()) == [("lease:a", 0, False)]


async def test_a_copy_is_another_holder(opened: Opener, folder: Path, tmp_path: Path) -> None:
    """It counts its starts from where its original did, and is yet told from it."""
    await opened().close()
    shutil.copytree(folder, tmp_path / "copy")

    original, copy = opened(), opened(tmp_path / "copy")

    assert (await original.stats()).epoch == (await copy.stats()).epoch
    assert original.leases.holder != copy.leases.holder


async def test_a_file_that_lacks_something_proves_nothing(opened: Opener, folder: Path) -> None:
    """Where records are missing, uses may be too."""
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder))
    await outbox.append([use("1", "lease:a")], DURABLE)
    await outbox.close()
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        database.execute("DELETE FROM records")

    assert await found(opened()) == [("lease:a", 1, False)]


async def test_a_damaged_file_has_no_former_accounts(opened: Opener, folder: Path) -> None:
    """What was lost with it stays spent at those who granted it; leases opened since are kept."""
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder))
    await outbox.close()
    (folder / FILE_NAME).write_bytes(b"no database" * 1000)

    after = opened()
    await after.leases.open(account("lease:b", after.leases.holder))

    assert await found(after) == []
    await after.close()
    assert await found(opened()) == [("lease:b", 0, True)]


async def test_damage_while_it_runs(opened: Opener, folder: Path) -> None:
    """A lease whose account went with the file is not journalled any more, and disturbs nothing."""
    # Given a lease in a file that is damaged under the process
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder))
    await outbox._writer.make_room()
    (folder / FILE_NAME).write_bytes(b"no database" * 1000)
    await outbox._writer.call(outbox._writer._close_file)
    # When usage is kept in the new one, of that lease and of one that is opened since
    await outbox.leases.open(account("lease:b", outbox.leases.holder))
    told = await outbox.append([use("1", "lease:a"), use("2", "lease:b", 3)], DURABLE)
    # Then the new file knows the new one alone, and it is no former one
    assert outcomes(told) == ["ACCEPTED", "ACCEPTED"]
    assert await found(outbox) == []
    await outbox.close()
    assert await found(opened()) == [("lease:b", 3, True)]


@pytest.mark.usefixtures("boot")
async def test_a_file_that_is_opened_again_goes_on(opened: Opener, folder: Path) -> None:
    """Accounts of this process stay its own; the next use that is not forced to disk puts them at risk."""
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder), BUFFERED)
    await outbox.append([use("1", "lease:a")], BUFFERED)
    await outbox._writer.call(outbox._writer._close_file)

    await outbox.append([use("2", "lease:a")], BUFFERED)

    assert await found(outbox) == []
    with closing(sqlite3.connect(folder / FILE_NAME)) as database:
        assert database.execute(
            "SELECT used, boot FROM leases JOIN lease_uses USING (number)"
        ).fetchall() == [(2, "first")]


async def test_a_lease_of_an_earlier_start_is_not_opened_again(opened: Opener) -> None:
    """Two starts that used one account could not be told apart."""
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder))
    await outbox.close()

    with pytest.raises(ValueError, match="'lease:a' is of an earlier start"):
        await opened().leases.open(account("lease:a", "another:2"))


async def test_a_closed_journal_says_so(opened: Opener) -> None:
    """As its outbox does."""
    outbox = opened()
    await outbox.close()

    with pytest.raises(DrainingError):
        await outbox.leases.open(account("lease:a", outbox.leases.holder))
    with pytest.raises(DrainingError):
        await outbox.leases.close(["lease:a"])
    with pytest.raises(DrainingError):
        await outbox.leases.former()


async def test_events_that_are_put_back_use_nothing(opened: Opener, folder: Path) -> None:
    """They were used when they were first kept."""
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder))
    await outbox.append([use("1", "lease:a", 2)], DURABLE)
    await outbox.close()

    with StoppedOutbox.at(folder / FILE_NAME) as stopped:
        for _ in stopped.put_back([use("2", "lease:a", 5).event]):
            pass

    assert journalled_uses(folder / FILE_NAME) == {"lease:a": 2}


def test_a_machine_without_a_boot_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each process then counts as a boot of its own: what is not forced to disk is not proved."""
    monkeypatch.setattr(sqlite_outbox_leases, "_BOOT_ID", tmp_path / "missing")
    read = sqlite_outbox_leases.boot_id.__wrapped__

    assert read() != read()


@pytest.fixture
def killed(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """Starts a process that uses leases, kills it in the middle of that, and tells what it had said."""
    script = Path(__file__).with_name("leased_events.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdin=PIPE, stdout=PIPE, env=environment, text=True
    ) as process:
        yield lambda: _said_before_kill(process)
        process.stdin.close()


def _said_before_kill(process: subprocess.Popen[str]) -> list[str]:
    process.stdin.write("start\n")
    process.stdin.flush()
    victim = int(process.stdout.readline())
    lines = [process.stdout.readline() for _ in range(100)]
    os.kill(victim, signal.SIGKILL)
    while (line := process.stdout.readline()) != "killed\n":
        assert line
        lines.append(line)
    return lines


def test_what_was_used_survives_every_kill(folder: Path, killed: Callable[[], list[str]]) -> None:
    """Whenever a process is killed, events and journal say the same, and all that it had said itself."""
    told = Counter[str]()
    for _ in range(KILLS):
        for line in killed():
            lease_id, used = line.split()
            told[lease_id] += int(used)

        queued = queued_uses(folder / FILE_NAME)

        assert queued == journalled_uses(folder / FILE_NAME)
        assert told <= queued
    assert len(told) == 3 * KILLS
