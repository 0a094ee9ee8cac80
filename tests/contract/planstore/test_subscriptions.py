"""The life of a subscription and what sidecars get to know of it, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind, Reason
from entitlement_sidecar.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StaleVersionError,
    TenantUnknownError,
)
from entitlement_sidecar.domain.resolve import resolve
from entitlement_sidecar.domain.snapshot import SubscriptionState
from entitlement_sidecar.planstore.catalogue import current_document
from entitlement_sidecar.planstore.subscriptions import Target, active_subscription, status_of


def _resolved(shop: Any, feature: str, at: datetime | None = None) -> Any:
    with shop.database.reading() as session:
        document = current_document(session)
    return resolve(shop.snapshot(), document.features[feature], at or shop.clock.now())


def _change(shop: Any, name: str, **wanted: Any) -> Any:
    with shop.database.writing() as session:
        return getattr(shop.subscriptions, name)(session, Target(tenant_id="acme"), **wanted)


def test_a_new_tenant_begins_at_version_one(shop: Any) -> None:
    """Creating a subscription creates the tenant, its snapshot and one entry to publish."""
    change = shop.subscribe()

    assert (change.created, change.snapshot_version, change.row.version) == (True, 1, 1)
    assert shop.snapshot().version == 1
    assert shop.outbox()[1:] == [("snapshot", "acme", 1)]


def test_grants_carry_where_they_come_from(shop: Any) -> None:
    """Plan and add-on grants add up, add-ons times their quantity; cycles count from the anchor."""
    shop.subscribe(add_ons={"more": 2})

    found = _resolved(shop, "calls")

    assert found.provenance == (
        Provenance(ProvenanceKind.PLAN, "basic@1"),
        Provenance(ProvenanceKind.ADD_ON, "more"),
    )
    assert {limit.key: limit.amount for limit in found.limits} == {
        "day": 11,
        "billing_cycle@2026-01-31T12:00:00Z": 50,
    }
    assert _resolved(shop, "sso").denied is None


def test_subscribers_stay_on_the_version_they_bought(shop: Any, catalogue_text: str) -> None:
    """A new plan version reaches who buys it or names it, nobody else (S1.2)."""
    shop.subscribe()
    shop.apply(catalogue_text.replace("amount: 5,", "amount: 6,"))

    same = shop.subscribe()
    moved = shop.subscribe(plan="basic@2")

    assert (same.changed, same.row.plan.version) == (False, 1)
    assert (moved.changed, moved.snapshot_version, moved.row.plan.version) == (True, 2, 2)


def test_asking_for_what_is_there_changes_nothing(shop: Any) -> None:
    """A repeated request bumps no version and publishes nothing."""
    first = shop.subscribe(add_ons={"more": 1})
    before = shop.outbox()

    again = shop.subscribe(add_ons={"more": 1})

    assert (again.created, again.changed) == (False, False)
    assert (again.snapshot_version, again.row.version) == (first.snapshot_version, first.row.version)
    assert shop.outbox() == before


def test_add_ons_change_with_their_subscription(shop: Any) -> None:
    """Add-ons are replaced as a whole, kept when not named, and move the subscription's version."""
    shop.subscribe(add_ons={"more": 1})

    more = shop.subscribe(add_ons={"more": 3})
    kept = shop.subscribe(plan="trial")
    none = shop.subscribe(plan="trial", add_ons={})

    assert [more.row.version, kept.row.version, none.row.version] == [2, 3, 4]
    assert [entry.quantity for entry in kept.row.add_ons] == [3]
    assert none.row.add_ons == []


def test_an_older_version_is_refused(shop: Any) -> None:
    """Optimistic locking: a change against what is no longer there leaves everything as it was (S4.4)."""
    shop.subscribe(expected_version=0)
    shop.subscribe(plan="free", expected_version=1)

    with pytest.raises(StaleVersionError, match="expected_version is 1, the subscription is at 2"):
        shop.subscribe(plan="basic", expected_version=1)
    with pytest.raises(StaleVersionError):
        shop.subscribe(plan="basic", expected_version=0)

    assert shop.snapshot().version == 2


def test_concurrent_changes_each_get_a_version(shop: Any) -> None:
    """Changes of one tenant at once take turns: versions are contiguous, the newest snapshot wins."""
    shop.subscribe()

    with ThreadPoolExecutor(8) as pool:
        changes = list(pool.map(lambda quantity: shop.subscribe(add_ons={"more": quantity}), range(1, 17)))

    assert sorted(change.snapshot_version for change in changes) == list(range(2, 18))
    assert shop.snapshot().version == 17


def test_first_subscriptions_at_once_create_one(shop: Any) -> None:
    """Two first requests of one tenant at once make one subscription."""
    with ThreadPoolExecutor(4) as pool:
        changes = list(pool.map(lambda _: shop.subscribe(), range(4)))

    assert sum(change.created for change in changes) == 1
    assert len({change.row.id for change in changes}) == 1


def test_a_suspension_takes_everything_and_gives_it_back(shop: Any) -> None:
    """Suspended, nothing is granted; resumed, all of it is (S1.5)."""
    shop.subscribe()

    _change(shop, "suspend")
    suspended = _resolved(shop, "packs").denied
    with pytest.raises(ConflictError, match="resume it first"):
        shop.subscribe(plan="free")
    resumed = _change(shop, "resume")

    assert suspended is Reason.SUBSCRIPTION_SUSPENDED
    assert _resolved(shop, "packs").denied is None
    assert resumed.snapshot_version == 3
    assert not _change(shop, "resume").changed


def test_a_cancellation_ends_now_or_with_the_period(shop: Any) -> None:
    """At period end it stays until then and may be taken back; at once it is gone."""
    shop.subscribe()
    end = datetime(2026, 2, 28, 12, tzinfo=UTC)

    later = _change(shop, "cancel", at_period_end=True)
    assert later.row.cancel_at == end
    assert _resolved(shop, "packs", end - timedelta(seconds=1)).denied is None
    assert _resolved(shop, "packs", end).denied is Reason.SUBSCRIPTION_ENDED

    _change(shop, "resume")
    assert _resolved(shop, "packs", end).denied is None

    _change(shop, "cancel")
    assert _resolved(shop, "packs").denied is Reason.SUBSCRIPTION_ENDED
    with pytest.raises(NotFoundError, match="create one"):
        _change(shop, "resume")


def test_after_the_end_a_new_one_is_created(shop: Any) -> None:
    """Whoever comes back gets a new subscription, and no second trial of the plan's own."""
    first = shop.subscribe(plan="trial")
    cancelled = _change(shop, "cancel")

    second = shop.subscribe(plan="trial")

    assert second.created
    assert second.row.id != first.row.id
    assert (cancelled.row.state, second.row.state) == ("cancelled", "active")
    assert _resolved(shop, "sso").denied is None


def test_a_trial_ends_on_time_unless_converted(shop: Any) -> None:
    """The snapshot itself carries the trial's end; converting makes it open-ended."""
    shop.subscribe(plan="trial")
    end = shop.clock.now() + timedelta(days=14)
    assert _resolved(shop, "sso").provenance == (Provenance(ProvenanceKind.TRIAL, "trial@1"),)
    assert _resolved(shop, "sso", end).denied is Reason.SUBSCRIPTION_ENDED

    shop.clock.advance(3600)
    converted = shop.subscribe(plan="trial", trial_days=0)

    assert _resolved(shop, "sso", end).denied is None
    assert converted.row.current_period_end == shop.clock.now().replace(year=2027)


def test_renewing_is_open_ended_and_a_fixed_term_is_not(shop: Any) -> None:
    """A late renewal locks nobody out; a fixed term ends with its period."""
    shop.subscribe()
    beyond = shop.clock.now() + timedelta(days=365)
    assert _resolved(shop, "packs", beyond).denied is None

    shop.subscribe(auto_renew=False)

    assert _resolved(shop, "packs", beyond).denied is Reason.SUBSCRIPTION_ENDED


def test_a_sidecar_whose_clock_is_behind_does_not_lock_out_who_just_paid(shop: Any) -> None:
    """A subscription is in force some minutes early for clocks that are behind."""
    shop.subscribe()

    assert _resolved(shop, "packs", shop.clock.now() - timedelta(minutes=4)).denied is None


def test_active_subscription_is_the_latest_live_one(shop: Any) -> None:
    """It is there while active or trialing, and gone when suspended, ended or expired (S4.2)."""
    shop.subscribe(plan="trial")

    def active() -> str | None:
        with shop.database.reading() as session:
            row = active_subscription(session, "acme", shop.clock.now())
            return None if row is None else f"{row.plan.code} {status_of(row, shop.clock.now())}"

    assert active() == "trial trialing"
    _change(shop, "suspend")
    assert active() is None
    _change(shop, "resume")
    shop.clock.advance(14 * 86400)
    assert active() is None


def test_a_subscription_to_nothing_known_is_refused(shop: Any) -> None:
    """Unknown plans and add-ons are named together with what is for sale; nothing is created."""
    with pytest.raises(NotFoundError, match="no plan 'gold'; for sale: basic, free, trial"):
        shop.subscribe(plan="gold")
    with pytest.raises(NotFoundError, match="no add-on 'less'; for sale: more"):
        shop.subscribe(add_ons={"less": 1})
    with pytest.raises(TenantUnknownError):
        _change(shop, "suspend")

    assert shop.outbox() == [("catalogue", "", 1)]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"trial_days": -1}, "trial_days"),
        ({"add_ons": {"more": 0}}, "add_ons.more"),
        ({"plan": "free", "auto_renew": False}, "auto_renew"),
    ],
)
def test_values_out_of_range_name_their_field(shop: Any, wanted: dict[str, Any], field: str) -> None:
    """What cannot be is refused with the field and what would be right."""
    with pytest.raises(InvalidInputError) as caught:
        shop.subscribe(**wanted)

    assert caught.value.violations[0].field == field


def test_phases_are_ordered_and_disjoint(shop: Any) -> None:
    """A trial is followed by its end, without a gap."""
    shop.subscribe(plan="trial")

    first, second = shop.snapshot().subscriptions[0].phases

    assert (first.state, second.state) == (SubscriptionState.TRIALING, SubscriptionState.ENDED)
    assert first.until == second.since
