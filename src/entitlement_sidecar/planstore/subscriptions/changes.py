"""The life of a subscription: create, change plan, suspend, resume, cancel (S1.5, S4.4).

Each change runs in the caller's transaction, holds the tenant's row, and ends with a new snapshot.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_modified
from uuid6 import uuid7

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StaleVersionError,
)
from entitlement_sidecar.planstore.catalogue import active_add_on, find_plan
from entitlement_sidecar.planstore.db import (
    OrganizationRow,
    PlanRow,
    SubscriptionAddOnRow,
    SubscriptionRow,
)
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.planstore.subscriptions.periods import period_end, running_period
from entitlement_sidecar.planstore.subscriptions.phases import status_of
from entitlement_sidecar.planstore.subscriptions.queries import find_organization, latest_subscription

MAX_TRIAL_DAYS = 3650
"""Ten years: longer is a mistake."""

MAX_ADD_ON_QUANTITY = 1_000_000
"""How many times one add-on may be bought."""


class SnapshotWriter(Protocol):
    """Makes what a tenant has known."""

    def write(self, session: Session, tenant_id: str) -> int:
        """Compiles, signs and stores the tenant's next snapshot in the caller's transaction.

        The caller holds the tenant's row. Returns the snapshot's version.
        """
        ...


class SubscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant should be subscribed to.

    Attributes:
        plan: `code`, or `code@version` for a certain version. The code of the plan that the tenant is on
            already keeps the version that was bought.
        trial_days: Days of trial; 0 is none and converts a running trial; None is the plan's own for a
            first subscription, and no change for an existing one.
        add_ons: All add-ons with their quantities; None keeps them.
        auto_renew: Whether it goes on after its period; None keeps it (new ones renew).
        expected_version: The version that the caller has seen; 0 expects none. None does not ask.
    """

    plan: str
    trial_days: int | None = None
    add_ons: dict[str, int] | None = None
    auto_renew: bool | None = None
    expected_version: int | None = None


class SubscriptionChange(msgspec.Struct, frozen=True):
    """What a change led to: the row, and the snapshot version that carries it."""

    row: SubscriptionRow
    snapshot_version: int
    created: bool = False
    changed: bool = True


class Subscriptions:
    """Changes subscriptions."""

    def __init__(self, snapshots: SnapshotWriter, clock: Clock) -> None:
        self._snapshots = snapshots
        self._clock = clock

    def upsert(self, session: Session, tenant_id: str, request: SubscriptionRequest) -> SubscriptionChange:
        """Creates the tenant's subscription, or changes the one that it has, at once (S4.4).

        A tenant that is not known yet is created with it. What is as requested already stays as it is.

        Raises:
            StaleVersionError: `expected_version` is not the current one.
            NotFoundError: No such plan or add-on.
            InvalidInputError: A value is out of range.
            ConflictError: The subscription is suspended, or a trial is asked for on one that is active.
        """
        _validate(request)
        now = self._clock.now()
        organization = _hold(session, tenant_id, now)
        current = self._current(session, tenant_id, now)
        _expect(current, request.expected_version)
        if current is None:
            _close_latest(session, tenant_id)
            row = _created(session, tenant_id, request, now)
            return SubscriptionChange(row, self._publish(session, tenant_id), created=True)
        if not _change(session, current, request, now):
            return SubscriptionChange(current, organization.snapshot_version, changed=False)
        return self._changed(session, current, now)

    def suspend(
        self, session: Session, tenant_id: str, expected_version: int | None = None
    ) -> SubscriptionChange:
        """Takes everything away until it is resumed. Suspending again changes nothing.

        Raises:
            NotFoundError: There is no subscription, or it has ended.
            StaleVersionError: `expected_version` is not the current one.
        """
        row, organization, now = self._existing(session, tenant_id, expected_version)
        if row.suspended_at is not None:
            return SubscriptionChange(row, organization.snapshot_version, changed=False)
        row.suspended_at = now
        return self._changed(session, row, now)

    def resume(
        self, session: Session, tenant_id: str, expected_version: int | None = None
    ) -> SubscriptionChange:
        """Ends a suspension; where there is none, takes back a cancellation that has not taken effect.

        Who resumes what was suspended says nothing about a cancellation, which may be the customer's own.

        Raises:
            NotFoundError: There is no subscription, or it has ended.
            StaleVersionError: `expected_version` is not the current one.
        """
        row, organization, now = self._existing(session, tenant_id, expected_version)
        if row.suspended_at is None and row.cancel_at is None:
            return SubscriptionChange(row, organization.snapshot_version, changed=False)
        if row.suspended_at is not None:
            row.suspended_at = None
        else:
            row.cancel_at = None
        return self._changed(session, row, now)

    def cancel(
        self,
        session: Session,
        tenant_id: str,
        expected_version: int | None = None,
        *,
        at_period_end: bool = False,
    ) -> SubscriptionChange:
        """Ends the subscription, now or with the period (or trial) that is running.

        Raises:
            NotFoundError: There is no subscription, or it has ended.
            InvalidInputError: The plan has no period to wait for.
            StaleVersionError: `expected_version` is not the current one.
        """
        row, organization, now = self._existing(session, tenant_id, expected_version)
        if not at_period_end:
            row.state, row.open, row.cancel_at, row.suspended_at = "cancelled", False, now, None
            return self._changed(session, row, now)
        end = _end_of_period(row, now)
        if row.cancel_at == end:
            return SubscriptionChange(row, organization.snapshot_version, changed=False)
        row.cancel_at = end
        return self._changed(session, row, now)

    def _current(self, session: Session, tenant_id: str, now: datetime) -> SubscriptionRow | None:
        row = latest_subscription(session, tenant_id)
        return None if row is None or status_of(row, now) in {"ended", "cancelled"} else row

    def _existing(
        self, session: Session, tenant_id: str, expected_version: int | None
    ) -> tuple[SubscriptionRow, OrganizationRow, datetime]:
        now = self._clock.now()
        find_organization(session, tenant_id)
        organization = _hold(session, tenant_id, now)
        row = self._current(session, tenant_id, now)
        if row is None:
            raise NotFoundError(f"{tenant_id!r} has no subscription that could change: create one")
        _expect(row, expected_version)
        return row, organization, now

    def _changed(self, session: Session, row: SubscriptionRow, now: datetime) -> SubscriptionChange:
        row.updated_at = now
        # Its version moves also where only its add-ons changed, within one tick of the clock.
        flag_modified(row, "updated_at")
        return SubscriptionChange(row, self._publish(session, row.tenant_id))

    def _publish(self, session: Session, tenant_id: str) -> int:
        session.flush()
        return self._snapshots.write(session, tenant_id)


def _hold(session: Session, tenant_id: str, now: datetime) -> OrganizationRow:
    """The tenant's row, held until the transaction ends; created where it is missing."""
    missing = insert_for(session, OrganizationRow).values(
        tenant_id=tenant_id, snapshot_version=0, created_at=now
    )
    session.execute(missing.on_conflict_do_nothing())
    query = select(OrganizationRow).where(OrganizationRow.tenant_id == tenant_id).with_for_update()
    return session.scalars(query, execution_options={"populate_existing": True}).one()


def _close_latest(session: Session, tenant_id: str) -> None:
    """What time has ended is stored as ended before another one begins."""
    latest = latest_subscription(session, tenant_id)
    if latest is not None and latest.open:
        latest.open, latest.state = False, "ended"
        session.flush()


def _validate(request: SubscriptionRequest) -> None:
    if request.trial_days is not None and not 0 <= request.trial_days <= MAX_TRIAL_DAYS:
        raise InvalidInputError.of("trial_days", f"expected 0 to {MAX_TRIAL_DAYS}")
    for code, quantity in (request.add_ons or {}).items():
        if not 1 <= quantity <= MAX_ADD_ON_QUANTITY:
            raise InvalidInputError.of(f"add_ons.{code}", f"expected 1 to {MAX_ADD_ON_QUANTITY}")


def _expect(row: SubscriptionRow | None, expected: int | None) -> None:
    found = 0 if row is None else row.version
    if expected is not None and expected != found:
        raise StaleVersionError(
            f"expected_version is {expected}, the subscription is at {found}: read it again and retry"
        )


def _created(
    session: Session, tenant_id: str, request: SubscriptionRequest, now: datetime
) -> SubscriptionRow:
    plan = find_plan(session, request.plan)
    trial_days = request.trial_days
    if trial_days is None:
        # A plan's trial is for a tenant's first subscription: cancelling must not earn another one.
        trial_days = plan.trial_days if latest_subscription(session, tenant_id) is None else 0
    row = SubscriptionRow(
        id=f"sub_{uuid7().hex}",
        tenant_id=tenant_id,
        plan=plan,
        auto_renew=True if request.auto_renew is None else request.auto_renew,
        created_at=now,
        updated_at=now,
        cancel_at=None,
        suspended_at=None,
        **_beginning(plan, now, trial_days),
    )
    row.add_ons = _add_ons(session, request.add_ons or {})
    _require_end(row)
    session.add(row)
    return row


def _beginning(plan: PlanRow, now: datetime, trial_days: int) -> dict[str, str | datetime | None]:
    trial_end = now + timedelta(days=trial_days) if trial_days else None
    return {
        "state": "trialing" if trial_end else "active",
        "trial_start": now if trial_end else None,
        "trial_end": trial_end,
        "anchor": now,
        "current_period_start": now,
        "current_period_end": trial_end or period_end(plan.billing_period, now, now),
    }


def _change(session: Session, row: SubscriptionRow, request: SubscriptionRequest, now: datetime) -> bool:
    """Applies what differs; whether anything did."""
    if row.suspended_at is not None:
        raise ConflictError("the subscription is suspended: resume it first")
    before = _content(row)
    _change_plan(session, row, request.plan, now)
    if request.trial_days is not None:
        _change_trial(row, request.trial_days, now)
    if request.auto_renew is not None:
        _change_renewal(row, now, renews=request.auto_renew)
    if request.add_ons is not None:
        _change_add_ons(session, row, request.add_ons)
    _require_end(row)
    return _content(row) != before


def _content(row: SubscriptionRow) -> tuple[object, ...]:
    add_ons = {entry.add_on.id: entry.quantity for entry in row.add_ons}
    return (row.plan.id, row.state, row.trial_end, row.auto_renew, row.current_period_end, add_ons)


def _change_plan(session: Session, row: SubscriptionRow, name: str, now: datetime) -> None:
    if name == row.plan.code:
        return
    plan = find_plan(session, name)
    if plan.billing_period != row.plan.billing_period and row.state == "active":
        row.current_period_end = period_end(plan.billing_period, row.anchor, now)
    row.plan = plan


def _change_trial(row: SubscriptionRow, trial_days: int, now: datetime) -> None:
    if row.state != "trialing":
        if trial_days:
            raise ConflictError("trial_days: the subscription is active already, so there is nothing to try")
        return
    if trial_days:
        row.trial_end = (row.trial_start or now) + timedelta(days=trial_days)
        row.current_period_end = row.trial_end
        return
    # Converted: the first paid period begins here, and billing cycles count from it.
    row.state, row.trial_end = "active", now
    row.anchor = row.current_period_start = now
    row.current_period_end = period_end(row.plan.billing_period, now, now)


def _change_renewal(row: SubscriptionRow, now: datetime, *, renews: bool) -> None:
    if row.auto_renew and not renews:
        # While it renews, the stored end is the first period's.
        _, row.current_period_end = running_period(row, now)
    row.auto_renew = renews


def _change_add_ons(session: Session, row: SubscriptionRow, wanted: dict[str, int]) -> None:
    held = {entry.add_on.code: entry for entry in row.add_ons}
    for code, quantity in wanted.items():
        if code in held:
            held[code].quantity = quantity
    kept = [entry for code, entry in held.items() if code in wanted]
    new = {code: quantity for code, quantity in wanted.items() if code not in held}
    row.add_ons = kept + _add_ons(session, new)


def _add_ons(session: Session, wanted: dict[str, int]) -> list[SubscriptionAddOnRow]:
    return [
        SubscriptionAddOnRow(add_on=active_add_on(session, code), quantity=quantity)
        for code, quantity in sorted(wanted.items())
    ]


def _require_end(row: SubscriptionRow) -> None:
    if not row.auto_renew and row.current_period_end is None:
        raise InvalidInputError.of("auto_renew", f"plan {row.plan.code!r} has no period that could end")


def _end_of_period(row: SubscriptionRow, now: datetime) -> datetime:
    # Not the stored end: the renewal that moves it may be late.
    end = row.trial_end if row.state == "trialing" else period_end(row.plan.billing_period, row.anchor, now)
    if end is None:
        raise InvalidInputError.of(
            "at_period_end", f"plan {row.plan.code!r} has no billing period: cancel without it"
        )
    return end
