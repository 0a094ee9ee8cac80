"""What somebody with the whole database does to the audit log is found, and the entry is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert, text, update

from entitlement_sidecar.domain.audit import Finding, FindingKind, digest
from entitlement_sidecar.planstore.audit import anchors
from entitlement_sidecar.planstore.audit.anchors import Anchoring
from entitlement_sidecar.planstore.audit.verify import MAX_FINDINGS, Verification
from entitlement_sidecar.planstore.db import AuditRow, Database
from entitlement_sidecar.wire.signing import KeyRing, SigningKey
from support.auditing import NOW, Log

CONTENT, LINK, MISSING, HEAD = (
    FindingKind.CONTENT,
    FindingKind.LINK,
    FindingKind.MISSING,
    FindingKind.HEAD,
)
ANCHOR, SIGNATURE = FindingKind.ANCHOR, FindingKind.SIGNATURE


@pytest.fixture
def log(database: Database) -> Log:
    """Six entries, the third and the sixth of them anchored."""
    log = Log(database)
    log.write(3)
    log.anchor()
    log.write(3, first=4)
    log.anchor(days=1)
    report = log.verify()
    assert (report.count, report.entries, report.anchors, report.last) == (0, 6, 2, 6)
    return log


def kinds(log: Log) -> list[tuple[FindingKind, int]]:
    """What a verification finds: kind and entry."""
    report = log.verify()
    assert report.count == len(report.findings)
    return [(finding.kind, finding.sequence) for finding in report.findings]


EDITS: dict[str, Any] = {
    "at": NOW - timedelta(days=1),
    "actor": "mallory",
    "role": "viewer",
    "action": "plan.read",
    "resource": "plan/p9",
    "tenant_id": "other",
    "reason": "",
    "request_id": "request-2",
    "before": "null",
    "after": '{"title":"b"}',
}


@pytest.mark.parametrize("column", [*EDITS])
def test_an_edited_entry_is_named(log: Log, column: str) -> None:
    """Whichever column was edited: who wrote which entry, of what, and what is wrong with it."""
    with log.unguarded() as connection:
        connection.execute(update(AuditRow).where(AuditRow.sequence == 4).values({column: EDITS[column]}))

    (finding,) = log.verify().findings
    stored = {entry.sequence: entry for entry in log.entries()}[4]
    assert (finding.kind, finding.sequence) == (CONTENT, 4)
    assert finding == Finding(
        kind=CONTENT,
        sequence=4,
        problem="what it says does not fit its hash: it was changed",
        at=stored.at,
        actor=stored.actor,
        action=stored.action,
        resource=stored.resource,
    )


def test_an_edited_hash_is_named(log: Log) -> None:
    """The entry itself, and not the one after it, which still follows what was written."""
    log.tamper("UPDATE audit_log SET hash = :other WHERE sequence = 4", other=bytes(32))

    assert kinds(log) == [(CONTENT, 4)]


def test_an_edited_link_is_named(log: Log) -> None:
    """What the entry follows is part of what it says."""
    log.tamper("UPDATE audit_log SET previous = :other WHERE sequence = 4", other=bytes(32))

    assert kinds(log) == [(CONTENT, 4), (LINK, 4)]


def test_an_edit_with_a_hash_that_fits_breaks_the_link_after_it(log: Log) -> None:
    """The next entry names the one that it does not follow any more."""
    entry = log.entries()[3]
    edited = msgspec.structs.replace(entry, actor="mallory")
    with log.unguarded() as connection:
        values = {"actor": "mallory", "hash": digest(edited)}
        connection.execute(update(AuditRow).where(AuditRow.sequence == 4).values(values))

    (finding,) = log.verify().findings
    assert (finding.kind, finding.sequence) == (LINK, 5)
    assert "another entry 4 than is there" in finding.problem


def test_a_missing_entry_is_named(log: Log) -> None:
    """In the middle: which numbers are not there."""
    log.tamper("DELETE FROM audit_log WHERE sequence IN (4, 5)")

    (finding,) = log.verify().findings
    assert (finding.kind, finding.sequence, finding.problem) == (MISSING, 4, "entries 4 to 5 are missing")


def test_a_missing_beginning_is_named(log: Log) -> None:
    """The first number is 1."""
    log.tamper("DELETE FROM audit_log WHERE sequence < 3")

    assert kinds(log) == [(MISSING, 1)]


def test_a_cut_end_is_named(log: Log) -> None:
    """The chain's end and the anchor both say that there was more."""
    log.tamper("DELETE FROM audit_log WHERE sequence >= 5")

    assert kinds(log) == [(MISSING, 5), (ANCHOR, 6)]


def test_a_cut_end_is_named_by_the_anchor_alone(log: Log) -> None:
    """Also where the chain's end was set back."""
    end = log.entries()[3].hash
    log.tamper("DELETE FROM audit_log WHERE sequence >= 5")
    log.tamper("UPDATE audit_head SET sequence = 4, hash = :end", end=end)

    assert kinds(log) == [(ANCHOR, 6)]


def test_everything_removed_is_found(log: Log) -> None:
    """Entries and end: the anchors are left."""
    log.tamper("DELETE FROM audit_log")
    log.tamper("DELETE FROM audit_head")

    assert kinds(log) == [(ANCHOR, 3), (ANCHOR, 6)]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DELETE FROM audit_head", (HEAD, 6)),
        ("UPDATE audit_head SET sequence = 5", (HEAD, 6)),
        ("UPDATE audit_head SET sequence = 8", (MISSING, 7)),
        ("UPDATE audit_head SET hash = (SELECT hash FROM audit_log WHERE sequence = 5)", (HEAD, 6)),
    ],
)
def test_an_end_that_does_not_fit_is_found(log: Log, statement: str, found: object) -> None:
    """Its number and its hash are those of the last entry."""
    log.tamper(statement)

    assert kinds(log) == [found]


def test_swapped_entries_are_named(log: Log) -> None:
    """Each says its own number."""
    log.tamper("UPDATE audit_log SET sequence = 100 WHERE sequence = 4")
    log.tamper("UPDATE audit_log SET sequence = 4 WHERE sequence = 5")
    log.tamper("UPDATE audit_log SET sequence = 5 WHERE sequence = 100")

    found = kinds(log)
    assert {(CONTENT, 4), (CONTENT, 5)} <= set(found)
    assert {sequence for _, sequence in found} <= {4, 5, 6}


def test_an_inserted_entry_is_named(log: Log) -> None:
    """Nothing stands before the first."""
    row = msgspec.structs.asdict(log.entries()[0]) | {"sequence": 0}
    with log.unguarded() as connection:
        connection.execute(insert(AuditRow).values(row))

    assert (LINK, 0) in kinds(log)


@pytest.mark.parametrize(("edited", "found"), [(2, [(ANCHOR, 3), (ANCHOR, 6)]), (5, [(ANCHOR, 6)])])
def test_a_chain_made_anew_is_found_by_its_anchors(log: Log, edited: int, found: object) -> None:
    """Every hash fits, and the end: only what was signed before says otherwise."""
    log.forge(edited, actor="mallory")

    assert kinds(log) == found
    (first, *_) = log.verify().findings
    assert "was written anew" in first.problem
    assert first.day


def test_an_edited_anchor_is_named(log: Log) -> None:
    """A signature covers the day, the number, the hash and the anchor before."""
    log.tamper("UPDATE audit_anchors SET sequence = 2 WHERE day = '2026-03-01'")

    found = log.verify().findings
    assert [(finding.kind, finding.day) for finding in found] == [
        (SIGNATURE, "2026-03-01"),
        (ANCHOR, "2026-03-01"),
    ]
    assert "signature of the anchor of 2026-03-01 does not fit" in found[0].problem


def test_a_removed_anchor_is_found_by_the_next(log: Log) -> None:
    """Each signature covers the one before."""
    log.tamper("DELETE FROM audit_anchors WHERE day = '2026-03-01'")

    (finding,) = log.verify().findings
    assert (finding.kind, finding.day) == (SIGNATURE, "2026-03-02")
    assert "the anchor before it was changed or removed" in finding.problem


def test_an_anchor_of_another_key_is_found(log: Log) -> None:
    """A chain and anchors made anew need the plan store's key; one that is not trusted is named."""
    other = SigningKey.generate()

    report = Verification(log.database, KeyRing({other.key_id: other.public_bytes})).verify()

    assert [finding.kind for finding in report.findings] == [SIGNATURE, SIGNATURE]
    assert f"key {log.key.key_id}, which is not known" in report.findings[0].problem


def test_keys_of_before_stay_trusted(log: Log) -> None:
    """After a rotation both keys' anchors verify, the new one after the old."""
    old, log.key = log.key, SigningKey.generate()
    log.anchor(days=2)

    ring = {key.key_id: key.public_bytes for key in (old, log.key)}
    report = Verification(log.database, KeyRing(ring)).verify()
    assert (report.count, report.anchors) == (0, 3)


def test_one_anchor_a_day(log: Log) -> None:
    """The second of a day is none, nor is one of a day before: clocks differ."""
    assert log.anchor(days=1) is None
    assert log.anchor() is None
    third = log.anchor(days=2)

    assert third is not None
    assert (third.day, third.sequence) == ("2026-03-03", 6)


def test_nothing_is_anchored_before_the_first_entry(database: Database) -> None:
    """There is no end yet."""
    assert Log(database).anchor() is None


def test_the_worker_anchors_and_logs(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """One line with day, number and hash, so that a copy leaves the database; once a day."""
    log = Log(database)
    anchoring = Anchoring(database, log.key)
    with caplog.at_level("INFO", anchors.__name__):
        anchoring.step()
        assert caplog.messages == []
        log.write(2)
        anchoring.step()
        anchoring.step()

    today, end = datetime.now(UTC).date(), log.entries()[-1].hash.hex()
    yesterday = today - timedelta(days=1)
    assert caplog.messages in (
        [f"audit anchor of {day}: entry 2 has hash {end}, signed with key {log.key.key_id}"]
        for day in (today, yesterday)
    )
    assert log.verify().count == 0


def test_findings_are_bounded_and_counted(database: Database) -> None:
    """However many entries were changed, the answer stays small."""
    log = Log(database)
    log.write(MAX_FINDINGS + 20)
    log.tamper("UPDATE audit_log SET actor = 'mallory'")

    report = log.verify()
    assert (report.count, len(report.findings)) == (MAX_FINDINGS + 20, MAX_FINDINGS)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_nonsense_is_a_finding(log: Log) -> None:
    """A database without types may hold anything; PostgreSQL refuses it."""
    log.tamper("UPDATE audit_log SET at = 'yesterday' WHERE sequence = 2")
    log.tamper("UPDATE audit_log SET actor = x'00' WHERE sequence = 4")
    log.tamper("UPDATE audit_head SET hash = 'text'")
    log.tamper("UPDATE audit_anchors SET anchored_at = 'then', hash = 'text' WHERE day = '2026-03-01'")

    assert kinds(log) == [
        (SIGNATURE, 3),
        (FindingKind.UNREADABLE, 2),
        (FindingKind.UNREADABLE, 4),
        (ANCHOR, 3),
        (HEAD, 6),
    ]


def test_triggers_are_back_after_tampering(log: Log) -> None:
    """The tests above leave the guards as they were."""
    log.tamper("DELETE FROM audit_head")

    with pytest.raises(Exception, match="append-only"), log.database.writing() as session:
        session.execute(text("DELETE FROM audit_log"))
