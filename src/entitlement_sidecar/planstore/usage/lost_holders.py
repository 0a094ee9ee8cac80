"""Closes the accounts of sidecars that are not heard of any more, and clears away what is settled long ago.

    forfeit   what it had stays spent until it tells what it used, all its events are here and say so
              (`shipped`), or a person takes it back
    reclaim   what it had is there again, once no clock can let it use it

Blocks in Redis are not looked at here: they do not expire, and are lost when their Redis is another one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session, aliased

from entitlement_sidecar.domain.lease import DRIFT, OnHolderLoss
from entitlement_sidecar.planstore.db import Database, QuotaAccountRow
from entitlement_sidecar.planstore.usage.accounts import Accounts, Granted
from entitlement_sidecar.planstore.usage.shipped import shipped_in_full, used_by_events
from entitlement_sidecar.telemetry import metrics

EVERY = 5.0
"""Seconds between looks."""

KEPT = timedelta(days=1)
"""For so long an account in which nothing is left can still be told, so that a late message finds it."""

PROVED_EVERY = 30.0
"""Seconds between two looks for lost holders whose events are all here."""

_AT_ONCE = 200
"""Accounts that are looked up at once, or cleared away in one transaction."""

_log = logging.getLogger(__name__)


class LostHolders:
    """Looks for accounts past their time. Several replicas do no harm: each account is closed once."""

    def __init__(self, database: Database, accounts: Accounts) -> None:
        self._database = database
        self._accounts = accounts
        # Up to which account that round has come, and when (the database's clock) the next one begins.
        self._cursor, self._next_round = "", datetime.min.replace(tzinfo=UTC)

    def step(self) -> float:
        """Closes what is due; seconds until the next look, none where there may be more."""
        with self._database.reading() as session:
            now = self._accounts.now(session)
            due = _due(session, now)
        for account_id in due:
            self._lose(account_id)
        with self._database.writing() as session:
            cleared = _clear(session, now)
        if now >= self._next_round:
            self._account_for_some(now)
        return 0.0 if max(len(due), cleared) >= _AT_ONCE else EVERY

    def _account_for_some(self, now: datetime) -> None:
        """Settles for those of the next accounts whose holders' events are all here."""
        with self._database.reading() as session:
            rows = _forfeited(session, self._cursor)
            proved = shipped_in_full(session, {row.holder for row in rows})
            used = {row.id: used_by_events(session, row) for row in rows if row.holder in proved}
        for account_id, quantity in used.items():
            with self._database.writing() as session:
                known = self._accounts.account_for(session, account_id, quantity)
            _note_accounted(known)
        self._cursor = rows[-1].id if len(rows) == _AT_ONCE else ""
        if not self._cursor:
            self._next_round = now + timedelta(seconds=PROVED_EVERY)

    def _lose(self, account_id: str) -> None:
        with self._database.writing() as session:
            before = self._accounts.read(session, account_id)
            if before is None or before.closed:
                return
            lost = self._accounts.lose(session, account_id)
        if lost.account.closed:
            _note(lost)


def _note(lost: Granted) -> None:
    forfeited = lost.account.outstanding
    metrics.lease_tokens_lost.labels("forfeited").inc(forfeited)
    metrics.lease_tokens_lost.labels("reclaimed").inc(lost.outcome.freed)
    if forfeited:
        _log.warning(
            "lease %s of %s: its holder %s is lost with %d tokens of %r, which stay spent",
            lost.row.id, lost.row.tenant_id, lost.row.holder, forfeited, lost.row.feature,
        )  # fmt: skip


def _note_accounted(known: Granted) -> None:
    metrics.lease_tokens_lost.labels("accounted").inc(known.outcome.freed)
    _log.info(
        "lease %s of %s: all events of its lost holder %s are here: %d tokens of %r were used, %d came back",
        known.row.id, known.row.tenant_id, known.row.holder,
        known.account.used, known.row.feature, known.outcome.freed,
    )  # fmt: skip


def _forfeited(session: Session, after: str) -> Sequence[QuotaAccountRow]:
    """Leases of lost holders that still have something, the next after one."""
    row = QuotaAccountRow
    query = (
        select(row)
        .where(
            row.closed.is_(True),
            row.run_id == "",
            row.parent == "",
            row.granted > row.used + row.returned + row.reclaimed,
            row.id > after,
        )
        .order_by(row.id)
        .limit(_AT_ONCE)
    )
    return session.scalars(query).all()


def _due(session: Session, now: datetime) -> list[str]:
    row = QuotaAccountRow
    query = (
        select(row.id)
        .where(
            row.closed.is_(False),
            row.run_id == "",
            row.expires_at <= now,
            or_(
                row.on_loss == int(OnHolderLoss.FORFEIT),
                row.expires_at <= now - timedelta(seconds=DRIFT),
            ),
        )
        .order_by(row.expires_at)
        .limit(_AT_ONCE)
    )
    return list(session.scalars(query))


def _clear(session: Session, now: datetime) -> int:
    """Removes accounts in which nothing is left, and what holders of a block said once that is gone."""
    row, block = QuotaAccountRow, aliased(QuotaAccountRow)
    settled = (row.used + row.returned + row.reclaimed >= row.granted) & (row.parent == "")
    orphaned = (row.parent != "") & ~select(block.id).where(block.id == row.parent).exists()
    old = select(row.id).where(row.closed.is_(True), row.expires_at < now - KEPT, settled | orphaned)
    found = list(session.scalars(old.limit(_AT_ONCE)))
    if found:
        # Said again: meanwhile nothing can have come back into it, but somebody else may have removed it.
        session.execute(delete(row).where(row.id.in_(found)))
    return len(found)
