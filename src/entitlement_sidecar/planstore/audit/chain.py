"""Appending to the audit log: each entry's hash covers the one before."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.audit.acting import Actor, current_actor
from entitlement_sidecar.planstore.db import AuditHeadRow, AuditRow
from entitlement_sidecar.planstore.db.upsert import insert_for

GENESIS = bytes(32)
"""What the first entry follows."""

_PENDING = "audit"


class Change(msgspec.Struct, frozen=True):
    """One change of state.

    `action` is `noun.verb` in the past (`subscription.suspended`), `resource` is `noun/id`; `tenant_id` is
    empty for what belongs to no tenant. `before` and `after` are what can be written as JSON, None where it
    did not exist.
    """

    action: str
    resource: str
    tenant_id: str = ""
    before: Any = None
    after: Any = None


class _Entry(msgspec.Struct, frozen=True):
    change: Change
    actor: Actor
    at: datetime


def record(session: Session, change: Change, now: datetime) -> None:
    """Has the change in the log when the session's transaction commits, and not otherwise."""
    if _PENDING not in session.info:
        session.info[_PENDING] = []
        event.listen(session, "before_commit", _append)
        event.listen(session, "after_rollback", _forget)
    session.info[_PENDING].append(_Entry(change, current_actor(), now))


def hash_of(row: AuditRow) -> bytes:
    """The SHA-256 of everything that an entry says, the entry before included."""
    said = [
        row.sequence,
        row.at.astimezone(UTC).isoformat(timespec="microseconds"),
        row.actor,
        row.role,
        row.action,
        row.resource,
        row.tenant_id,
        row.reason,
        row.request_id,
        row.before,
        row.after,
        row.previous.hex(),
    ]
    return hashlib.sha256(msgspec.json.encode(said)).digest()


def _append(session: Session) -> None:
    """Last of all: who appends holds the chain's end until the commit, and so holds nobody up for long."""
    if session.in_nested_transaction():
        return
    entries: list[_Entry] = session.info[_PENDING]
    if not entries:
        return
    head = _held_head(session)
    for entry in entries:
        row = _row(entry, head)
        session.add(row)
        head.sequence, head.hash = row.sequence, row.hash
    entries.clear()
    session.flush()


def _forget(session: Session) -> None:
    session.info[_PENDING].clear()


def _held_head(session: Session) -> AuditHeadRow:
    missing = insert_for(session, AuditHeadRow).values(id=1, sequence=0, hash=GENESIS)
    session.execute(missing.on_conflict_do_nothing())
    query = select(AuditHeadRow).where(AuditHeadRow.id == 1).with_for_update()
    return session.scalars(query, execution_options={"populate_existing": True}).one()


def _row(entry: _Entry, head: AuditHeadRow) -> AuditRow:
    row = AuditRow(
        sequence=head.sequence + 1,
        at=entry.at,
        actor=entry.actor.name,
        role=entry.actor.role,
        action=entry.change.action,
        resource=entry.change.resource,
        tenant_id=entry.change.tenant_id,
        reason=entry.actor.reason,
        request_id=entry.actor.request_id,
        before=_json(entry.change.before),
        after=_json(entry.change.after),
        previous=head.hash,
    )
    row.hash = hash_of(row)
    return row


def _json(value: Any) -> str:  # noqa: ANN401 - whatever a resource is
    return msgspec.json.encode(value, order="sorted").decode()
