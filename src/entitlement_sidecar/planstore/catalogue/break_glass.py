"""Break-glass: an operator opens a feature or freezes snapshots, for a while (DESIGN 6).

Each change is a new version of the catalogue document, which carries what is in force to every sidecar.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
from sqlalchemy.orm import Session
from uuid6 import uuid7

from entitlement_sidecar.domain.break_glass import DEFAULT_LIFE, MAX_ACTIVE, MAX_LIFE, BreakGlassAction
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import ConflictError, InvalidInputError, TenantUnknownError, Violation
from entitlement_sidecar.planstore.audit import Change, because, current_actor, record
from entitlement_sidecar.planstore.catalogue.apply import publish_break_glass, take_turn
from entitlement_sidecar.planstore.catalogue.measures import entries_in_force, find_measure
from entitlement_sidecar.planstore.catalogue.plans import current_document, current_row, entries_of
from entitlement_sidecar.planstore.db import BreakGlassRow, Database, OrganizationRow
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.signing import SigningKey, signer_of

LOOK_EVERY = 5.0
"""Seconds between two looks for what has ended by time. Decisions do not wait for it."""

_DONE = {BreakGlassAction.OPEN: "break_glass.opened", BreakGlassAction.FREEZE: "break_glass.frozen"}


class Wanted(msgspec.Struct, frozen=True):
    """A measure that is wanted. `tenant_id` empty is for all; a freeze has no `feature`."""

    action: BreakGlassAction
    reason: str
    feature: str = ""
    tenant_id: str = ""
    life: timedelta = DEFAULT_LIFE


def begin(session: Session, wanted: Wanted, key: SigningKey, now: datetime) -> BreakGlassRow:
    """Puts a measure into force, from now on.

    Raises:
        InvalidInputError: Names each member that is wrong.
        TenantUnknownError: There is no such tenant.
        ConflictError: As many as may be are in force, or there is no catalogue that could carry it.
    """
    take_turn(session)
    _validate(session, wanted)
    _require_room(session, now)
    row = BreakGlassRow(
        id=f"bg_{uuid7().hex}",
        action=wanted.action.name.lower(),
        feature=wanted.feature,
        tenant_id=wanted.tenant_id,
        reason=wanted.reason,
        since=now,
        until=now + wanted.life,
        created_by=current_actor().name,
        ended_by="",
    )
    session.add(row)
    session.flush()
    with because(row.reason):
        record(session, _change(row, _DONE[wanted.action], None), now)
    publish_break_glass(session, key, now)
    return row


def end(session: Session, id_: str, key: SigningKey, now: datetime) -> BreakGlassRow:
    """Ends a measure at once. One that is over stays as it is.

    Raises:
        NotFoundError: There is none of this id.
    """
    take_turn(session)
    row = find_measure(session, id_)
    if row.ended_at is None and now < row.until:
        before = content_of(row)
        row.ended_at, row.ended_by = now, current_actor().name
        session.flush()
        record(session, _change(row, "break_glass.ended", before), now)
        publish_break_glass(session, key, now)
    return row


def content_of(row: BreakGlassRow) -> dict[str, Any]:
    """A measure as the audit log and REST show it."""
    return {
        "action": row.action,
        "feature": row.feature,
        "tenant_id": row.tenant_id,
        "reason": row.reason,
        "since": row.since,
        "until": row.until,
        "ended_at": row.ended_at,
    }


class Expiring:
    """Keeps the catalogue document to what is in force, and counts that. `step` is called again and again.

    Sidecars look at the instants themselves: what is over does nothing, also while it is still named.
    """

    def __init__(self, database: Database, key: SigningKey, clock: Clock) -> None:
        self._database = database
        self._key = key
        self._clock = clock
        self._in_force: Counter[BreakGlassAction] = Counter()
        for action in _DONE:
            gauge = metrics.break_glass_active.labels(action.name.lower())
            gauge.set_function(partial(self._count, action))

    def _count(self, action: BreakGlassAction) -> int:
        return self._in_force[action]

    def step(self) -> bool:
        """Publishes the document without what has ended, where it names such; whether it did."""
        now = self._clock.now()
        with self._database.reading() as session:
            entries, row = entries_in_force(session, now), current_row(session)
        self._in_force = Counter(one.action for one in entries)
        # Where another key is in force, the plan store that has it does this.
        if row is None or entries_of(row) == entries or signer_of(row.envelope) != self._key.key_id:
            return False
        with self._database.writing() as session:
            return publish_break_glass(session, self._key, now)


def _validate(session: Session, wanted: Wanted) -> None:
    document = current_document(session)
    if not document.version:
        raise ConflictError("no catalogue has been applied yet, and break-glass travels in one: apply one")
    wrong = []
    if not timedelta(seconds=1) <= wanted.life <= MAX_LIFE:
        wrong.append(Violation("expires_in", f"expected 1 second to {MAX_LIFE.days} days"))
    if wanted.action is BreakGlassAction.FREEZE and wanted.feature:
        wrong.append(Violation("feature", "a freeze is of all that a tenant has: leave it out"))
    if wanted.action is BreakGlassAction.OPEN and wanted.feature not in document.features:
        what = repr(wanted.feature) if wanted.feature else "nothing"
        wrong.append(Violation("feature", f"expected a feature of the catalogue in force, got {what}"))
    if wrong:
        raise InvalidInputError(wrong)
    if wanted.tenant_id and session.get(OrganizationRow, wanted.tenant_id) is None:
        raise TenantUnknownError(wanted.tenant_id)


def _require_room(session: Session, now: datetime) -> None:
    if len(entries_in_force(session, now)) >= MAX_ACTIVE:
        raise ConflictError(
            f"{MAX_ACTIVE} break-glass entries are in force, the most there may be: end some, or have one "
            "for all tenants"
        )


def _change(row: BreakGlassRow, action: str, before: dict[str, Any] | None) -> Change:
    return Change(action, f"break_glass/{row.id}", row.tenant_id, before, content_of(row))
