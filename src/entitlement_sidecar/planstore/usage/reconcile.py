"""Compares what the root has counted with what the ledger holds, and explains each difference (DESIGN 7).

    admitted     one by one, and told by holders of leases    against events that name either
    unadmitted   events that name neither, and reports        against events that name neither
    delegated    what leases and blocks may still use         against their accounts, and open reservations
    forfeited    the part of it whose holders are lost        against accounts that are closed

Between a use and its event, or its settlement, the two differ for a while: that is explained, lease by lease.
What has no cause is `unexplained`: events removed by retention, or a database that was restored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.planstore.db import QuotaAccountRow, QuotaCounterRow
from entitlement_sidecar.planstore.usage.account_rows import account_of, places_of
from entitlement_sidecar.planstore.usage.reconcile_ledger import (
    Span,
    Told,
    Waiting,
    told_by_ledger,
    waiting_for,
)
from entitlement_sidecar.planstore.usage.reconcile_reserved import Reserved, reserved


class Cause(StrEnum):
    """Why authority and ledger differ."""

    ON_THE_WAY = "events of the lease are on their way"
    NOT_SETTLED = "the lease's holder has not told yet what these events used"
    OVERDRAWN = "used after it had been taken back, so that it counts as unadmitted"
    NO_EVENT = "admitted, and the event has not come"
    REPORTED = "reported as used, and the event has not come"
    RESERVED = "settled a reservation of another window, or beyond what it held"


class Explained(msgspec.Struct, frozen=True):
    """A part of a difference. `lease_id` is empty where it is no lease's."""

    cause: Cause
    quantity: int
    lease_id: str = ""
    holder: str = ""


class Line(msgspec.Struct, frozen=True):
    """One column of one counter: what the root counted, and what it should be by what else there is."""

    feature: str
    limit_key: str
    window_start: datetime
    window_end: datetime | None
    column: str
    authority: int
    ledger: int
    explained: tuple[Explained, ...] = ()

    @property
    def difference(self) -> int:
        """What the root has counted more."""
        return self.authority - self.ledger

    @property
    def unexplained(self) -> int:
        """The part of the difference that has no cause."""
        return self.difference - sum(one.quantity for one in self.explained)


class ReconcileAsk(msgspec.Struct, frozen=True):
    """Counters of a tenant, or of one feature of it, whose window holds an instant."""

    tenant_id: str
    at: datetime
    feature: str = ""


def reconcile(session: Session, asked: ReconcileAsk, document: CatalogueDocument) -> Iterator[Line]:
    """Four lines for each counter, in the order of feature, limit and window."""
    for row in _counters(session, asked):
        span = Span(row.tenant_id, row.feature, row.window_start, row.window_end)
        accounts = _accounts(session, row)
        told, waiting = told_by_ledger(session, span, document), waiting_for(session, span)
        yield from _lines(row, accounts, told, (waiting, reserved(session, row, told.arrived)))


def _counters(session: Session, asked: ReconcileAsk) -> Sequence[QuotaCounterRow]:
    row = QuotaCounterRow
    query = (
        select(row)
        .where(
            row.tenant_id == asked.tenant_id,
            row.window_start <= asked.at,
            or_(row.window_end.is_(None), row.window_end > asked.at),
            *([row.feature == asked.feature] if asked.feature else []),
        )
        .order_by(row.feature, row.limit_key, row.window_start)
    )
    return session.scalars(query).all()


def _accounts(session: Session, counter: QuotaCounterRow) -> list[QuotaAccountRow]:
    """Those that take from a counter."""
    row = QuotaAccountRow
    query = select(row).where(
        row.tenant_id == counter.tenant_id, row.feature == counter.feature, row.parent == ""
    )
    place = (counter.limit_key, counter.window_start)
    return [one for one in session.scalars(query.order_by(row.id)) if place in places_of(one)]


def _lines(
    row: QuotaCounterRow, accounts: Sequence[QuotaAccountRow], told: Told, beside: tuple[Waiting, Reserved]
) -> Iterator[Line]:
    waiting, reservations = beside

    def line(column: str, ledger: int, *explained: Explained) -> Line:
        authority = int(getattr(row, column))
        return Line(
            row.feature, row.limit_key, row.window_start, row.window_end, column, authority, ledger, explained
        )

    outstanding = {one.id: account_of(one).outstanding for one in accounts}
    closed = sum(outstanding[one.id] for one in accounts if one.closed)
    of_admitted = [*_of_admitted(accounts, told, waiting), *_of_reserved(reservations.ahead)]
    of_unadmitted = [*_of_unadmitted(accounts, waiting), *_of_reserved(reservations.unadmitted)]
    yield line("admitted", told.admitted, *of_admitted)
    yield line("unadmitted", told.unadmitted, *of_unadmitted)
    yield line("delegated", sum(outstanding.values()) + reservations.held)
    yield line("forfeited", closed)


def _of_admitted(accounts: Sequence[QuotaAccountRow], told: Told, waiting: Waiting) -> Iterator[Explained]:
    for one in accounts:
        ahead = one.used - _events_of(one, told)
        yield from _one(Cause.ON_THE_WAY if ahead > 0 else Cause.NOT_SETTLED, ahead, one)
        yield from _one(Cause.OVERDRAWN, -_overdrawn(one), one)
    yield from _one(Cause.NO_EVENT, waiting.admitted)


def _of_unadmitted(accounts: Sequence[QuotaAccountRow], waiting: Waiting) -> Iterator[Explained]:
    for one in accounts:
        yield from _one(Cause.OVERDRAWN, _overdrawn(one), one)
    yield from _one(Cause.REPORTED, waiting.reported)


def _of_reserved(amounts: Mapping[str, int]) -> Iterator[Explained]:
    return (Explained(Cause.RESERVED, quantity, name) for name, quantity in amounts.items() if quantity)


def _overdrawn(account: QuotaAccountRow) -> int:
    """What its holder used of tokens that had been taken back."""
    return max(0, account.used + account.returned + account.reclaimed - account.granted)


def _events_of(account: QuotaAccountRow, told: Told) -> int:
    """What events name it, or as a block one of its holders."""
    own = told.arrived.get(account.id, 0)
    if not account.run_id:
        return own
    return own + sum(value for name, value in told.arrived.items() if name.startswith(f"{account.id}/"))


def _one(cause: Cause, quantity: int, account: QuotaAccountRow | None = None) -> Iterator[Explained]:
    if quantity:
        named = ("", "") if account is None else (account.id, account.holder)
        yield Explained(cause, quantity, *named)
