"""What a caller demands to know: waited for, and never answered with something older."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from entitlement_sidecar.domain.decision import CheckRequest, Degradation, Reason
from entitlement_sidecar.domain.errors import TooStaleError, VersionNotReachedError
from entitlement_sidecar.testing.builders import boolean, document, plan_grant, snapshot
from support.deciding import Deciding

CATALOGUE = document(boolean("sso"))
GRANTED = snapshot("acme", plan_grant("sso"))
LOOK = CheckRequest("acme", "sso")


@pytest.fixture
def site() -> Deciding:
    """A sidecar that holds acme, confirmed now."""
    site = Deciding(CATALOGUE)
    site.hold(GRANTED)
    return site


async def test_a_version_is_waited_for(site: Deciding) -> None:
    """An upgrade that is on its way is answered by, not denied before it arrives."""
    wanted = msgspec.structs.replace(LOOK, min_snapshot_version=2)
    waiting = asyncio.create_task(site.decide(wanted))
    while not site.planstore.asked:
        await asyncio.sleep(0)
    site.hold(msgspec.structs.replace(GRANTED, version=2, grants=()))
    decision = await waiting
    assert (decision.reason, decision.snapshot_version) == (Reason.NOT_IN_PLAN, 2)


async def test_a_version_that_does_not_come_is_said(site: Deciding) -> None:
    """With the version that is held; nothing older is answered as if it were."""
    with pytest.raises(VersionNotReachedError, match="version 1 is held") as caught:
        await site.decide(msgspec.structs.replace(LOOK, min_snapshot_version=2))
    assert caught.value.retry_after is not None


async def test_what_is_fresh_enough_is_answered_from_memory(site: Deciding) -> None:
    """Nobody is asked."""
    site.clock.advance(1)
    assert (await site.decide(msgspec.structs.replace(LOOK, max_staleness=2.0))).allowed
    assert site.planstore.asked == 0


async def test_a_fresher_answer_comes_from_the_source(site: Deciding) -> None:
    """Zero asks, and what the source says now is what is answered."""
    site.planstore.snapshots["acme"] = msgspec.structs.replace(GRANTED, version=2, grants=())
    decision = await site.decide(msgspec.structs.replace(LOOK, max_staleness=0.0))
    assert (decision.reason, decision.degradation) == (Reason.NOT_IN_PLAN, Degradation.NONE)
    assert site.planstore.asked == 1


async def test_an_old_answer_is_no_answer_to_who_demands_a_fresh_one(site: Deciding) -> None:
    """With the source away it is TOO_STALE; who demands nothing gets what is held, and is told its age."""
    site.planstore.away = True
    site.clock.advance(10)
    with pytest.raises(TooStaleError, match=r"confirmed 10\.0 s ago"):
        await site.decide(msgspec.structs.replace(LOOK, max_staleness=1.0))
    decision = await site.decide(LOOK)
    assert (decision.allowed, decision.degradation) == (True, Degradation.STALE)


@pytest.mark.parametrize("demand", [{"min_snapshot_version": 1}, {"max_staleness": 0.0}])
async def test_who_has_just_subscribed_is_not_locked_out(demand: dict[str, float]) -> None:
    """That a tenant was unknown a moment ago is no answer to who demands to know now."""
    site = Deciding(CATALOGUE)
    assert (await site.decide(LOOK)).reason is Reason.TENANT_UNKNOWN
    site.planstore.snapshots["acme"] = GRANTED
    assert (await site.decide(msgspec.structs.replace(LOOK, **demand))).allowed


async def test_without_any_catalogue_nothing_is_said_of_features() -> None:
    """What there is to sell is not known, so no feature is said not to exist."""
    site = Deciding()
    site.hold(GRANTED)
    site.planstore.away = True
    decision = await site.decide(LOOK)
    assert (decision.reason, decision.degradation) == (Reason.UNDETERMINED, Degradation.FAIL_CLOSED)
