"""A file of an earlier version, as a sidecar left it that is upgraded: it keeps everything that it holds."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import FILE_NAME, SqliteOutbox
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_checks import check
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import APPLICATION_ID, place_of
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_file import OutboxFile
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import OutboxReader
from entitlement_sidecar.sidecar.usage.outbox import Consumption, SequenceRange
from entitlement_sidecar.wire.codec import event_to_proto, microseconds
from support.leased_usage import account, use
from support.usage import event, ids, next_batch, outcomes, records, settled

DURABLE = Durability.DURABLE
MIB = 1 << 20
SCHEMA = Path(__file__).with_name("outbox_v1.sql").read_text("utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a sidecar that accepted ten events: 1 settled, 2 dead, 3 to 10 queued, 3 to 5 sent."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        database.executescript(SCHEMA)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("PRAGMA user_version = 1")
        database.execute("INSERT INTO instance VALUES ('old-1')")
        database.execute("INSERT INTO epochs VALUES (1, 10, 1, 1)")
        database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", map(_record, range(3, 11)))
        database.execute("INSERT INTO batches VALUES (2, ?, ?)", (place_of(1, 3), place_of(1, 5)))
        database.execute("INSERT INTO consumptions VALUES ('acme', 'e3', 1, X'796573', NULL)")
        _, tenant, name, _, _, payload = _record(2)
        dead = (place_of(1, 2), tenant, name, int(UsageOutcome.INVALID), "no", payload)
        database.execute("INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?)", dead)
    return folder


def _record(number: int) -> tuple[int, str, str, bytes, int, bytes]:
    fact = event(f"e{number}", tenant_id="acme" if number % 2 else "globex")
    payload = event_to_proto(fact).SerializeToString()
    return (
        place_of(1, number),
        fact.tenant_id,
        fact.id,
        fact.digest(),
        microseconds(fact.recorded_at),
        payload,
    )


Opener = Callable[[], SqliteOutbox]


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


async def test_totals_and_identity_are_kept(opened: Opener) -> None:
    """It is the same outbox, at its next start."""
    stats = await opened().stats()

    assert (stats.instance, stats.epoch) == ("old-1", 2)
    assert (stats.accepted, stats.settled, stats.queued, stats.dead, stats.lost) == (10, 1, 8, 1, 0)


async def test_the_batch_under_way_is_sent_as_it_was(opened: Opener) -> None:
    """Its boundaries were stored by the earlier version; then the rest follows in order."""
    outbox = opened()
    sent = []
    while batch := await next_batch(outbox, 4, MIB):
        sent.append((batch.batch_id, ids(batch)))
        await outbox.settle(batch, settled(batch))

    assert sent == [(2, ["e3", "e4", "e5"]), (3, ["e6", "e7", "e8", "e9"]), (4, ["e10"])]


async def test_identities_and_first_answers_are_kept(opened: Opener) -> None:
    """What is held is not taken twice."""
    outbox = opened()
    again = await outbox.append([*records("e3"), *records("new")], DURABLE)

    assert outcomes(again) == ["DUPLICATE", "ACCEPTED"]
    assert await outbox.consumption("acme", "e3") == Consumption(1, b"yes")


async def test_dead_letters_are_kept_and_declared(opened: Opener, folder: Path) -> None:
    """They are told to the plan store, and can be put back."""
    outbox = opened()
    told = await outbox.declare("old-1", 1, [SequenceRange(2, 4)])
    await outbox.close()
    file = OutboxFile(folder / FILE_NAME)
    revived = file.revive([place_of(1, 2)])
    books = (file.accepted, file.settled, file.queued, file.dead, file.lost)
    file.close()

    assert told == (SequenceRange(2, 2),)
    assert revived == 1
    assert books == (11, 2, 9, 0, 0)


async def test_a_file_is_brought_up_to_date_once(opened: Opener, folder: Path) -> None:
    """The next start finds the present version."""
    await opened().close()
    await opened().close()

    with closing(sqlite3.connect(folder / FILE_NAME)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (3,)


@pytest.fixture
async def of_version_2(opened: Opener, folder: Path) -> None:
    """The same folder, brought up to date by a sidecar that knew no leases."""
    await opened().close()
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        database.execute("DROP TABLE leases")
        database.execute("DROP TABLE lease_uses")
        database.execute("ALTER TABLE instance DROP COLUMN home")
        database.execute("PRAGMA user_version = 2")


@pytest.mark.usefixtures("of_version_2")
async def test_a_file_of_version_2_learns_of_leases(opened: Opener) -> None:
    """It keeps what it holds, and is a journal from then on."""
    outbox = opened()
    await outbox.leases.open(account("lease:a", outbox.leases.holder))
    await outbox.append([use("new", "lease:a", 2)], DURABLE)
    stats = await outbox.stats()
    await outbox.close()
    after = opened()

    assert (stats.instance, stats.epoch, stats.accepted, stats.queued) == ("old-1", 3, 11, 9)
    assert [(one.lease_id, one.used, one.proved) for one in await after.leases.former()] == [
        ("lease:a", 2, True)
    ]


@pytest.mark.usefixtures("of_version_2")
def test_a_file_of_version_2_can_be_looked_into(folder: Path) -> None:
    """Before a sidecar of this version has started on it."""
    with OutboxReader(folder / FILE_NAME) as reader:
        assert (reader.leases(), list(check(reader, lambda _: None))) == ([], [])
