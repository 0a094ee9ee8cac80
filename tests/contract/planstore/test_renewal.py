"""Subscriptions that renewed: what period they are in, and how they end with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entitlement_sidecar.planstore.subscriptions import Target, status_of
from support.shop import AUTHORISED

DAY = 86_400.0
IN_APRIL = 75 * DAY
"""Seconds from the shop's 31 January 12:00 to 16 April 12:00."""


def view(shop: Any) -> Any:
    """The subscription as REST shows it."""
    return shop.rest.get("/api/billing/organizations/acme/subscription").json()


def test_whoever_ends_renewal_keeps_what_is_paid_for(shop: Any) -> None:
    """In the third period: it ends with that one, not with the first one long ago."""
    shop.subscribe()
    shop.clock.advance(IN_APRIL)

    change = shop.subscribe(auto_renew=False)

    end = datetime(2026, 4, 30, 12, tzinfo=UTC)
    assert change.row.current_period_end == end
    assert [status_of(change.row, at) for at in (shop.clock.now(), end)] == ["active", "ended"]
    assert shop.snapshot().subscriptions[0].phases[0].until == end
    assert not shop.subscribe(auto_renew=False).changed


def test_a_fixed_term_is_not_prolonged_by_asking_again(shop: Any) -> None:
    """The end stays where it was, and renewing takes it away."""
    shop.subscribe(auto_renew=False)
    shop.clock.advance(10 * DAY)

    again = shop.subscribe(auto_renew=False)
    renewing = shop.subscribe(auto_renew=True)

    assert again.row.current_period_end == datetime(2026, 2, 28, 12, tzinfo=UTC)
    assert status_of(renewing.row, datetime(2027, 1, 1, tzinfo=UTC)) == "active"


def test_ending_renewal_in_a_trial_ends_it_with_the_trial(shop: Any) -> None:
    """A trial has one end of its own."""
    begun = shop.clock.now()
    shop.subscribe(plan="trial")

    assert shop.subscribe(plan="trial", auto_renew=False).row.current_period_end == begun + timedelta(days=14)


@pytest.mark.parametrize("change", [None, {"auto_renew": False}])
def test_the_running_period_is_shown(shop: Any, change: dict[str, Any] | None) -> None:
    """REST shows the period of now, also of a subscription that nobody touched since it was made."""
    shop.subscribe()
    shop.clock.advance(IN_APRIL)
    if change:
        shop.subscribe(**change)

    shown = view(shop)

    assert (shown["current_period_start"], shown["current_period_end"]) == (
        "2026-03-31T12:00:00Z",
        "2026-04-30T12:00:00Z",
    )


def test_the_last_period_is_shown_after_the_end(shop: Any) -> None:
    """What ended is shown in the period in which it ended."""
    shop.subscribe()
    shop.clock.advance(IN_APRIL)
    with shop.database.writing() as session:
        shop.subscriptions.cancel(session, Target(tenant_id="acme"))
    shop.clock.advance(IN_APRIL)

    assert view(shop)["current_period_end"] == "2026-04-30T12:00:00Z"


@pytest.mark.parametrize("plan", ["free", "trial"])
def test_what_has_no_period_of_its_own_is_shown_as_it_is(shop: Any, plan: str) -> None:
    """A plan without periods has no end, and a trial's is its own."""
    made = shop.subscribe(plan=plan).row

    shown = view(shop)["current_period_end"]

    assert (shown and datetime.fromisoformat(shown)) == made.current_period_end


def test_resuming_leaves_a_cancellation_alone(shop: Any) -> None:
    """What the customer cancelled and someone suspended: resuming ends the suspension, once more the rest."""
    shop.subscribe()
    with shop.database.writing() as session:
        end = shop.subscriptions.cancel(session, Target(tenant_id="acme"), at_period_end=True).row.cancel_at
        shop.subscriptions.suspend(session, Target(tenant_id="acme"))

        resumed = shop.subscriptions.resume(session, Target(tenant_id="acme")).row
        assert (resumed.suspended_at, resumed.cancel_at) == (None, end)
        taken_back = shop.subscriptions.resume(session, Target(tenant_id="acme")).row

    assert taken_back.cancel_at is None


@pytest.mark.parametrize("days", [5, 30])
def test_what_is_cancelled_with_its_trial_ends_with_it(shop: Any, days: int) -> None:
    """Also where the trial is made longer or shorter afterwards."""
    begun = shop.clock.now()
    shop.subscribe(plan="trial")
    with shop.database.writing() as session:
        shop.subscriptions.cancel(session, Target(tenant_id="acme"), at_period_end=True)

    row = shop.subscribe(plan="trial", trial_days=days).row

    assert row.cancel_at == row.trial_end == begun + timedelta(days=days)


def test_who_pays_early_has_the_whole_period(shop: Any) -> None:
    """A trial that was cancelled and is paid after all ends with the period that was paid."""
    shop.subscribe(plan="trial")
    with shop.database.writing() as session:
        shop.subscriptions.cancel(session, Target(tenant_id="acme"), at_period_end=True)
        row = shop.subscriptions.activate(session, Target(tenant_id="acme")).row

    assert row.cancel_at == row.current_period_end == datetime(2027, 1, 31, 12, tzinfo=UTC)


def test_a_trial_becomes_the_plan_that_is_tried(shop: Any) -> None:
    """Asked for by its code: it goes on as paid when the trial ends, and asking again changes nothing."""
    shop.subscribe(plan="trial")

    asked = shop.subscribe(plan="trial", at_period_end=True)

    assert asked.changed
    assert not shop.subscribe(plan="trial", at_period_end=True).changed
    shop.clock.advance(15 * DAY)
    assert view(shop)["status"] == "active"
    with shop.database.writing() as session:
        assert shop.subscriptions.settle(session, "acme") == 1
    assert view(shop)["plan"] == "trial"


def test_who_comes_back_names_what_was_seen(shop: Any) -> None:
    """The version of the subscription that is over, or 0 for none; anything else is stale."""
    path = "/api/billing/organizations/acme/subscription"
    shop.subscribe()
    gone = shop.rest.post(f"{path}/cancel")
    tag = shop.rest.get(path).headers["etag"]

    stale = shop.rest.post(path, json={"plan": "basic", "expected_version": gone.json()["version"] + 1})
    back = shop.rest.request("POST", path, json={"plan": "basic"}, headers={**AUTHORISED, "If-Match": tag})

    assert (stale.status_code, back.status_code) == (409, 201), back.text
    again = shop.rest.post(path, json={"plan": "free", "expected_version": 0})
    assert again.status_code == 409


def test_a_change_of_what_time_has_just_ended_creates_nothing(shop: Any) -> None:
    """Who has seen it live and names that version meant to change it, not to buy another one."""
    path = "/api/billing/organizations/acme/subscription"
    made = shop.subscribe(auto_renew=False)
    shop.clock.advance(40 * DAY)

    answer = shop.rest.post(path, json={"plan": "basic", "expected_version": made.row.version})

    assert answer.status_code == 409
    assert view(shop)["status"] == "ended"
