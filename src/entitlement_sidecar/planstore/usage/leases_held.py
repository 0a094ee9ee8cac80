"""What an operator sees of leases and blocks, and what one may take back by hand (DESIGN 7)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.audit import Change, record
from entitlement_sidecar.planstore.db import QuotaAccountRow
from entitlement_sidecar.planstore.db.unit_of_work import after_commit
from entitlement_sidecar.planstore.usage.accounts import Accounts
from entitlement_sidecar.planstore.usage.shipped import used_by_events
from entitlement_sidecar.telemetry import metrics


class LeaseQuery(msgspec.Struct, frozen=True):
    """Leases and blocks of a tenant that still have tokens, or of one feature of it."""

    tenant_id: str
    feature: str = ""
    forfeited: bool = False

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """What a row has to be."""
        row = QuotaAccountRow
        found = [
            row.tenant_id == self.tenant_id,
            row.parent == "",
            row.granted > row.used + row.returned + row.reclaimed,
        ]
        if self.feature:
            found.append(row.feature == self.feature)
        if self.forfeited:
            found.append(row.closed.is_(True))
        return found


def leases_held(session: Session, wanted: LeaseQuery, after: str, limit: int) -> Sequence[QuotaAccountRow]:
    """By id, beginning after one."""
    row = QuotaAccountRow
    query = select(row).where(*wanted.conditions, row.id > after).order_by(row.id).limit(limit)
    return session.scalars(query).all()


class Released(msgspec.Struct, frozen=True):
    """What was taken back by hand."""

    leases: int
    tokens: int


def release_forfeited(session: Session, accounts: Accounts, wanted: LeaseQuery, now: datetime) -> Released:
    """Takes back all that lost holders had, audited: only a person can know that none of them still uses it.

    Used is what they have told, or what events say that have come. What a holder tells of it later is counted
    again, as usage that nobody admitted.
    """
    forfeited = msgspec.structs.replace(wanted, forfeited=True)
    row = QuotaAccountRow
    # All accounts before any counter, as everyone does: two that wait for each other would never end.
    held = session.scalars(select(row).where(*forfeited.conditions).order_by(row.id).with_for_update())
    tokens = [_release(session, accounts, row, now) for row in held.all()]
    after_commit(session, lambda: metrics.lease_tokens_lost.labels("released").inc(sum(tokens)))
    return Released(len(tokens), sum(tokens))


def _release(session: Session, accounts: Accounts, held: QuotaAccountRow, now: datetime) -> int:
    released = accounts.account_for(session, held.id, used_by_events(session, held))
    row, freed = released.row, released.outcome.freed
    known = {"feature": row.feature, "holder": row.holder}
    before, after = known | {"forfeited": freed}, known | {"forfeited": 0}
    record(session, Change("lease.released", f"lease/{row.id}", row.tenant_id, before, after), now)
    return freed
