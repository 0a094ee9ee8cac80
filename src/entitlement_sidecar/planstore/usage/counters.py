"""The rows that a root authority counts in: found, made, and taken from by one conditional statement."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, func, select, tuple_, update
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.quota import LimitUsage, Spent, carried_over, carries_over, previous_window
from entitlement_sidecar.domain.window import Window, window_at
from entitlement_sidecar.planstore.db import QuotaCounterRow
from entitlement_sidecar.planstore.db.upsert import insert_for

_COUNTER_MAX = 2**62
"""What a counter of a soft limit may reach: beyond it the next addition could leave 64 bits."""

Place = tuple[str, datetime]
"""A counter of one tenant and feature: key and start of the window."""


class Moved(msgspec.Struct, frozen=True):
    """How the columns of a counter change."""

    admitted: int = 0
    unadmitted: int = 0
    delegated: int = 0
    forfeited: int = 0

    @property
    def taken(self) -> int:
        """How much more of the limit is spent or promised than before."""
        return self.admitted + self.unadmitted + self.delegated


class Counters(msgspec.Struct, frozen=True):
    """All counters of one feature of one tenant."""

    tenant_id: str
    feature: str

    def find(self, session: Session, places: Sequence[Place]) -> dict[Place, QuotaCounterRow]:
        """Those that exist, as they are in the database now."""
        query = select(QuotaCounterRow).where(*self._among(places))
        rows = session.scalars(query, execution_options={"populate_existing": True})
        return {(row.limit_key, row.window_start): row for row in rows}

    def hold(self, session: Session, windows: dict[Place, datetime | None]) -> dict[Place, QuotaCounterRow]:
        """Those of credit grants, made where they are missing, and held until the transaction ends.

        In one order for everyone, so that two transactions never wait for each other in a circle.
        """
        for place in sorted(windows):
            self._make(session, place, windows[place])
        query = (
            select(QuotaCounterRow)
            .where(*self._among(list(windows)))
            .order_by(QuotaCounterRow.limit_key, QuotaCounterRow.window_start)
            .with_for_update()
        )
        rows = session.scalars(query, execution_options={"populate_existing": True})
        return {(row.limit_key, row.window_start): row for row in rows}

    def take(self, session: Session, limit: Limit, quantity: int, now: datetime) -> LimitUsage | None:
        """Adds a quantity where it fits, and says what is counted then; None where it does not fit.

        admitted + unadmitted + delegated + quantity <= amount + carried is the condition of the very
        statement that adds.
        """
        window = window_at(limit.window, now)
        place = (limit.key, window.start)
        self._make(session, place, window.end)
        if carries_over(limit, window):
            self._carry(session, limit, window)
        counter = QuotaCounterRow
        spent = counter.admitted + counter.unadmitted + counter.delegated
        taking = (
            update(counter)
            .where(self._at(place), spent <= _room(limit) - quantity)
            .values(admitted=counter.admitted + quantity)
            .returning(counter.admitted, counter.unadmitted, counter.delegated, counter.carried)
            .execution_options(synchronize_session=False)
        )
        row = session.execute(taking).first()
        return None if row is None else usage_of(limit, window, row)

    def lock(
        self, session: Session, place: Place, end: datetime | None, limit: Limit | None
    ) -> QuotaCounterRow:
        """One that is held until the transaction ends, with what it carries over fixed.

        Whoever takes several does so in the order of their keys, so that nobody waits in a circle. `limit` is
        None for a credit grant, and for a limit that is not in force any more.
        """
        self._make(session, place, end)
        if limit is not None:
            window = Window(place[1], end)
            if carries_over(limit, window):
                self._carry(session, limit, window)
        query = select(QuotaCounterRow).where(self._at(place)).with_for_update()
        return session.scalars(query, execution_options={"populate_existing": True}).one()

    def move(self, session: Session, place: Place, moved: Moved, whole: int | None) -> bool:
        """Adds to the columns at once, all or nothing; says whether it fitted.

        What takes more of the limit than before has to fit into `whole`, the amount and what was carried
        over; None: whatever there is fits.
        """
        counter = QuotaCounterRow
        spent = counter.admitted + counter.unadmitted + counter.delegated
        fits = [] if moved.taken <= 0 else [spent <= (_COUNTER_MAX if whole is None else whole) - moved.taken]
        moving = (
            update(counter)
            .where(self._at(place), counter.delegated + moved.delegated >= 0, *fits)
            .values(
                admitted=counter.admitted + moved.admitted,
                unadmitted=counter.unadmitted + moved.unadmitted,
                delegated=counter.delegated + moved.delegated,
                forfeited=counter.forfeited + moved.forfeited,
            )
            .returning(counter.limit_key)
            .execution_options(synchronize_session=False)
        )
        return session.execute(moving).first() is not None

    def give_back(self, session: Session, place: Place, quantity: int) -> None:
        """Takes what was admitted back, as far as it was."""
        counter = QuotaCounterRow
        session.execute(
            update(counter)
            .where(self._at(place), counter.admitted >= quantity)
            .values(admitted=counter.admitted - quantity)
            .execution_options(synchronize_session=False)
        )

    def carried_into(self, session: Session, limit: Limit, window: Window) -> int:
        """What a window begins with that nothing was granted in yet."""
        if not carries_over(limit, window):
            return 0
        place = (limit.key, previous_window(limit, window).start)
        row = self.find(session, [place]).get(place)
        if row is None:
            return carried_over(limit, None)
        # What was delegated and never came back is forfeited: it is spent.
        return carried_over(limit, Spent(row.admitted + row.unadmitted + row.delegated, row.carried or 0))

    def _carry(self, session: Session, limit: Limit, window: Window) -> None:
        """Fixes what is carried at the window's first grant; late events do not change it any more."""
        counter = QuotaCounterRow
        session.execute(
            update(counter)
            .where(self._at((limit.key, window.start)), counter.carried.is_(None))
            .values(carried=self.carried_into(session, limit, window))
            .execution_options(synchronize_session=False)
        )

    def _make(self, session: Session, place: Place, end: datetime | None) -> None:
        row = {
            "tenant_id": self.tenant_id,
            "feature": self.feature,
            "limit_key": place[0],
            "window_start": place[1],
            "window_end": end,
        }
        session.execute(insert_for(session, QuotaCounterRow).values(**row).on_conflict_do_nothing())

    def _among(self, places: Sequence[Place]) -> list[ColumnElement[bool]]:
        counter = QuotaCounterRow
        return [self._mine(), tuple_(counter.limit_key, counter.window_start).in_(places)]

    def _mine(self) -> ColumnElement[bool]:
        counter = QuotaCounterRow
        return (counter.tenant_id == self.tenant_id) & (counter.feature == self.feature)

    def _at(self, place: Place) -> ColumnElement[bool]:
        counter = QuotaCounterRow
        return self._mine() & (counter.limit_key == place[0]) & (counter.window_start == place[1])


Counted = QuotaCounterRow | Row[int, int, int, int | None]
"""A counter, or the columns of it that say how much."""


def usage_of(limit: Limit, window: Window, row: Counted | None, carried: int = 0) -> LimitUsage:
    """What a counter says; without one nothing was counted, and `carried` would be there."""
    return LimitUsage(
        key=limit.key,
        amount=limit.amount,
        soft=limit.soft,
        window_start=window.start,
        reset_at=window.end,
        used=row.admitted + row.unadmitted if row is not None else 0,
        outstanding=row.delegated if row is not None else 0,
        carried=(row.carried if row is not None and row.carried is not None else carried),
    )


def _room(limit: Limit) -> Any:  # noqa: ANN401 - a number, or an SQL expression
    if limit.soft or limit.amount is None:
        return _COUNTER_MAX
    # What was carried once stays for its window, also when the limit no longer carries over.
    return limit.amount + func.coalesce(QuotaCounterRow.carried, 0)
