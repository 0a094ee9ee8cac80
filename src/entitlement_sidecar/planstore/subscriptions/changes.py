"""The life of a subscription: create, change, activate, renew, suspend, resume, cancel (S1.5, S4.4).

Each change runs in the caller's transaction, holds the tenant's row, settles what time has changed, and ends
with a version of the subscription, a line of its history, an audit entry and a new snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol

import msgspec
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_modified
from uuid6 import uuid7

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.planstore.audit import SYSTEM, acting
from entitlement_sidecar.planstore.catalogue import find_plan
from entitlement_sidecar.planstore.db import OrganizationRow, PlanRow, SubscriptionRow
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.planstore.subscriptions.history import content_of, remember
from entitlement_sidecar.planstore.subscriptions.lifecycle import Action, require_legal
from entitlement_sidecar.planstore.subscriptions.periods import period_end, running_period, settles_at
from entitlement_sidecar.planstore.subscriptions.queries import (
    find_organization,
    latest_subscription,
    open_subscriptions,
)
from entitlement_sidecar.planstore.subscriptions.settling import begin_paying, settle
from entitlement_sidecar.planstore.subscriptions.terms import (
    SubscriptionRequest,
    add_ons_of,
    change,
    end_of_period,
    require_end,
    require_version,
)

DEFAULT_GRACE_DAYS = 3
"""How long a failed payment takes nothing away (DESIGN 5: 72 h)."""

MAX_GRACE_DAYS = 365


class SnapshotWriter(Protocol):
    """Makes what a tenant has known."""

    def write(self, session: Session, tenant_id: str) -> int:
        """Compiles, signs and stores the tenant's next snapshot in the caller's transaction.

        The caller holds the tenant's row. Returns the snapshot's version.
        """
        ...


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Which subscription is meant, and in which version.

    `product` may be left out while the tenant has one subscription. `expected_version` as in a
    `SubscriptionRequest`.
    """

    tenant_id: str
    product: str | None = None
    expected_version: int | None = None


class SubscriptionChange(msgspec.Struct, frozen=True):
    """What a change led to: the row, and the snapshot version that carries it."""

    row: SubscriptionRow
    snapshot_version: int
    created: bool = False
    changed: bool = True


_Edit = Callable[[SubscriptionRow, datetime], None]


class Subscriptions:
    """Changes subscriptions. Where something is so already, nothing is changed and no version is made.

    Every change of one that there is raises NotFoundError where there is none, IllegalTransitionError where
    its status does not allow it, and StaleVersionError where it is not at the expected version.
    """

    def __init__(self, snapshots: SnapshotWriter, clock: Clock) -> None:
        self._snapshots = snapshots
        self._clock = clock

    def upsert(self, session: Session, tenant_id: str, request: SubscriptionRequest) -> SubscriptionChange:
        """Creates the tenant's subscription to a product, or changes the one that it has (S4.4).

        A tenant that is not known yet is created with it.

        Raises:
            StaleVersionError: `expected_version` is not the current one.
            NotFoundError: No such plan or add-on.
            InvalidInputError: A value is out of range.
            ConflictError: The status does not allow it, or a trial is asked for on one that is active.
        """
        request.validate()
        now = self._clock.now()
        organization = hold_organization(session, tenant_id, now)
        held = open_subscriptions(session, tenant_id)
        row, product = next((one for one in held if one.plan.code == request.plan), None), None
        if row is None:
            product = find_plan(session, request.plan).product
            row = next((one for one in held if one.product == product), None)
        version = _settled(session, row, now)
        if row is None or not row.open:
            over = latest_subscription(session, tenant_id, product) if row is None else None
            if over is None or over.version != request.expected_version:
                # Who has seen the end of the one before may name that, or that there is none.
                require_version(0, request.expected_version)
            return self._create(session, tenant_id, request, now)
        require_version(version, request.expected_version)
        require_legal(row, tenant_id, Action.CHANGE, now)
        editing = partial(_changed_to, session, request)
        return self._edit(session, row, organization, ("changed", editing), now)

    def activate(self, session: Session, target: Target) -> SubscriptionChange:
        """Begins to charge for a trial, or ends the grace of one that has been paid after all."""
        return self._change(session, target, Action.ACTIVATE, "activated", _activate)

    def renew(self, session: Session, target: Target) -> SubscriptionChange:
        """Adds a period to a fixed term; a payment that was due has arrived. Others renew by themselves."""
        return self._change(session, target, Action.RENEW, "renewed", _renew)

    def past_due(
        self, session: Session, target: Target, grace_days: int = DEFAULT_GRACE_DAYS
    ) -> SubscriptionChange:
        """A payment failed: nothing is taken away until the grace is over, and then everything."""
        if not 0 <= grace_days <= MAX_GRACE_DAYS:
            raise InvalidInputError.of("grace_days", f"expected 0 to {MAX_GRACE_DAYS}")
        editing = partial(_mark_past_due, timedelta(days=grace_days))
        return self._change(session, target, Action.PAST_DUE, "past_due", editing)

    def suspend(self, session: Session, target: Target) -> SubscriptionChange:
        """Takes everything away until it is resumed."""
        return self._change(session, target, Action.SUSPEND, "suspended", _suspend)

    def resume(self, session: Session, target: Target) -> SubscriptionChange:
        """Ends a suspension; where there is none, takes back a cancellation or plan that is scheduled.

        Who resumes what was suspended says nothing about a cancellation, which may be the customer's own.
        """
        return self._change(session, target, Action.RESUME, "resumed", _resume)

    def cancel(self, session: Session, target: Target, *, at_period_end: bool = False) -> SubscriptionChange:
        """Ends the subscription, now or with the period (or trial) that is running.

        Raises:
            InvalidInputError: The plan has no period to wait for.
        """
        if at_period_end:
            return self._change(session, target, Action.CANCEL, "cancellation_scheduled", _cancel_later)
        return self._change(session, target, Action.CANCEL, "cancelled", _cancel)

    def settle(self, session: Session, tenant_id: str) -> int:
        """Stores what time has made of the tenant's subscriptions; the number of steps that took.

        The caller holds the tenant's row. What sidecars know says the same already, so they get no snapshot.
        """
        now = self._clock.now()
        return sum(_settle(session, row, now) for row in open_subscriptions(session, tenant_id))

    def _change(
        self, session: Session, target: Target, action: Action, name: str, edit: _Edit
    ) -> SubscriptionChange:
        now = self._clock.now()
        find_organization(session, target.tenant_id)
        organization = hold_organization(session, target.tenant_id, now)
        row = _meant(open_subscriptions(session, target.tenant_id), target.product)
        version = _settled(session, row, now)
        require_version(version, target.expected_version)
        require_legal(row, target.tenant_id, action, now)
        return self._edit(session, row, organization, (name, edit), now)

    def _edit(
        self,
        session: Session,
        row: SubscriptionRow | None,
        organization: OrganizationRow,
        step: tuple[str, _Edit],
        now: datetime,
    ) -> SubscriptionChange:
        if row is None:
            raise TypeError("there is no subscription to edit")
        name, edit = step
        before = content_of(row)
        edit(row, now)
        if content_of(row) == before:
            return SubscriptionChange(row, organization.snapshot_version, changed=False)
        _store(session, row, name, before, now)
        return SubscriptionChange(row, self._snapshots.write(session, row.tenant_id))

    def _create(
        self, session: Session, tenant_id: str, request: SubscriptionRequest, now: datetime
    ) -> SubscriptionChange:
        row = _created(session, tenant_id, request, now)
        remember(session, row, "created", None, now)
        return SubscriptionChange(row, self._snapshots.write(session, tenant_id), created=True)


def hold_organization(session: Session, tenant_id: str, now: datetime) -> OrganizationRow:
    """The tenant's row, held until the transaction ends; created where it is missing."""
    missing = insert_for(session, OrganizationRow).values(
        tenant_id=tenant_id, snapshot_version=0, created_at=now
    )
    session.execute(missing.on_conflict_do_nothing())
    query = select(OrganizationRow).where(OrganizationRow.tenant_id == tenant_id).with_for_update()
    return session.scalars(query, execution_options={"populate_existing": True}).one()


def _meant(rows: list[SubscriptionRow], product: str | None) -> SubscriptionRow | None:
    if product is None and len(rows) > 1:
        named = ", ".join(sorted(row.product for row in rows))
        raise InvalidInputError.of(
            "product", f"the tenant has several subscriptions; expected one of {named}"
        )
    return next((row for row in rows if product in {None, row.product}), None)


def _settled(session: Session, row: SubscriptionRow | None, now: datetime) -> int:
    """Settles, and says the version before, which is what callers have seen."""
    if row is None:
        return 0
    version = row.version
    _settle(session, row, now)
    return version


def _settle(session: Session, row: SubscriptionRow, now: datetime) -> int:
    before, steps = content_of(row), 0
    with acting(SYSTEM):
        # Time did it, whoever came by.
        for name, at in settle(row, now):
            _store(session, row, name, before, at)
            before, steps = content_of(row), steps + 1
    _correct_due(session, row)
    return steps


def _correct_due(session: Session, row: SubscriptionRow) -> None:
    """When it is due next, of rows that say otherwise: those of an older version do not say it at all."""
    due = settles_at(row)
    if row.settle_at != due:
        # Not a change of the subscription, so not a version of it.
        statement = update(SubscriptionRow).where(SubscriptionRow.id == row.id).values(settle_at=due)
        session.execute(statement, execution_options={"synchronize_session": "evaluate"})


def _store(session: Session, row: SubscriptionRow, name: str, before: dict[str, Any], now: datetime) -> None:
    # Its version moves also where only its add-ons changed, within one tick of the clock.
    flag_modified(row, "updated_at")
    remember(session, row, name, before, now)


def _created(
    session: Session, tenant_id: str, request: SubscriptionRequest, now: datetime
) -> SubscriptionRow:
    if request.at_period_end:
        raise InvalidInputError.of("at_period_end", "there is no subscription yet whose period could end")
    plan = find_plan(session, request.plan)
    trial_days = request.trial_days
    if trial_days is None:
        # A plan's trial is for a tenant's first subscription: cancelling must not earn another one.
        trial_days = plan.trial_days if latest_subscription(session, tenant_id) is None else 0
    row = SubscriptionRow(
        id=f"sub_{uuid7().hex}",
        tenant_id=tenant_id,
        product=plan.product,
        plan=plan,
        open=True,
        auto_renew=True if request.auto_renew is None else request.auto_renew,
        created_at=now,
        updated_at=now,
        **_beginning(plan, now, trial_days),
    )
    row.add_ons = add_ons_of(session, request.add_ons or {})
    require_end(row)
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


def _changed_to(session: Session, request: SubscriptionRequest, row: SubscriptionRow, now: datetime) -> None:
    change(session, row, request, now)


def _activate(row: SubscriptionRow, now: datetime) -> None:
    if row.state == "trialing":
        begin_paying(row, now)
    elif row.state == "past_due":
        row.state, row.grace_until = "active", None


def _renew(row: SubscriptionRow, now: datetime) -> None:
    if row.state == "past_due":
        row.state, row.grace_until = "active", None
    elif not row.auto_renew and row.current_period_end is not None:
        row.current_period_end = period_end(row.plan.billing_period, row.anchor, row.current_period_end)
    row.current_period_start = running_period(row, now)[0]


def _mark_past_due(grace: timedelta, row: SubscriptionRow, now: datetime) -> None:
    if row.state != "past_due":
        row.state, row.grace_until = "past_due", now + grace


def _suspend(row: SubscriptionRow, now: datetime) -> None:
    row.suspended_at = row.suspended_at or now


def _resume(row: SubscriptionRow, _: datetime) -> None:
    if row.suspended_at is not None:
        row.suspended_at = None
    else:
        row.cancel_at = row.next_plan = row.next_plan_at = None


def _cancel(row: SubscriptionRow, now: datetime) -> None:
    row.state, row.open, row.cancel_at, row.suspended_at = "cancelled", False, now, None
    row.next_plan = row.next_plan_at = None


def _cancel_later(row: SubscriptionRow, now: datetime) -> None:
    row.cancel_at = end_of_period(row, now)
    row.next_plan = row.next_plan_at = None
