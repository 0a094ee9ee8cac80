"""What a subscription consists of, as it is asked for: plan, trial, renewal, add-ons."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.errors import ConflictError, InvalidInputError, StaleVersionError
from entitlement_sidecar.planstore.catalogue import active_add_on, find_plan
from entitlement_sidecar.planstore.db import PlanRow, SubscriptionAddOnRow, SubscriptionRow
from entitlement_sidecar.planstore.subscriptions.periods import period_end, running_period
from entitlement_sidecar.planstore.subscriptions.phases import ends_at
from entitlement_sidecar.planstore.subscriptions.settling import begin_paying

MAX_TRIAL_DAYS = 3650
"""Ten years: longer is a mistake."""

MAX_ADD_ON_QUANTITY = 1_000_000
"""How many times one add-on may be bought."""


class SubscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant should be subscribed to.

    Attributes:
        plan: `code`, or `code@version` for a certain version. The code of the plan that the tenant is on
            already keeps the version that was bought.
        trial_days: Days of trial; 0 is none and converts a running trial; None is the plan's own for a
            first subscription, and no change for an existing one.
        add_ons: All add-ons with their quantities; None keeps them.
        auto_renew: Whether it goes on after its period; None keeps it (new ones renew).
        at_period_end: The plan changes when the running period or trial ends; everything else at once. The
            plan that is tried is paid from then on.
        expected_version: The version that the caller has seen; 0 expects none. None does not ask.
    """

    plan: str
    trial_days: int | None = None
    add_ons: dict[str, int] | None = None
    auto_renew: bool | None = None
    at_period_end: bool = False
    expected_version: int | None = None

    def validate(self) -> None:
        """Refuses what no subscription can be.

        Raises:
            InvalidInputError: Names the field.
        """
        if self.trial_days is not None and not 0 <= self.trial_days <= MAX_TRIAL_DAYS:
            raise InvalidInputError.of("trial_days", f"expected 0 to {MAX_TRIAL_DAYS}")
        for code, quantity in (self.add_ons or {}).items():
            if not 1 <= quantity <= MAX_ADD_ON_QUANTITY:
                raise InvalidInputError.of(f"add_ons.{code}", f"expected 1 to {MAX_ADD_ON_QUANTITY}")


def require_version(found: int, expected: int | None) -> None:
    """Refuses a change of what has changed since the caller saw it (S4.4); 0 is what is not there.

    Raises:
        StaleVersionError: It is at another version.
    """
    if expected is not None and expected != found:
        raise StaleVersionError(
            f"expected_version is {expected}, the subscription is at {found}: read it again and retry", found
        )


def change(session: Session, row: SubscriptionRow, request: SubscriptionRequest, now: datetime) -> None:
    """Makes a subscription what is asked for; what is so already stays.

    Raises:
        NotFoundError: No such plan or add-on.
        InvalidInputError: The plan has no period that could end.
        ConflictError: A trial of what is active, or another plan for what is going to end.
    """
    _change_plan(session, row, request, now)
    if request.trial_days is not None:
        _change_trial(row, request.trial_days, now)
    if request.auto_renew is not None:
        _change_renewal(row, now, renews=request.auto_renew)
    if request.add_ons is not None:
        _change_add_ons(session, row, request.add_ons)
    require_end(row)


def _change_plan(session: Session, row: SubscriptionRow, request: SubscriptionRequest, now: datetime) -> None:
    if request.plan == row.plan.code:
        if request.at_period_end and row.state == "trialing":
            _schedule(row, row.plan, now)
        return
    plan = find_plan(session, request.plan)
    if plan.product != row.product:
        raise ConflictError(f"plan {plan.code!r} is of product {plan.product!r}, not {row.product!r}")
    if request.at_period_end:
        _schedule(row, plan, now)
        return
    if plan is row.plan:
        return
    row.next_plan, row.next_plan_at = None, None
    if plan.billing_period != row.plan.billing_period and row.state == "active":
        row.current_period_end = period_end(plan.billing_period, row.anchor, now)
    row.plan = plan


def _schedule(row: SubscriptionRow, plan: PlanRow, now: datetime) -> None:
    at = end_of_period(row, now)
    end = row.cancel_at if row.state == "trialing" else ends_at(row)
    if end is not None and end <= at:
        raise ConflictError(f"the subscription ends at {end:%Y-%m-%d %H:%M}: resume or renew it first")
    if row.next_plan is not plan or row.next_plan_at != at:
        row.next_plan, row.next_plan_at = plan, at


def _change_trial(row: SubscriptionRow, trial_days: int, now: datetime) -> None:
    if row.state != "trialing":
        if trial_days:
            raise ConflictError("trial_days: the subscription is active already, so there is nothing to try")
        return
    if not trial_days:
        begin_paying(row, now)
        return
    end = (row.trial_start or now) + timedelta(days=trial_days)
    if row.cancel_at == row.trial_end:
        # Cancelled with the trial, whenever that ends.
        row.cancel_at = end
    row.trial_end = end
    row.current_period_end = row.trial_end
    if row.next_plan is not None:
        row.next_plan_at = row.trial_end


def _change_renewal(row: SubscriptionRow, now: datetime, *, renews: bool) -> None:
    if row.auto_renew and not renews:
        # While it renews, the stored end may be that of a period long ago.
        _, row.current_period_end = running_period(row, now)
    row.auto_renew = renews


def _change_add_ons(session: Session, row: SubscriptionRow, wanted: dict[str, int]) -> None:
    held = {entry.add_on.code: entry for entry in row.add_ons}
    for code, quantity in wanted.items():
        if code in held:
            held[code].quantity = quantity
    kept = [entry for code, entry in held.items() if code in wanted]
    new = {code: quantity for code, quantity in wanted.items() if code not in held}
    row.add_ons = kept + add_ons_of(session, new)


def add_ons_of(session: Session, wanted: dict[str, int]) -> list[SubscriptionAddOnRow]:
    """Add-ons for sale, so many of each.

    Raises:
        NotFoundError: One is not for sale.
    """
    return [
        SubscriptionAddOnRow(add_on=active_add_on(session, code), quantity=quantity)
        for code, quantity in sorted(wanted.items())
    ]


def require_end(row: SubscriptionRow) -> None:
    """A fixed term needs a period that ends it, also after a trial.

    Raises:
        InvalidInputError: The plan has none, or the next one.
    """
    for plan in (row.plan, row.next_plan):
        if plan is not None and not row.auto_renew and plan.billing_period == "none":
            raise InvalidInputError.of("auto_renew", f"plan {plan.code!r} has no period that could end")


def end_of_period(row: SubscriptionRow, now: datetime) -> datetime:
    """When the running period, term or trial ends.

    Raises:
        InvalidInputError: The plan has no period.
    """
    # Not the stored end: the renewal that moves it may be late.
    end = row.trial_end if row.state == "trialing" else running_period(row, now)[1]
    if end is None:
        raise InvalidInputError.of(
            "at_period_end", f"plan {row.plan.code!r} has no billing period: leave it out"
        )
    return end
