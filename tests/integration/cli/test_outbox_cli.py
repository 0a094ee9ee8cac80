"""`entitlements outbox` on real files: beside a running sidecar, after it, and where a file is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from entitlement_sidecar.cli.main import run
from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome
from entitlement_sidecar.planstore.api.usage_forms import ImportedEvent
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import FILE_NAME, SqliteOutbox
from entitlement_sidecar.sidecar.usage.outbox import OutboxRecord
from entitlement_sidecar.wire.v1 import usage_pb2
from support.commands import Result, Run
from support.leased_usage import account, use
from support.processes import Sidecar
from support.usage import NOW, event, records, settled

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The state folder, not made yet."""
    return tmp_path / "state"


@pytest.fixture
def outbox(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs `entitlements outbox ARGUMENTS` on the folder."""
    monkeypatch.delenv("ENTITLEMENTS_STATE_DIR", raising=False)

    def command(name: str, *arguments: str) -> Result:
        capsys.readouterr()
        code = run(["outbox", name, "--state-dir", str(folder), *arguments])
        return Result(code, *capsys.readouterr())

    return command


@pytest.fixture
def cut_off(folder: Path, tmp_path: Path, free_port: int) -> Iterator[Sidecar]:
    """A sidecar whose plan store is away, so that it holds what it takes."""
    token = tmp_path / "token"
    token.write_text("nobody-asks-for-it\n")
    sidecar = Sidecar(folder, "--planstore", f"127.0.0.1:{free_port}", "--token-file", str(token))
    yield sidecar.start()
    sidecar.kill()


async def fill(folder: Path, *names: str, dead: int = 0) -> None:
    """Keeps events; the first ones are refused for good."""
    outbox = SqliteOutbox(folder)
    for start in range(0, len(names), 500):
        await outbox.append(records(*names[start : start + 500]), Durability.DURABLE)
    if dead:
        [batch] = await outbox.next_batches(dead, MIB)
        await outbox.settle(batch, settled(batch, UsageOutcome.INVALID))
    await outbox.close()


async def queued(folder: Path) -> list[str]:
    """What waits, in order."""
    outbox = SqliteOutbox(folder)
    names = []
    while batches := await outbox.next_batches(500, MIB):
        for batch in batches:
            names += [one.event.id for one in batch.events]
            await outbox.settle(batch, settled(batch))
    await outbox.close()
    return names


def damage(folder: Path) -> None:
    """Overwrites two pages in the middle and one near the end."""
    path = folder / FILE_NAME
    pages = path.stat().st_size // PAGE
    with path.open("r+b") as file:
        for page in (pages // 2, pages // 2 + 20, pages - 4):
            file.seek(page * PAGE)
            file.write(b"\x99" * PAGE)


def change(folder: Path, statement: str) -> None:
    """Changes the file behind the product's back."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as db:
        db.executescript(statement)


def test_a_running_sidecar_can_be_looked_into(cut_off: Sidecar, outbox: Run) -> None:
    """What it holds is seen, checked and exported beside it; to put something in it has to be stopped."""
    # Given a sidecar that took usage and cannot ship it
    cut_off.report(
        [
            usage_pb2.UsageEvent(id=f"e{n}", tenant_id="acme", metric="calls", value=2, correlation_id="job")
            for n in range(5)
        ]
    )
    # When it is looked into
    seen = outbox("inspect", "--output", "json").json
    # Then everything is there
    assert (seen["accepted"], seen["queued"], seen["dead"], seen["lost"]) == (5, 5, 0, 0)
    [waiting] = seen["waiting"]
    assert (waiting["tenant_id"], waiting["metric"], waiting["value"]) == ("acme", "calls", 10)
    assert outbox("verify").code == 0
    assert len(outbox("export").out.splitlines()) == 5
    refused = outbox("replay")
    assert refused.code == 2
    assert "a sidecar is running on it; stop it, replay, and start it again" in refused.err
    # And it is the same once it has stopped
    cut_off.stop()
    after = outbox("inspect", "--output", "json").json
    assert (after["instance"], after["queued"]) == (seen["instance"], 5)
    assert outbox("verify").code == 0


async def test_dead_letters_go_back(folder: Path, outbox: Run) -> None:
    """Those that fit are queued again, with their identity; the others stay."""
    # Given three dead letters and one event that waits
    await fill(folder, "a", "b", "c", "d", dead=3)
    # When one is asked for
    shown = outbox("replay", "--dry-run", "--reason", "INVALID", "--output", "json")
    assert [one["id"] for one in shown.json] == ["a", "b", "c"]
    assert outbox("replay", "--metric", "other", "--output", "json").json["queued"] == 0
    assert outbox("replay", "--id", "b", "--tenant", "acme", "--output", "json").json["queued"] == 1
    # Then it waits, the others do not, and the totals hold
    seen = outbox("inspect", "--output", "json").json
    assert (seen["queued"], seen["dead"]) == (2, 2)
    assert seen["dead_letters"][0]["reason"] == "because"
    assert outbox("verify").code == 0
    # And what is given up is lost, and said to be
    assert outbox("replay", "--discard", "--id", "a", "--output", "json").json == {"discarded": 1}
    assert outbox("inspect", "--output", "json").json["lost"] == 1
    assert outbox("verify").code == 0
    assert await queued(folder) == ["d", "b"]


async def test_a_dead_letter_whose_id_came_again_stays(folder: Path, outbox: Run) -> None:
    """The caller has reported it again meanwhile: it is queued once."""
    await fill(folder, "a", "b", dead=1)
    await fill(folder, "a")
    assert outbox("replay", "--output", "json").json == {"queued": 0, "already_queued": 1}
    assert sorted(await queued(folder)) == ["a", "b"]


async def test_a_damaged_file_gives_back_what_can_be_read(folder: Path, outbox: Run) -> None:
    """A sidecar sets it aside; all but the damaged pages is put into the new outbox, once."""
    # Given an outbox with pages that nobody can read
    names = [f"e{n}" for n in range(1500)]
    await fill(folder, *names)
    damage(folder)
    assert outbox("verify").code == 1
    assert outbox("inspect").code == 2
    assert "is damaged: a sidecar that starts sets it aside" in outbox("replay").err
    # When a sidecar starts and takes more
    await fill(folder, "new")
    [aside] = outbox("inspect", "--output", "json").json["damaged_files"]
    [finding] = outbox("verify", "--output", "json").json
    assert finding["where"] == aside["file"]
    # Then what can be read is exported, and put back
    exported = outbox("export", "--from", aside["file"]).out.splitlines()
    assert 1200 < len(exported) < 1500
    assert f"{len(exported)} queued events" in finding["problem"]
    put = outbox("replay", "--from", aside["file"], "--output", "json").json
    assert put["queued"] == len(exported)
    again = outbox("replay", "--from", aside["file"], "--output", "json").json
    assert (again["queued"], again["already_queued"]) == (0, len(exported))
    there = await queued(folder)
    assert len(there) == len(set(there)) == len(exported) + 1
    assert set(there) <= {"new", *names}


async def test_what_people_made_of_a_damaged_file_is_not_taken_for_one(folder: Path, outbox: Run) -> None:
    """A compressed copy, say, beside it."""
    await fill(folder, "e1")
    for name in ("corrupt-1", "corrupt-1.gz", "corrupt-1-copy"):
        (folder / f"{FILE_NAME}.{name}").touch()

    [aside] = outbox("inspect", "--output", "json").json["damaged_files"]

    assert aside["file"].endswith(".corrupt-1")


async def test_export_is_what_an_import_reads(folder: Path, outbox: Run) -> None:
    """A line has the whole fact: its identity and its content survive the way through a file."""
    # Given an event with everything that a caller can say, and a rollup
    said: UsageEvent = replace(
        event("x", value=7, actor_id="ann"),
        dimensions={"region": "eu", "näme": '"quoted"'},
        subject="project-1",
        emitter="crm",
        feature="exports",
        lease_id="l-1",
    )
    outbox_ = SqliteOutbox(folder)
    rollup = replace(event("any", value=5), correlation_id="", metric="api-calls")
    await outbox_.append(
        [OutboxRecord(said), OutboxRecord(rollup, rollup=True), OutboxRecord(rollup, rollup=True)],
        Durability.DURABLE,
    )
    await outbox_.close()
    # When it is exported
    lines = outbox("export", "--what", "all").out.splitlines()
    # Then an import reads the same fact
    read, summed = (ImportedEvent.model_validate_json(line).event(NOW) for line in lines)
    assert read == replace(said, classification=None)
    assert read.digest() == said.digest()
    assert (summed.value, summed.count) == (10, 2)
    [_, rolled] = outbox("inspect", "--output", "json").json["waiting"]
    assert (rolled["records"], rolled["events"], rolled["value"]) == (1, 2, 10)


@pytest.mark.parametrize(
    ("statement", "check", "problem"),
    [
        ("UPDATE epochs SET accepted = accepted + 1 WHERE epoch = 1", "conservation", "accepted 5, but"),
        ("UPDATE epochs SET dead = 2, settled = settled - 1", "conservation", "counted 2 dead letters"),
        ("UPDATE records SET digest = x'00' WHERE event_id = 'b'", "records", "digest is that of other"),
        ("UPDATE records SET payload = x'ff' WHERE event_id = 'b'", "records", "its bytes are no event"),
        ("UPDATE records SET event_id = 'z' WHERE event_id = 'b'", "records", "its bytes are event 'b'"),
        ("UPDATE dead_letters SET payload = x'ff'", "dead letters", "its bytes are no event"),
        ("UPDATE records SET place = place + 99 WHERE event_id = 'd'", "places", "has not given this place"),
        (
            (
                "INSERT INTO batches (first_place, last_place) SELECT min(place), p FROM records,"
                " (SELECT max(place) AS p FROM records UNION SELECT min(place) FROM records) GROUP BY p"
            ),
            "batches",
            "has events of batch",
        ),
        ("INSERT INTO batches (first_place, last_place) VALUES (9, 8)", "batches", "its boundaries are not"),
        ("INSERT INTO batches (first_place, last_place) VALUES (8, 9)", "batches", "was not closed"),
    ],
)
async def test_verify_names_what_does_not_hold(
    folder: Path, outbox: Run, statement: str, check: str, problem: str
) -> None:
    """Each thing that has to hold is missed when it does not, with its place."""
    # Given a file that was changed
    await fill(folder, "a", "b", "c", "d", dead=1)
    change(folder, statement)
    # When it is verified
    answer = outbox("verify", "--output", "json")
    # Then it says what is wrong
    assert answer.code == 1
    assert any(one["check"] == check and problem in one["problem"] for one in answer.json), answer.out


def test_a_file_of_version_1_can_be_read(folder: Path, outbox: Run) -> None:
    """Before a sidecar of this version has started on it: with what it had then."""
    folder.mkdir()
    change(
        folder,
        """
        CREATE TABLE instance (id TEXT NOT NULL) STRICT;
        CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, accepted INTEGER NOT NULL DEFAULT 0,
          settled INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0) STRICT;
        CREATE TABLE records (place INTEGER PRIMARY KEY, tenant_id TEXT NOT NULL, event_id TEXT NOT NULL,
          digest BLOB NOT NULL, recorded_at INTEGER NOT NULL, payload BLOB NOT NULL) STRICT;
        CREATE TABLE batches (batch_id INTEGER PRIMARY KEY AUTOINCREMENT, first_place INTEGER NOT NULL,
          last_place INTEGER NOT NULL) STRICT;
        CREATE TABLE consumptions (tenant_id TEXT NOT NULL, event_id TEXT NOT NULL, quantity INTEGER NOT NULL,
          answer BLOB NOT NULL, settlement INTEGER, PRIMARY KEY (tenant_id, event_id)) STRICT, WITHOUT ROWID;
        CREATE TABLE dead_letters (place INTEGER PRIMARY KEY, tenant_id TEXT NOT NULL, event_id TEXT NOT NULL,
          outcome INTEGER NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL) STRICT;
        INSERT INTO instance VALUES ('first');
        INSERT INTO epochs VALUES (1, 3, 3, 0);
        PRAGMA application_id = 0x454E544F; PRAGMA user_version = 1;
        """,
    )
    seen = outbox("inspect", "--output", "json").json
    assert (seen["instance"], seen["accepted"], seen["settled"], seen["lost"]) == ("first", 3, 3, 0)
    assert outbox("verify").code == 0


async def test_leases_that_are_not_settled(folder: Path, outbox: Run) -> None:
    """They are listed with what was used; less than the events that wait have used is a finding."""
    # Given a lease of which three were used and one event has left
    journal = SqliteOutbox(folder)
    await journal.leases.open(account("lease:a", journal.leases.holder, ends_at=NOW))
    await journal.append([use("1", "lease:a"), use("2", "lease:a", 2)], Durability.DURABLE)
    [batch] = await journal.next_batches(1, MIB)
    await journal.settle(batch, settled(batch))
    holder = journal.leases.holder
    await journal.close()
    # When it is looked at
    [seen] = outbox("inspect", "--output", "json").json["leases"]
    # Then it is there, for people too, and nothing is wrong with it
    told = {"lease_id": "lease:a", "tenant_id": "acme", "feature": "exports", "holder": holder, "block": ""}
    assert seen == {**told, "ends_at": NOW.isoformat().replace("+00:00", "Z"), "used": 3, "proved": True}
    assert "leases\n" in outbox("inspect").out
    assert outbox("verify").code == 0
    # When its account is changed
    change(folder, "UPDATE lease_uses SET used = 1")
    # Then the events say otherwise
    [finding] = outbox("verify", "--output", "json").json
    problem = "says that 1 were used, but events that wait used 2"
    assert finding == {"check": "leases", "where": "lease lease:a", "problem": problem}


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ("", "there is no such file; give the --state-dir of a sidecar"),
        ("CREATE TABLE other (x)", "is not an outbox"),
        ("PRAGMA application_id = 0x454E544F; PRAGMA user_version = 99", "written by a newer version"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "verify", "export", "replay"])
def test_what_is_no_outbox(folder: Path, outbox: Run, command: str, prepare: str, message: str) -> None:
    """Says what it is not; makes nothing."""
    folder.mkdir()
    if prepare:
        change(folder, prepare)
    answer = outbox(command)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert not (folder / "lock").exists()


async def test_a_table_for_people(folder: Path, outbox: Run) -> None:
    """Lists have their headings, and a CSV its one row."""
    await fill(folder, "a", "b", dead=1)
    table = outbox("inspect", "--max-outbox-bytes", str(MIB)).out
    assert "dead letters\n" in table
    assert "waiting\n" in table
    assert len(outbox("inspect", "--output", "csv").out.splitlines()) == 2
    assert "everything holds" in outbox("verify").out
    wrong = outbox("replay", "--from", str(folder / FILE_NAME), "--discard")
    assert (wrong.code, "for dead letters" in wrong.err) == (2, True)


def test_a_path_that_the_system_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    """The system's own word, and no defect."""
    code = run(["outbox", "inspect", "--state-dir", "x" * 300])
    assert code == 2
    assert "File name too long" in capsys.readouterr().err
