"""Rows of the root's accounts: made, read and written as the domain's values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from entitlement_sidecar.domain.lease import Account, Outcome
from entitlement_sidecar.planstore.db import QuotaAccountRow
from entitlement_sidecar.planstore.usage.allowances import Allowance, Part
from entitlement_sidecar.planstore.usage.counters import Moved, Place


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """Whose account, and where.

    `id` is the same when the same request comes again. `at` names the windows; None: now. `run_id` is set for
    a block in the Redis of that name, which may be opened for windows that are still to come.
    """

    id: str
    holder: str
    epoch: int = 0
    at: datetime | None = None
    run_id: str = ""


class AccountId(msgspec.Struct, frozen=True):
    """Where a list of accounts goes on."""

    id: str


def account_of(row: QuotaAccountRow) -> Account:
    """The totals of a row."""
    return Account(
        granted=row.granted,
        used=row.used,
        returned=row.returned,
        sequence=row.sequence,
        expires_at=row.expires_at.timestamp(),
        closed=row.closed,
        reclaimed=row.reclaimed,
    )


def places_of(row: QuotaAccountRow) -> list[Place]:
    """The counters that an account takes from, in the order in which everyone takes them."""
    return sorted((key, datetime.fromisoformat(start)) for key, start in row.places)


def write_account(row: QuotaAccountRow, account: Account) -> None:
    """Puts totals into a row."""
    row.granted, row.used, row.returned = account.granted, account.used, account.returned
    row.reclaimed, row.sequence, row.closed = account.reclaimed, account.sequence, account.closed
    if account.expires_at != row.expires_at.timestamp():
        row.expires_at = datetime.fromtimestamp(account.expires_at, UTC)


def new_account(
    allowance: Allowance, opening: Opening, parts: Sequence[Part], now: datetime
) -> QuotaAccountRow:
    """An account that was granted nothing yet."""
    ends = [part.end for part in parts if part.end is not None]
    return _empty(
        id=opening.id,
        tenant_id=allowance.tenant_id,
        feature=allowance.feature,
        places=[[part.place[0], part.place[1].isoformat()] for part in parts],
        holder=opening.holder,
        epoch=opening.epoch,
        opened_at=now,
        starts_at=max(part.place[1] for part in parts),
        ends_at=min(ends, default=None),
        expires_at=now,
        on_loss=int(allowance.on_loss),
        run_id=opening.run_id,
    )


def new_orphan(block: QuotaAccountRow, holder: str, now: datetime) -> QuotaAccountRow:
    """What a holder of a lost block says: nothing yet."""
    return _empty(
        id=f"{block.id}/{holder}",
        tenant_id=block.tenant_id,
        feature=block.feature,
        places=[],
        holder=holder,
        opened_at=now,
        starts_at=block.starts_at,
        ends_at=block.ends_at,
        expires_at=now,
        on_loss=block.on_loss,
        parent=block.id,
        closed=True,
    )


def _empty(**columns: object) -> QuotaAccountRow:
    """An account that was granted nothing yet. Names every column: totals are read before it is stored."""
    blank = dict.fromkeys(("epoch", "granted", "used", "returned", "reclaimed", "sequence"), 0)
    return QuotaAccountRow(**{**blank, "closed": False, "run_id": "", "parent": "", **columns})


def moved_by(before: Account, outcome: Outcome) -> Moved:
    """How each counter of an account changes with it.

    What a late settlement says of tokens that were taken back already is counted again: as unadmitted.
    """
    after = outcome.account
    return Moved(
        admitted=outcome.used - outcome.overdrawn,
        unadmitted=outcome.overdrawn,
        delegated=after.outstanding - before.outstanding,
        forfeited=_forfeited(after) - _forfeited(before),
    )


def _forfeited(account: Account) -> int:
    return account.outstanding if account.closed else 0
