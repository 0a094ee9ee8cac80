"""The life of a subscription against a plain model of it, on both databases (S1.5)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, func, select, text

from entitlement_sidecar.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    TenantUnknownError,
)
from entitlement_sidecar.domain.resolve import resolve
from entitlement_sidecar.planstore.catalogue import current_document
from entitlement_sidecar.planstore.db import Base, Database, SubscriptionHistoryRow, SubscriptionRow
from entitlement_sidecar.planstore.subscriptions import Target, latest_subscription, status_of
from entitlement_sidecar.planstore.subscriptions.settler import Settler
from support.plain_subscription import MONTHS, VALUES, IllegalError, PlainSubscription, RefusedError
from support.shop import Shop

_PERIODS = {0: "none", 1: "month", 12: "year"}

CATALOGUE = "catalogue: plain\nfeatures:\n  packs: {kind: config}\nplans:\n" + "".join(
    f"""  {plan}:
    price: {{amount: "1.00", currency: EUR}}
    billing_period: {_PERIODS[MONTHS[plan]]}
    entitlements:
      packs: {{value: {value}}}
"""
    for plan, value in VALUES.items()
)

PLANS = st.sampled_from(sorted(VALUES))
BEGINNINGS = st.tuples(PLANS, st.sampled_from([0, 10, 40]), st.booleans())
"""Plan, days of trial, whether it renews."""

_TARGET = Target(tenant_id="acme")


class Lifecycle(RuleBasedStateMachine):
    """One tenant, one subscription at a time, and a clock that only people move."""

    database: Database

    @initialize(first=BEGINNINGS)
    def open(self, first: tuple[str, int, bool]) -> None:
        """A plan store without tenants, and then one tenant."""
        empty(self.database)
        self.shop = Shop(self.database)
        self.shop.apply(CATALOGUE)
        self.plain: PlainSubscription | None = None
        self.versions = 0
        self._subscribe(*first)

    @property
    def now(self) -> datetime:
        """The instant."""
        return self.shop.clock.now()

    @property
    def live(self) -> PlainSubscription | None:
        """The model's subscription, unless it is over."""
        over = self.plain is None or self.plain.status(self.now) in {"ended", "cancelled"}
        return None if over else self.plain

    def _subscribe(self, plan: str, trial_days: int, renews: bool) -> None:
        """Subscribes; there is nothing that goes on."""
        wanted = {"plan": plan, "trial_days": trial_days, "auto_renew": renews}
        try:
            made = PlainSubscription.begun(plan, self.now, trial_days, renews=renews)
        except RefusedError:
            self._refused((InvalidInputError,), lambda: self.shop.subscribe(**wanted))
            return
        assert self.shop.subscribe(**wanted).created
        self.plain = made

    @rule(plan=PLANS, later=st.booleans(), again=BEGINNINGS)
    def change(self, plan: str, later: bool, again: tuple[str, int, bool]) -> None:
        """Another plan, now or later; another subscription, where there is none."""
        if self.live is None:
            self._subscribe(*again)
            return
        self._both(
            lambda one: one.change(plan, self.now, at_period_end=later),
            lambda: self.shop.subscribe(plan=plan, at_period_end=later),
        )

    @rule(action=st.sampled_from(["activate", "renew"]))
    def pay(self, action: str) -> None:
        """A payment arrives."""
        self._both(lambda one: getattr(one, action)(self.now), lambda: self._do(action))

    @rule(action=st.sampled_from(["suspend", "resume"]))
    def interrupt(self, action: str) -> None:
        """Taken away, given back."""
        self._both(lambda one: getattr(one, action)(self.now), lambda: self._do(action))

    @rule(sure=st.integers(0, 3))
    def cancel(self, sure: int) -> None:
        """At once; seldom, so that lives are long."""
        if not sure:
            self._both(lambda one: one.cancel(self.now), lambda: self._do("cancel"))

    @rule(days=st.sampled_from([0, 3, 45]))
    def fail_to_pay(self, days: int) -> None:
        """A payment fails."""
        self._both(lambda one: one.past_due(self.now, days), lambda: self._do("past_due", grace_days=days))

    @rule()
    def cancel_later(self) -> None:
        """With its period."""
        self._both(lambda one: one.cancel_later(self.now), lambda: self._do("cancel", at_period_end=True))

    @rule(hours=st.sampled_from([1, 24 * 3, 24 * 10, 24 * 31, 24 * 400]))
    def wait(self, hours: int) -> None:
        """Time passes, and nobody runs."""
        self.shop.clock.advance(hours * 3600.0)
        if self.plain is not None:
            self.plain.walk(self.now)

    @rule()
    def settle(self) -> None:
        """The worker runs: nothing that anyone sees may change."""
        before = self._snapshot_version()
        Settler(self.database, self.shop.subscriptions, self.shop.clock).settle_due()
        assert self._snapshot_version() == before
        with self.database.reading() as session:
            due = select(func.count()).where(SubscriptionRow.settle_at <= self.now)
            assert session.scalar(due) == 0

    @invariant()
    def says_what_the_model_says(self) -> None:
        """Status now, and what is granted now and at later instants, from the snapshot alone."""
        if self.plain is None:
            return
        with self.database.reading() as session:
            row = latest_subscription(session, "acme")
            features = current_document(session).features
        assert row is not None
        assert status_of(row, self.now) == self.plain.status(self.now)
        snapshot = self.shop.snapshot()
        for days in (0, 2, 5, 20, 35, 70, 200, 380, 800):
            at = self.now + timedelta(days=days)
            found = resolve(snapshot, features["packs"], at)
            told = found.value if found.denied is None else found.denied.name
            assert told == self.plain.value(at), f"{days} days later"

    @invariant()
    def every_version_is_in_the_history(self) -> None:
        """One line for each version, and none is lost."""
        with self.database.reading() as session:
            lines = session.scalar(select(func.count()).select_from(SubscriptionHistoryRow)) or 0
            versions = session.scalar(select(func.sum(SubscriptionRow.version))) or 0
        assert lines == versions
        assert lines >= self.versions
        self.versions = lines

    def _both(self, model: Callable[[PlainSubscription], object], real: Callable[[], object]) -> None:
        if self.live is None:
            self._refused((NotFoundError,) if self.plain else (TenantUnknownError,), real)
            self._subscribe("m2", 0, True)
            return
        tried = self.live.walked_to(self.now)
        try:
            model(tried)
        except IllegalError:
            self._refused((ConflictError,), real)
        except RefusedError:
            self._refused((ConflictError, InvalidInputError), real)
        else:
            real()
            self.plain = tried

    @staticmethod
    def _refused(kinds: tuple[type[Exception], ...], real: Callable[[], object]) -> None:
        try:
            real()
        except kinds:
            return
        raise AssertionError("it should have been refused")

    def _do(self, action: str, **more: Any) -> object:
        with self.database.writing() as session:
            return getattr(self.shop.subscriptions, action)(session, _TARGET, **more)

    def _snapshot_version(self) -> int:
        return self.shop.snapshot().version if self.plain is not None else 0


def empty(database: Database) -> None:
    """Takes everything away, also what the database itself refuses to delete."""
    tables = Base.metadata.sorted_tables
    with database.writing() as session:
        if not database.is_sqlite:
            session.execute(text(f"TRUNCATE {', '.join(table.name for table in tables)} CASCADE"))
            return
        names = session.scalars(text("SELECT sql FROM sqlite_master WHERE type = 'trigger'")).all()
        for name in session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            session.execute(text(f"DROP TRIGGER {name}"))
        for table in reversed(tables):
            session.execute(delete(table))
        for statement in names:
            session.execute(text(statement))


def test_every_life_is_as_the_model_has_it(database: Database) -> None:
    """Random lives: legal and illegal changes, time with and without the worker."""
    machine = type("Machine", (Lifecycle,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25 if database.is_sqlite else 12,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
