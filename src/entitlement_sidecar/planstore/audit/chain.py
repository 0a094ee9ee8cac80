"""Appending to the audit log: each entry's hash covers the one before."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import event, select
from sqlalchemy.orm import Session, SessionTransaction

from entitlement_sidecar.domain.audit import GENESIS, Entry, digest
from entitlement_sidecar.planstore.audit.acting import Actor, current_actor
from entitlement_sidecar.planstore.db import AuditHeadRow, AuditRow
from entitlement_sidecar.planstore.db.upsert import insert_for

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


class _Noted(msgspec.Struct, frozen=True):
    """A change that waits for the commit, as it was when it was recorded."""

    change: Change
    actor: Actor
    at: datetime
    before: str
    after: str
    inside: SessionTransaction | None


def record(session: Session, change: Change, now: datetime) -> None:
    """Has the change in the log when the session's transaction commits, and not otherwise.

    What a savepoint takes back takes its entries along, and only those.
    """
    if _PENDING not in session.info:
        session.info[_PENDING] = []
        event.listen(session, "before_commit", _append)
        event.listen(session, "after_soft_rollback", _forget)
    noted = _Noted(
        change=change,
        actor=current_actor(),
        at=now,
        before=_json(change.before),
        after=_json(change.after),
        inside=session.get_nested_transaction() or session.get_transaction(),
    )
    session.info[_PENDING].append(noted)


def _append(session: Session) -> None:
    """Last of all: who appends holds the chain's end until the commit, and so holds nobody up for long."""
    if session.in_nested_transaction():
        return
    noted: list[_Noted] = session.info[_PENDING]
    if not noted:
        return
    # Whatever else fails shall do so before the chain's end is held.
    session.flush()
    head = _held_head(session)
    for one in noted:
        entry = _entry(one, head)
        session.add(AuditRow(**msgspec.structs.asdict(entry)))
        head.sequence, head.hash = entry.sequence, entry.hash
    noted.clear()
    session.flush()


def _forget(session: Session, rolled_back: SessionTransaction) -> None:
    noted: list[_Noted] = session.info[_PENDING]
    noted[:] = [one for one in noted if not _was_inside(one.inside, rolled_back)]


def _was_inside(inner: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while inner is not None and inner is not outer:
        inner = inner.parent
    return inner is outer


def _held_head(session: Session) -> AuditHeadRow:
    missing = insert_for(session, AuditHeadRow).values(id=1, sequence=0, hash=GENESIS)
    session.execute(missing.on_conflict_do_nothing())
    query = select(AuditHeadRow).where(AuditHeadRow.id == 1).with_for_update()
    return session.scalars(query, execution_options={"populate_existing": True}).one()


def _entry(noted: _Noted, head: AuditHeadRow) -> Entry:
    entry = Entry(
        sequence=head.sequence + 1,
        at=noted.at,
        actor=noted.actor.name,
        role=noted.actor.role,
        action=noted.change.action,
        resource=noted.change.resource,
        tenant_id=noted.change.tenant_id,
        reason=noted.actor.reason,
        request_id=noted.actor.request_id,
        before=noted.before,
        after=noted.after,
        previous=head.hash,
    )
    return msgspec.structs.replace(entry, hash=digest(entry))


def _json(value: Any) -> str:  # noqa: ANN401 - whatever a resource is
    return msgspec.json.encode(value, order="sorted").decode()
