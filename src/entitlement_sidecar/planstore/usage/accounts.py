"""The root's accounts: what each sidecar's lease and each block in Redis was granted (DESIGN 7).

    open ──▶ account ──grant, settle──▶ (again and again) ──lose──▶ closed ──settle, release──▶ nothing left

What a request does is said by `domain.lease`; here its outcome is put into rows, in the caller's transaction:

    granted n            delegated += n, of every counter of the account, where n fits in all of them
    returned n           delegated -= n
    used n               delegated -= n, admitted += n; what had been taken back already: unadmitted += n
    lost, its rest n     forfeited += n (it stays delegated), or taken back: delegated -= n

So the `delegated` of a counter is at every instant what its accounts have outstanding. An account is locked
before its counters, and these in the order of their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain import lease
from entitlement_sidecar.domain.errors import ConflictError, NotFoundError
from entitlement_sidecar.domain.lease import Account, OnHolderLoss, Outcome, Terms, Told
from entitlement_sidecar.planstore.db import QuotaAccountRow, QuotaCounterRow
from entitlement_sidecar.planstore.usage.account_rows import (
    Opening,
    account_of,
    moved_by,
    new_account,
    new_orphan,
    places_of,
    write_account,
)
from entitlement_sidecar.planstore.usage.allowances import Allowance, Part
from entitlement_sidecar.planstore.usage.counters import Counters, Moved, Place

DRIFT = timedelta(seconds=5)
"""How far a caller's clock may be off when it names the window of a lease."""

FIRST = Told(sequence=1, used=0, returned=0)
"""What the request that opens an account says."""

BOUNDLESS = 2**61
"""What is free of a soft limit."""

_EMPTY = {"admitted": 0, "unadmitted": 0, "delegated": 0, "forfeited": 0}

Now = Callable[[Session], datetime]
"""The clock of the database: one for all replicas."""


class Granted(msgspec.Struct, frozen=True):
    """An account as it is after a request, what the request moved, and what its holder is told."""

    row: QuotaAccountRow
    outcome: Outcome
    terms: Terms

    @property
    def account(self) -> Account:
        """The account's totals."""
        return self.outcome.account


class _Standing(msgspec.Struct, frozen=True):
    """The counters of an account, held, and what nobody has of all of them together.

    `strict`: so much was forfeited that no leases are granted. `wholes` is what each counter has in all.
    """

    free: int
    strict: bool
    wholes: dict[Place, int | None]


class Accounts:
    """Grants against the rows of the database, in the caller's writing transaction."""

    def __init__(self, now: Now) -> None:
        self.now = now

    def open(self, session: Session, allowance: Allowance, opening: Opening, wants: int) -> Granted | None:
        """Opens an account with up to `wants` tokens; None, and no account, where there are none to lease.

        The same opening again changes nothing and gets the account as it is now.
        """
        if (row := _locked(session, opening.id)) is not None:
            return _told(row, lease.absorb(account_of(row), FIRST))
        if not allowance.is_leased:
            return None
        now = self.now(session)
        for parts in _within_reach(allowance, opening, now):
            standing = _standing(session, allowance.counters, parts, now)
            if standing.free > 0 and (opening.run_id or not standing.strict):
                row = new_account(allowance, opening, parts, now)
                return self._grant(session, row, FIRST, wants, standing)
        return None

    def grant(
        self, session: Session, account_id: str, told: Told, wants: int, allowance: Allowance | None
    ) -> Granted:
        """Takes over what a holder says and grants up to `wants` more. None: the tenant lacks it now.

        Where its counters are not those of the limits in force now, one of them has less than nothing left,
        or their mode is not leased any more, the terms say closed: nothing more is granted or prolonged, and
        the holder gives back what it has and opens another account, if it may.

        Raises:
            NotFoundError: There is no such account.
        """
        row = _required(session, account_id)
        now = self.now(session)
        counters = Counters(row.tenant_id, row.feature)
        if allowance is not None and not allowance.is_leased:
            allowance = None
        parts = None if allowance is None else allowance.matching(places_of(row), _within(row, now))
        standing = None if parts is None else _standing(session, counters, parts, now)
        heard = lease.absorb(account_of(row), told)
        if standing is None or _is_over(row, now) or standing.free + heard.freed < 0:
            settled = self._apply(session, row, heard)
            terms = msgspec.structs.replace(settled.terms, closed=True)
            return msgspec.structs.replace(settled, terms=terms)
        # A block goes on: it is kept small then, and sidecars need it while the plan store is away.
        refused = standing.strict and not row.run_id
        return self._grant(session, row, told, 0 if refused else wants, standing)

    def settle(self, session: Session, account_id: str, told: Told) -> Granted:
        """Takes over what a holder says, also of an account that is closed.

        Raises:
            NotFoundError: There is no such account.
        """
        row = _required(session, account_id)
        return self._apply(session, row, lease.absorb(account_of(row), told))

    def end(self, session: Session, account_id: str, used: int) -> Granted:
        """Closes the account of a holder that uses nothing more of it: all that was not used comes back.

        Raises:
            NotFoundError: There is no such account.
        """
        row = _required(session, account_id)
        return self._apply(session, row, lease.end(account_of(row), used))

    def adopt(self, session: Session, block_id: str, holder: str, told: Told) -> Granted:
        """Takes over what a holder of a lost block says here; the terms are those of the block's account.

        While the block is not closed nothing is taken, and the terms say so: it is told there.

        Raises:
            NotFoundError: There is no such block.
        """
        block = _required(session, block_id)
        orphan = _locked(session, f"{block_id}/{holder}") or new_orphan(block, holder, self.now(session))
        others = _told_of(session, block_id) - orphan.used
        outcome, said = lease.adopt(account_of(block), account_of(orphan), told, others)
        if said != account_of(orphan):
            write_account(orphan, said)
            session.add(orphan)
        return self._apply(session, block, outcome)

    def account_for(self, session: Session, account_id: str, used: int) -> Granted:
        """Takes back what a lost holder did not use by its events; no more of them are to come.

        Raises:
            NotFoundError: There is no such account.
        """
        row = _required(session, account_id)
        return self._apply(session, row, lease.account_for(account_of(row), used))

    def lose(
        self, session: Session, account_id: str, on_loss: OnHolderLoss | None = None, *, known: bool = False
    ) -> Granted:
        """Closes the account of a holder that is lost; before its time is over, only where that is `known`.

        Raises:
            NotFoundError: There is no such account.
        """
        row = _required(session, account_id)
        account = account_of(row)
        on_loss = OnHolderLoss(row.on_loss) if on_loss is None else on_loss
        now = float("inf") if known else self.now(session).timestamp()
        return self._apply(session, row, lease.lose(account, now, on_loss))

    def read(self, session: Session, account_id: str) -> QuotaAccountRow | None:
        """An account as it is; None where there is none."""
        return session.get(QuotaAccountRow, account_id, populate_existing=True)

    def share(self, session: Session, allowance: Allowance) -> int:
        """What one sidecar may have at once: half of what is left, divided by those who hold leases.

        At least 1, so that near the limit everyone gets the last tokens one by one.
        """
        left = (_left(session, allowance.counters, one) for one in allowance.choices(self.now(session)))
        most = next((free for free in left if free > 0), 0)
        return max(1, most // (2 * max(1, _holders(session, allowance))))

    def _grant(
        self, session: Session, row: QuotaAccountRow, told: Told, wants: int, standing: _Standing
    ) -> Granted:
        expires = (self.now(session) + timedelta(seconds=lease.TTL)).timestamp()
        outcome = lease.grant(account_of(row), told, wants, standing.free, expires)
        return self._apply(session, row, outcome, standing.wholes)

    def _apply(
        self,
        session: Session,
        row: QuotaAccountRow,
        outcome: Outcome,
        wholes: Mapping[Place, int | None] | None = None,
    ) -> Granted:
        """Puts an outcome into the account and all of its counters."""
        moved = moved_by(account_of(row), outcome)
        if moved != Moved():
            _move(session, row, moved, wholes or {})
        write_account(row, outcome.account)
        session.add(row)
        session.flush()
        return _told(row, outcome)


def _told(row: QuotaAccountRow, outcome: Outcome) -> Granted:
    return Granted(row, outcome, outcome.terms)


def _locked(session: Session, account_id: str) -> QuotaAccountRow | None:
    query = select(QuotaAccountRow).where(QuotaAccountRow.id == account_id).with_for_update()
    return session.scalars(query, execution_options={"populate_existing": True}).first()


def _required(session: Session, account_id: str) -> QuotaAccountRow:
    row = _locked(session, account_id)
    if row is None:
        raise NotFoundError(f"no lease {account_id!r}: it was never granted, or was settled long ago")
    return row


def _told_of(session: Session, block_id: str) -> int:
    """What all holders of a lost block have told here as used; they are heard one at a time."""
    query = select(func.sum(QuotaAccountRow.used)).where(QuotaAccountRow.parent == block_id)
    return int(session.scalar(query) or 0)


def _within(row: QuotaAccountRow, now: datetime) -> datetime:
    """An instant that names the account's windows: now, or where its block is for later, their beginning."""
    return max(now, row.starts_at)


def _is_over(row: QuotaAccountRow, now: datetime) -> bool:
    return row.ends_at is not None and now >= row.ends_at


def _within_reach(allowance: Allowance, opening: Opening, now: datetime) -> Iterator[tuple[Part, ...]]:
    """What an account may take from: windows that are not over, and for a lease have begun, give or take."""
    at = opening.at or now
    if not opening.run_id and abs(at - now) > DRIFT:
        return
    for parts in allowance.choices(at):
        if all(part.end is None or part.end > now for part in parts):
            yield parts


def _standing(session: Session, counters: Counters, parts: Sequence[Part], now: datetime) -> _Standing:
    """Holds the counters, in their order, and sees what is free of all of them.

    What a window carries over is not known before it begins: until then there is only the limit itself.
    """
    rows = [
        (part, counters.lock(session, part.place, part.end, part.limit if part.place[1] <= now else None))
        for part in parts
    ]
    return _Standing(
        free=_free_of(rows),
        strict=any(part.is_strict(row) for part, row in rows),
        wholes={part.place: part.whole(row) for part, row in rows},
    )


def _left(session: Session, counters: Counters, parts: Sequence[Part]) -> int:
    """About what is free of all counters, without holding them. One that nothing was taken from is whole."""
    found = counters.find(session, [part.place for part in parts])
    rows = [(part, found.get(part.place, QuotaCounterRow(**_EMPTY))) for part in parts]
    return _free_of(rows)


def _free_of(rows: Sequence[tuple[Part, QuotaCounterRow]]) -> int:
    """The smallest that is free of several counters."""
    found = [part.free(row) for part, row in rows]
    return min((free for free in found if free is not None), default=BOUNDLESS)


def _move(session: Session, row: QuotaAccountRow, moved: Moved, wholes: Mapping[Place, int | None]) -> None:
    counters = Counters(row.tenant_id, row.feature)
    for place in places_of(row):
        if not counters.move(session, place, moved, wholes.get(place)):
            raise ConflictError(
                f"lease {row.id!r}: the counter of {place[0]!r} since {place[1]:%Y-%m-%dT%H:%M:%SZ} does not "
                "hold what its leases have; `entitlements usage reconcile` says what differs"
            )


def _holders(session: Session, allowance: Allowance) -> int:
    """How many hold a lease of a feature now."""
    row = QuotaAccountRow
    query = select(func.count(row.holder.distinct())).where(
        row.tenant_id == allowance.tenant_id,
        row.feature == allowance.feature,
        row.closed.is_(False),
        row.run_id == "",
        row.parent == "",
        row.granted > row.used + row.returned,
    )
    return session.scalar(query) or 0
