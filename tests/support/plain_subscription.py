"""A subscription as plainly as it can be written: time is walked through, event by event."""

from __future__ import annotations

import calendar
import copy
from dataclasses import dataclass
from datetime import datetime, timedelta

VALUES = {"m2": 2, "m5": 5, "y7": 7, "free": 1}
"""What a plan grants of the feature."""

MONTHS = {"m2": 1, "m5": 1, "y7": 12, "free": 0}
"""How long its periods are."""


class IllegalError(Exception):
    """The status does not allow it."""


class RefusedError(Exception):
    """It makes no sense for this subscription."""


def later(anchor: datetime, months: int) -> datetime:
    """So many months after the anchor, on its day or the month's last."""
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    day = min(anchor.day, calendar.monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)


@dataclass
class PlainSubscription:
    """One subscription; `end` is when its fixed term ends."""

    plan: str
    anchor: datetime
    renews: bool
    trial_end: datetime | None = None
    state: str = "active"
    suspended: bool = False
    end: datetime | None = None
    cancel_at: datetime | None = None
    grace_until: datetime | None = None
    next_plan: str = ""
    next_at: datetime | None = None

    @classmethod
    def begun(cls, plan: str, now: datetime, trial_days: int, *, renews: bool) -> PlainSubscription:
        """A new one."""
        one = cls(plan, now, renews)
        one.require_period(plan)
        if trial_days:
            one.state, one.trial_end = "trialing", now + timedelta(days=trial_days)
        elif not renews:
            one.end = one.period_end(now)
        return one

    def require_period(self, plan: str) -> None:
        """What does not renew ends with a period."""
        if not self.renews and not MONTHS[plan]:
            raise RefusedError

    def period_end(self, now: datetime, plan: str = "") -> datetime | None:
        """The end of the period that holds an instant."""
        months = MONTHS[plan or self.plan]
        if not months:
            return None
        count = 1
        while later(self.anchor, months * count) <= now:
            count += 1
        return later(self.anchor, months * count)

    def walked_to(self, now: datetime) -> PlainSubscription:
        """What it will be then when nobody touches it."""
        future = copy.copy(self)
        future.walk(now)
        return future

    def walk(self, now: datetime) -> None:
        """Lets time pass."""
        while self.state not in {"ended", "cancelled"}:
            ends = [self.cancel_at, self.end if self.state != "trialing" and not self.renews else None]
            events = [*ends, self.trial_end if self.state == "trialing" else None, self.next_at]
            due = min((event for event in events if event is not None), default=None)
            if due is None or due > now:
                return
            self._happen(due, ends=due in ends)

    def _happen(self, due: datetime, *, ends: bool) -> None:
        if ends or (self.state == "trialing" and not self.next_plan):
            self.state = "ended"
        elif self.state == "trialing":
            self.begin_paying(due)
        else:
            self.plan, self.next_plan, self.next_at = self.next_plan, "", None

    def begin_paying(self, at: datetime) -> None:
        """The trial is over."""
        self.plan, self.next_plan, self.next_at = self.next_plan or self.plan, "", None
        self.state, self.anchor = "active", at
        self.end = None if self.renews else self.period_end(at)
        if self.cancel_at is not None and self.cancel_at == self.trial_end:
            self.cancel_at = self.period_end(at) or self.cancel_at
        self.trial_end = at

    def status(self, now: datetime) -> str:
        """In words, after walking to the instant."""
        if self.state in {"ended", "cancelled"}:
            return self.state
        if self.suspended:
            return "suspended"
        if self.state == "past_due" and self.grace_until is not None and self.grace_until <= now:
            return "unpaid"
        return self.state

    def value(self, now: datetime) -> int | str:
        """What is granted, or why nothing is."""
        status = self.walked_to(now).status(now)
        if status in {"trialing", "active", "past_due"}:
            return VALUES[self.walked_to(now).plan]
        return "SUBSCRIPTION_SUSPENDED" if status in {"suspended", "unpaid"} else "SUBSCRIPTION_ENDED"

    # ---- what people do ------------------------------------------------------------------------------------

    def change(self, plan: str, now: datetime, *, at_period_end: bool) -> None:
        """Another plan."""
        self._allow(now, "trialing", "active")
        if plan == self.plan:
            if at_period_end and self.state == "trialing":
                self.require_period(plan)
                self._schedule(plan, now)
            return
        self.require_period(plan)
        if at_period_end:
            self._schedule(plan, now)
            return
        self.next_plan, self.next_at = "", None
        if self.state == "active" and MONTHS[plan] != MONTHS[self.plan] and not self.renews:
            self.end = self.period_end(now, plan)
        self.plan = plan

    def _schedule(self, plan: str, now: datetime) -> None:
        at = self.trial_end if self.state == "trialing" else self._running_end(now)
        ends = [self.cancel_at, None if self.renews or self.state == "trialing" else self.end]
        if at is None or any(end is not None and end <= at for end in ends):
            raise RefusedError
        self.next_plan, self.next_at = plan, at

    def _running_end(self, now: datetime) -> datetime | None:
        return self.period_end(now)

    def activate(self, now: datetime) -> None:
        """Paid."""
        self._allow(now, "trialing", "active", "past_due", "unpaid")
        if self.state == "trialing":
            self.begin_paying(now)
        self.state, self.grace_until = "active", None

    def renew(self, now: datetime) -> None:
        """Paid, for another period."""
        self._allow(now, "active", "past_due", "unpaid")
        if self.state == "past_due":
            self.state, self.grace_until = "active", None
        elif not self.renews and self.end is not None:
            self.end = self.period_end(self.end)

    def past_due(self, now: datetime, days: int) -> None:
        """Not paid."""
        self._allow(now, "active", "past_due")
        if self.state != "past_due":
            self.state, self.grace_until = "past_due", now + timedelta(days=days)

    def suspend(self, now: datetime) -> None:
        """Taken away."""
        self._allow(now, "trialing", "active", "past_due", "suspended")
        self.suspended = True

    def resume(self, now: datetime) -> None:
        """Given back."""
        self._allow(now, "trialing", "active", "past_due", "suspended")
        if self.suspended:
            self.suspended = False
        else:
            self.cancel_at, self.next_plan, self.next_at = None, "", None

    def cancel(self, now: datetime) -> None:
        """Over."""
        self._allow(now, "trialing", "active", "past_due", "unpaid", "suspended")
        self.state = "cancelled"

    def cancel_later(self, now: datetime) -> None:
        """Over with its period."""
        self._allow(now, "trialing", "active", "past_due", "unpaid", "suspended")
        at = self.trial_end if self.state == "trialing" else self._running_end(now)
        if at is None:
            raise RefusedError
        self.cancel_at, self.next_plan, self.next_at = at, "", None

    def _allow(self, now: datetime, *statuses: str) -> None:
        if self.status(now) not in statuses:
            raise IllegalError
