"""Modes of limits: which one a feature has, and where one that is not said comes from."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Limit, LimitMode
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind
from entitlement_sidecar.domain.lease import OnHolderLoss
from entitlement_sidecar.domain.modes import mode_of, on_loss_of, optimistic_bound
from entitlement_sidecar.domain.resolve import Resolution, resolve
from entitlement_sidecar.domain.snapshot import Grant, GrantEffect
from entitlement_sidecar.domain.window import WindowUnit
from entitlement_sidecar.testing.builders import BEGINNING, limit, metered, plan_grant, snapshot

STRICT, LEASED, LOCAL_DENY, OPTIMISTIC = LimitMode
FORFEIT, RECLAIM = OnHolderLoss
NOW = BEGINNING + timedelta(days=40)


def saying(
    mode: LimitMode | None = None, loss: OnHolderLoss | None = None, *, soft: bool = False, **more: Any
) -> Limit:
    """A limit per month, if nothing else is said."""
    return msgspec.structs.replace(limit(10, soft=soft, **more), mode=mode, on_holder_loss=loss)


def override(effect: GrantEffect, *limits: Limit) -> Grant:
    """What an override grants of calls."""
    return Grant("calls", Provenance(ProvenanceKind.OVERRIDE, "o1"), effect=effect, limits=limits)


def resolved(*grants: Grant) -> Resolution:
    """What a tenant has of calls."""
    return resolve(snapshot("acme", *grants), metered("calls"), NOW)


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ([], LEASED),
        ([None], LEASED),
        ([OPTIMISTIC], OPTIMISTIC),
        ([OPTIMISTIC, None], LEASED),
        ([LEASED, LOCAL_DENY], LOCAL_DENY),
        ([LOCAL_DENY, STRICT, OPTIMISTIC], STRICT),
    ],
)
def test_the_strictest_mode_counts(modes: list[LimitMode | None], expected: LimitMode) -> None:
    """A lease holds of every limit at once, so the feature has one mode; what says none is leased."""
    assert mode_of([saying(mode) for mode in modes]) is expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([], FORFEIT),
        ([saying()], FORFEIT),
        ([saying(soft=True)], RECLAIM),
        ([saying(soft=True), saying()], FORFEIT),
        ([saying(loss=RECLAIM)], RECLAIM),
        ([saying(loss=FORFEIT, soft=True)], FORFEIT),
        ([saying(loss=RECLAIM), saying(soft=True)], RECLAIM),
    ],
)
def test_what_is_lost_is_forfeited_unless_every_limit_reclaims(
    limits: list[Limit], expected: OnHolderLoss
) -> None:
    """By default soft limits do, and hard ones do not."""
    assert on_loss_of(limits) is expected


@pytest.mark.parametrize(("amounts", "bound"), [([1000], 10), ([1000, 250], 2), ([99], 0), ([0], 0), ([], 0)])
def test_an_optimistic_limit_is_passed_by_a_hundredth(amounts: list[int], bound: int) -> None:
    """Of the smallest: before so much is admitted unseen, the authority is asked. Below 100 it always is."""
    assert optimistic_bound([limit(amount, soft=True) for amount in amounts]) == bound


def test_what_adds_to_a_limit_has_its_mode() -> None:
    """An add-on that says nothing changes nothing; of two that say something the stricter counts."""
    strict, more = plan_grant("calls", saying(STRICT, RECLAIM)), plan_grant("calls", saying())
    assert resolved(strict, more).limits == (msgspec.structs.replace(saying(STRICT, RECLAIM), amount=20),)

    other = plan_grant("calls", saying(LEASED, FORFEIT))

    (both,) = resolved(strict, other).limits
    assert (both.mode, both.on_holder_loss) == (STRICT, FORFEIT)


@pytest.mark.parametrize("unit", [WindowUnit.MONTH, WindowUnit.DAY])
def test_an_override_that_says_none_has_the_mode_of_what_it_replaces(unit: WindowUnit) -> None:
    """Whoever raises an amount, or counts it by another window, does not mean to loosen how it is kept."""
    plan = plan_grant("calls", saying(STRICT, RECLAIM))

    (found,) = resolved(plan, override(GrantEffect.SET, saying(unit=unit))).limits

    assert (found.window.unit, found.mode, found.on_holder_loss) == (unit, STRICT, RECLAIM)


def test_an_override_names_another_mode() -> None:
    """Also one that is less strict."""
    plan = plan_grant("calls", saying(STRICT, RECLAIM))
    (found,) = resolved(plan, override(GrantEffect.SET, saying(LEASED, FORFEIT))).limits
    assert (found.mode, found.on_holder_loss) == (LEASED, FORFEIT)


def test_a_hard_limit_inherits_nothing_of_a_soft_one() -> None:
    """It may not be passed, so it cannot be optimistic; the default is its own."""
    plan = plan_grant("calls", saying(OPTIMISTIC, RECLAIM, soft=True))
    (hard,) = resolved(plan, override(GrantEffect.SET, saying())).limits
    assert (hard.mode, hard.on_holder_loss) == (None, None)
    (soft,) = resolved(plan, override(GrantEffect.SET, saying(soft=True))).limits
    assert soft.mode is OPTIMISTIC
