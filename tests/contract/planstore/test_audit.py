"""The audit log: written with the change or not at all, contiguous, append-only, and verified."""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from sqlalchemy.exc import DBAPIError

from entitlement_sidecar.domain.audit import GENESIS, digest
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.audit import Actor, Change, acting, current_actor, record
from entitlement_sidecar.planstore.audit.verify import Verification
from entitlement_sidecar.planstore.db import AuditRow, Base, Database
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.snapshots.resealing import put_into_force
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.wire.signing import SigningKey
from support.auditing import ADA, NOW, TABLES, Log, change
from support.shop import CATALOGUE, Shop


@pytest.fixture
def log(database: Database) -> Log:
    """A log with nothing in it."""
    return Log(database)


def test_an_entry_says_who_what_when_why(log: Log) -> None:
    """Actor, role, reason, request, resource, before and after are what was given."""
    log.write(1)

    (entry,) = log.entries()
    assert (entry.sequence, entry.previous, entry.tenant_id) == (1, GENESIS, "acme")
    assert (entry.actor, entry.role, entry.reason, entry.request_id) == msgspec.structs.astuple(ADA)
    assert (entry.action, entry.resource) == ("plan.renamed", "plan/p1")
    assert (entry.before, entry.after) == ('{"title":"a"}', '{"title":"é1"}')
    assert entry.at.isoformat() == "2026-03-01T12:00:01+00:00"
    assert entry.hash == digest(entry)


def test_a_hash_covers_everything_that_an_entry_says(log: Log) -> None:
    """It is the SHA-256 of compact JSON, which any language can write."""
    log.write(1)

    (entry,) = log.entries()
    said = [1, "2026-03-01T12:00:01.000000+00:00", "ada", "operator", "plan.renamed", "plan/p1", "acme"]
    said += ["asked for in a ticket", "request-1", '{"title":"a"}', '{"title":"é1"}', "00" * 32]
    compact = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    assert entry.hash == hashlib.sha256(compact.encode()).digest()


def test_a_change_that_is_rolled_back_leaves_no_entry(log: Log) -> None:
    """No entry without its change; the next one takes the number."""
    with suppress(RuntimeError), log.database.writing() as session:
        record(session, change(1), NOW)
        raise RuntimeError
    log.write(1)

    assert [entry.sequence for entry in log.entries()] == [1]
    assert log.verify().count == 0


def test_a_savepoint_takes_back_its_own_entries_only(log: Log) -> None:
    """What was recorded before it stays, what was recorded in one that was kept too."""
    with log.database.writing() as session:
        record(session, change(1), NOW)
        with suppress(RuntimeError), session.begin_nested():
            record(session, change(2), NOW)
            with session.begin_nested():
                record(session, change(3), NOW)
            raise RuntimeError
        with session.begin_nested():
            record(session, change(4), NOW)
        record(session, change(5), NOW)

    assert [entry.resource for entry in log.entries()] == ["plan/p1", "plan/p4", "plan/p5"]


def test_the_actor_is_who_acts_now(log: Log) -> None:
    """Without a name it is the plan store itself; after the block it is again."""
    with acting(Actor("bob", "billing-admin")), log.database.writing() as session:
        record(session, change(1), NOW)
    with log.database.writing() as session:
        record(session, change(2), NOW)

    assert [(e.actor, e.role) for e in log.entries()] == [("bob", "billing-admin"), ("planstore", "system")]
    assert current_actor().name == "planstore"


def test_appenders_at_once_make_one_chain(log: Log) -> None:
    """Sixteen threads write two hundred entries, some of several in a transaction, some rolled back."""
    written = threading.local()

    def append(number: int) -> int:
        written.count = 1 + number % 2
        with acting(Actor(f"thread-{number}", "operator")), log.database.writing() as session:
            for part in range(written.count):
                record(session, change(number * 10 + part), datetime.now(UTC))
            if number % 7 == 0:
                session.rollback()
                return 0
        return int(written.count)

    with ThreadPoolExecutor(16) as pool:
        total = sum(pool.map(append, range(200)))

    report = log.verify()
    assert (report.count, report.entries, report.newest) == (0, total, total)
    assert [entry.sequence for entry in log.entries()] == list(range(1, total + 1))


def test_a_long_log_is_verified_in_parts(log: Log) -> None:
    """Each call says where the next goes on, and the parts find what all of it finds."""
    log.write(7)
    log.anchor()
    log.write(3, first=8)
    log.tamper("UPDATE audit_log SET reason = 'another' WHERE sequence = 5")
    verification = Verification(log.database, log.ring)

    found, after, entries = [], None, 0
    while True:
        report = verification.verify(after, limit=2)
        found += report.findings
        entries += report.entries
        after = report.next_after
        if after is None:
            break

    assert entries == 10
    assert found == list(log.verify().findings)
    assert [finding.sequence for finding in found] == [5]


def test_an_empty_log_is_whole(log: Log) -> None:
    """Nothing written, nothing wrong."""
    report = log.verify()

    assert (report.entries, report.count, report.next_after) == (0, 0, None)


@pytest.mark.parametrize("verb", ["UPDATE", "DELETE"])
@pytest.mark.parametrize("table", TABLES)
def test_the_database_refuses_to_change_what_is_append_only(shop: Shop, table: str, verb: str) -> None:
    """Even its owner has to take the triggers away first."""
    fill(shop)
    rows = Base.metadata.tables[table]
    statement = rows.delete() if verb == "DELETE" else rows.update().values(CHANGED[table])
    with shop.database.reading() as session:
        assert session.execute(rows.select()).all()

    with pytest.raises(DBAPIError, match=f"{table} is append-only"), shop.database.writing() as session:
        session.execute(statement)


CHANGED: dict[str, dict[str, Any]] = {
    "usage_events": {"value": 2},
    "subscription_history": {"actor": "x"},
    "audit_log": {"actor": "x"},
    "audit_anchors": {"day": "x"},
}


def fill(shop: Shop) -> None:
    """A row in each table that is append-only."""
    shop.subscribe()
    Log(shop.database).anchor()
    now = shop.clock.now()
    used = UsageEvent(
        id="one",
        tenant_id="acme",
        metric="calls",
        value=1,
        unit="",
        occurred_at=now,
        recorded_at=now,
        correlation_id="work",
    )
    with shop.database.writing() as session:
        Ledger(limits_of).append(session, [Arrival(used)], now)


def test_a_catalogue_that_is_applied_is_recorded(shop: Shop) -> None:
    """Who did it, from which version to which, and what is new, other or gone."""
    log = Log(shop.database)
    text_after = CATALOGUE.replace('amount: "29.90"', 'amount: "39.90"').replace('"99.00"', '"98.00"')

    with acting(ADA):
        shop.apply(CATALOGUE)
        shop.apply(text_after)

    first, second = [entry for entry in log.entries() if entry.action == "catalogue.applied"]
    assert (first.resource, first.before, second.resource) == ("catalogue/1", "null", "catalogue/2")
    assert (second.actor, second.reason) == (ADA.name, ADA.reason)
    assert msgspec.json.decode(second.before) == {"version": 1, "name": "shop"}
    after = msgspec.json.decode(second.after)
    assert (after["version"], after["plans"]) == (2, {"changed": ["basic", "trial"]})
    assert log.verify().count == 0


def test_entries_are_named_as_their_table(log: Log) -> None:
    """An entry and its row have the same fields, in the same order."""
    names = [column.name for column in AuditRow.__table__.columns]

    log.write(1)
    (entry,) = log.entries()
    assert list(entry.__struct_fields__) == names
    assert Change("a.b", "c/d").before is None


def test_another_key_and_other_shards_are_recorded(shop: Shop) -> None:
    """From which key to which, and from how many shards to how many; by the plan store itself."""
    new = SigningKey.generate()

    put_into_force(shop.database, new, 3, shop.clock)
    put_into_force(shop.database, new, 3, shop.clock)

    changes = [(e.actor, e.action, e.resource, e.before, e.after) for e in Log(shop.database).entries()][-2:]
    assert changes == [
        ("planstore", "feed.resharded", "feed", "1", "3"),
        (
            "planstore",
            "signing_key.changed",
            f"signing_key/{new.key_id}",
            f'"{shop.key.key_id}"',
            f'"{new.key_id}"',
        ),
    ]
