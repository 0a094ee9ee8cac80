"""What an operator sees of leases and blocks, and what one may take back by hand (DESIGN 7)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.audit import Change, record
from entitlement_sidecar.planstore.db import QuotaAccountRow
from entitlement_sidecar.planstore.usage.account_rows import account_of
from entitlement_sidecar.planstore.usage.accounts import Accounts
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

    What a holder tells of it later is counted again, as usage that nobody admitted.
    """
    forfeited = msgspec.structs.replace(wanted, forfeited=True)
    row = QuotaAccountRow
    ids = list(session.scalars(select(row.id).where(*forfeited.conditions).order_by(row.id)))
    leases = tokens = 0
    for account_id in ids:
        before = accounts.read(session, account_id)
        if before is None:
            continue
        held = account_of(before).outstanding
        freed = accounts.release(session, account_id).outcome.freed
        if freed:
            leases, tokens = leases + 1, tokens + freed
            _note(session, before, (held, freed), now)
    metrics.lease_tokens_lost.labels("released").inc(tokens)
    return Released(leases, tokens)


def _note(session: Session, row: QuotaAccountRow, moved: tuple[int, int], now: datetime) -> None:
    held, freed = moved
    known = {"feature": row.feature, "holder": row.holder}
    before, after = known | {"forfeited": held}, known | {"forfeited": held - freed}
    record(session, Change("lease.released", f"lease/{row.id}", row.tenant_id, before, after), now)
