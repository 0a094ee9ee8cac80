"""An audit log to tamper with, as somebody with the whole database could."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select, text
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.audit import Entry, digest
from entitlement_sidecar.planstore.audit import Actor, Change, acting, record
from entitlement_sidecar.planstore.audit.anchors import Anchor, make_anchor
from entitlement_sidecar.planstore.audit.verify import Report, Verification
from entitlement_sidecar.planstore.db import AuditHeadRow, AuditRow, Database
from entitlement_sidecar.wire.signing import KeyRing, SigningKey

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ADA = Actor("ada", "operator", "asked for in a ticket", "request-1")
TABLES = ("usage_events", "subscription_history", "audit_log", "audit_anchors")


class Log:
    """An audit log, and the key that signs its anchors."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.key = SigningKey.generate()
        self.ring = KeyRing({self.key.key_id: self.key.public_bytes})

    def write(self, count: int, first: int = 1) -> None:
        """Entries, each of a transaction of its own."""
        for number in range(first, first + count):
            with acting(ADA), self.database.writing() as session:
                record(session, change(number), NOW + timedelta(seconds=number))

    def anchor(self, days: int = 0) -> Anchor | None:
        """An anchor, made so many days later."""
        with self.database.writing() as session:
            return make_anchor(session, self.key, NOW + timedelta(days=days))

    def verify(self) -> Report:
        """All of it."""
        return Verification(self.database, self.ring).verify()

    def entries(self) -> list[Entry]:
        """As they are stored."""
        names = Entry.__struct_fields__
        with self.database.reading() as session:
            rows = session.scalars(select(AuditRow).order_by(AuditRow.sequence)).all()
        return [Entry(**{name: getattr(row, name) for name in names}) for row in rows]

    def tamper(self, statement: str, **values: object) -> None:
        """One statement as the owner of the tables, with the triggers off."""
        with self.unguarded() as connection:
            connection.execute(text(statement), values)

    @contextmanager
    def unguarded(self) -> Iterator[Connection]:
        """A transaction in which nothing is append-only."""
        with self.database.writing() as session:
            kept = _disarm(session)
            yield session.connection()
            for statement in kept:
                session.execute(text(statement))

    def forge(self, sequence: int, **changed: object) -> None:
        """Edits an entry and makes the whole chain anew from there, its end included."""
        with self.unguarded() as connection:
            before: bytes | None = None
            for entry in self.entries_of(connection):
                if entry.sequence < sequence:
                    continue
                values = {**(changed if entry.sequence == sequence else {})}
                row = {name: getattr(entry, name) for name in Entry.__struct_fields__} | values
                row["previous"] = entry.previous if before is None else before
                row["hash"] = before = digest(Entry(**row))
                connection.execute(AuditRow.__table__.delete().where(AuditRow.sequence == entry.sequence))
                connection.execute(AuditRow.__table__.insert().values(**row))
            connection.execute(AuditHeadRow.__table__.update().values(hash=before))

    def entries_of(self, connection: Connection) -> list[Entry]:
        """As they are stored, seen by a transaction."""
        with Session(connection, join_transaction_mode="rollback_only") as session:
            rows = session.scalars(select(AuditRow).order_by(AuditRow.sequence)).all()
            return [Entry(**{name: getattr(row, name) for name in Entry.__struct_fields__}) for row in rows]


def change(number: int) -> Change:
    """One of many."""
    return Change("plan.renamed", f"plan/p{number}", "acme", {"title": "a"}, {"title": f"é{number}"})


def _disarm(session: Session) -> list[str]:
    """Takes the triggers away; the statements that bring them back."""
    if session.get_bind().dialect.name == "postgresql":
        for table in TABLES:
            session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        return [f"ALTER TABLE {table} ENABLE TRIGGER USER" for table in TABLES]
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    triggers = session.execute(text(query)).all()
    for name, _ in triggers:
        session.execute(text(f"DROP TRIGGER {name}"))
    return [str(sql) for _, sql in triggers]
