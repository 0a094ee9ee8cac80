"""Grantors of leases, each as the contract suite calls it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.lease import Account, Outcome, Terms, Told
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit, window_at
from entitlement_sidecar.planstore.db import Database, QuotaCounterRow
from entitlement_sidecar.planstore.usage.account_rows import Opening, account_of
from entitlement_sidecar.planstore.usage.accounts import Accounts
from entitlement_sidecar.planstore.usage.allowances import Allowance
from entitlement_sidecar.testing.clock import FakeClock

_T = TypeVar("_T")


class Grantor(Protocol):
    """What every grantor does: the operations of `domain.lease`, each in one step."""

    @property
    def free(self) -> int:
        """What nobody has."""
        ...

    def open(self, account_id: str, wants: int) -> Outcome | None:
        """Opens an account, or None where nothing is left."""
        ...

    def grant(self, account_id: str, told: Told, wants: int) -> Outcome:
        """Absorbs what a holder says and grants."""
        ...

    def settle(self, account_id: str, told: Told) -> Outcome:
        """Absorbs what a holder says."""
        ...

    def end(self, account_id: str, used: int) -> Outcome:
        """Closes the account of a holder that has finished."""
        ...

    def adopt(self, block_id: str, holder: str, told: Told) -> Outcome:
        """Absorbs what a holder of a lost block says."""
        ...

    def lose(self, account_id: str, *, known: bool = False) -> Outcome:
        """Closes a lost holder's account."""
        ...

    def release(self, account_id: str) -> Outcome:
        """Takes back what a closed account has."""
        ...

    def account_for(self, account_id: str, used: int) -> Outcome:
        """Takes back what a lost holder did not use by its events."""
        ...

    def read(self, account_id: str) -> Account | None:
        """An account."""
        ...


def limit_of(amount: int, unit: WindowUnit = WindowUnit.MONTH, *, soft: bool = False) -> Limit:
    """A limit."""
    return Limit(amount, WindowSpec(unit), soft)


class SqlGrantor:
    """The root's accounts of one feature with one limit."""

    def __init__(self, database: Database, clock: FakeClock, *limits: Limit, tenant: str = "acme") -> None:
        self.allowance = Allowance(tenant, "calls", limits)
        self._database = database
        self._accounts = Accounts(lambda _: clock.now())

    @property
    def free(self) -> int:
        """What nobody has of its limit."""
        (limit,) = self.allowance.limits
        row = self.counters().get(limit.key)
        assert limit.amount is not None
        return limit.amount - (0 if row is None else row.admitted + row.unadmitted + row.delegated)

    def free_of(self, key: str, at: datetime) -> int:
        """What nobody has of one of its limits in the window that holds an instant."""
        limit = next(one for one in self.allowance.limits if one.key == key)
        start = window_at(limit.window, at).start
        with self._database.reading() as session:
            row = self.allowance.counters.find(session, [(key, start)])[key, start]
        assert limit.amount is not None
        return limit.amount - row.admitted - row.unadmitted - row.delegated

    def counters(self) -> dict[str, QuotaCounterRow]:
        """Its rows, by limit."""
        with self._database.reading() as session:
            return {row.limit_key: row for row in session.scalars(select(QuotaCounterRow))}

    def open(
        self, account_id: str, wants: int, at: datetime | None = None, run_id: str = ""
    ) -> Outcome | None:
        """In a transaction of its own, like everything here."""
        opening = Opening(id=account_id, holder=account_id, at=at, run_id=run_id)
        opened = self._do(lambda session: self._accounts.open(session, self.allowance, opening, wants))
        return None if opened is None else opened.outcome

    def grant(self, account_id: str, told: Told, wants: int) -> Outcome:
        """Absorbs and grants."""
        return self._do(
            lambda session: self._accounts.grant(session, account_id, told, wants, self.allowance)
        ).outcome

    def terms(self, account_id: str, told: Told, wants: int) -> Terms:
        """What a holder is told that asks for more."""
        return self._do(
            lambda session: self._accounts.grant(session, account_id, told, wants, self.allowance)
        ).terms

    def settle(self, account_id: str, told: Told) -> Outcome:
        """Absorbs."""
        return self._do(lambda session: self._accounts.settle(session, account_id, told)).outcome

    def end(self, account_id: str, used: int) -> Outcome:
        """Ends."""
        return self._do(lambda session: self._accounts.end(session, account_id, used)).outcome

    def adopt(self, block_id: str, holder: str, told: Told) -> Outcome:
        """Absorbs for a lost block."""
        return self._do(lambda session: self._accounts.adopt(session, block_id, holder, told)).outcome

    def lose(self, account_id: str, *, known: bool = False) -> Outcome:
        """Closes."""
        return self._do(lambda session: self._accounts.lose(session, account_id, known=known)).outcome

    def release(self, account_id: str) -> Outcome:
        """Takes back."""
        return self._do(lambda session: self._accounts.account_for(session, account_id, 0)).outcome

    def account_for(self, account_id: str, used: int) -> Outcome:
        """Settles by events."""
        return self._do(lambda session: self._accounts.account_for(session, account_id, used)).outcome

    def read(self, account_id: str) -> Account | None:
        """Reads."""
        row = self._do(lambda session: self._accounts.read(session, account_id))
        return None if row is None else account_of(row)

    def _do(self, what: Callable[[Session], _T]) -> _T:
        with self._database.writing() as session:
            return what(session)


def seconds(clock: FakeClock) -> float:
    """A clock's wall time as grantors count it."""
    return clock.now().astimezone(UTC).timestamp()
