"""A full outbox: each metric says what becomes of its usage."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import (
    CatalogueDocument,
    Classification,
    Feature,
    FeatureKind,
    Metric,
)
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, DecisionWarning, Reason, WarningKind
from entitlement_sidecar.domain.errors import OutboxFullError
from entitlement_sidecar.domain.registry import WhenFull
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.domain.window import WindowUnit
from entitlement_sidecar.sidecar.usage.outbox import USUAL_BYTES
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.testing.builders import boolean, document, limit, metered, plan_grant, snapshot
from support.deciding import Deciding

POLICIES = {"strict": WhenFull.REFUSE, "patient": WhenFull.BLOCK, "open": WhenFull.ALLOW_UNMETERED}


def catalogue() -> CatalogueDocument:
    """A metered feature of each policy, named after its metric, and a few that are not metered."""
    found = document(boolean("sso"), Feature("desks", FeatureKind.SEATS), *(metered(key) for key in POLICIES))
    known = {key: Metric(key, "tests", "call", when_full=policy) for key, policy in POLICIES.items()}
    return msgspec.structs.replace(found, metrics={**found.metrics, **known})


def held() -> Snapshot:
    """Acme has ten of each."""
    grants = [plan_grant(key, limit(10)) for key in POLICIES]
    return snapshot("acme", plan_grant("sso"), plan_grant("desks", limit(1, WindowUnit.LIFETIME)), *grants)


def use(feature: str, quantity: int = 1, request_id: str = "r1", subject: str = "") -> CheckRequest:
    return CheckRequest(
        "acme", feature, CheckMode.CONSUME, quantity=quantity, request_id=request_id, subject=subject
    )


@pytest.fixture
def site() -> Deciding:
    """A sidecar that holds acme, and whose outbox is full."""
    site = Deciding(catalogue())
    site.hold(held())
    site.outbox._max_bytes = 0
    return site


def make_room(site: Deciding) -> None:
    site.outbox._max_bytes = 1 << 30


def unmetered() -> float:
    """How many consumptions were allowed without a record so far."""
    return metrics.usage_unmetered.labels("open")._value.get()


async def used(site: Deciding, feature: str) -> int | None:
    """What the authority has counted."""
    return (await site.decide(CheckRequest("acme", feature))).used


async def test_usage_that_is_refused(site: Deciding) -> None:
    """At once, and nothing is counted."""
    with pytest.raises(OutboxFullError):
        await site.decide(use("strict"))
    assert await used(site, "strict") == 0


async def test_usage_that_waits_gets_its_room(site: Deciding) -> None:
    """As soon as something was shipped."""
    waiting = asyncio.create_task(site.decide(use("patient")))
    while not site.decisions._finishing:
        await asyncio.sleep(0)
    make_room(site)
    decision = await waiting
    assert (decision.allowed, decision.warnings) == (True, ())
    assert (await site.outbox.stats()).accepted == 1


async def test_usage_that_waits_in_vain(site: Deciding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused after its time."""
    monkeypatch.setattr("entitlement_sidecar.sidecar.usage.when_full.BLOCK_WITHIN", 0.01)
    with pytest.raises(OutboxFullError):
        await site.decide(use("patient"))
    assert await used(site, "patient") == 0


async def test_usage_that_goes_unmetered(site: Deciding) -> None:
    """It is allowed and says so; nobody counts or keeps it, and the same request id consumes later."""
    before = unmetered()
    decision = await site.decide(use("open", 3))

    assert (decision.allowed, decision.consumption_id) == (True, "")
    assert decision.warnings == (DecisionWarning(WarningKind.USAGE_UNMETERED, "open"),)
    assert unmetered() - before == 1
    assert (await used(site, "open"), (await site.outbox.stats()).accepted) == (0, 0)

    make_room(site)
    again = await site.decide(use("open", 3))
    assert (again.used, again.warnings, again.consumption_id != "") == (3, (), True)


async def test_a_limit_holds_without_a_record_too(site: Deciding) -> None:
    """As far as it is known: a full disk opens nothing that is used up."""
    before = unmetered()
    decision = await site.decide(use("open", 11))

    assert (decision.allowed, decision.reason) == (False, Reason.EXCEEDS_LIMIT)
    assert decision.warnings == ()
    assert unmetered() == before


async def test_a_disk_that_fails_at_the_last_moment(site: Deciding, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was admitted and cannot be written goes unmetered too, where that is allowed."""

    async def roomy(events: int, *, billable: bool = True) -> None:
        del events, billable

    monkeypatch.setattr(site.outbox, "require_room", roomy)

    decision = await site.decide(use("open"))

    assert (decision.allowed, decision.consumption_id) == (True, "")
    assert decision.warnings[-1].kind is WarningKind.USAGE_UNMETERED
    for number in range(3):
        with pytest.raises(OutboxFullError, match="full or failing"):
            await site.decide(use("strict", request_id=f"r{number}"))
    # From then on it is known, for a while: what cannot be kept is not admitted.
    assert (await used(site, "strict"), await used(site, "open")) == (0, 1)


async def test_looks_and_seats_need_no_room(site: Deciding) -> None:
    """Nothing of them is recorded."""
    assert (await site.decide(use("sso"))).allowed
    assert (await site.decide(use("desks", subject="ada"))).allowed
    assert (await site.decide(CheckRequest("acme", "strict"))).allowed


async def test_an_atomic_batch_goes_unmetered_as_a_whole(site: Deciding) -> None:
    """Each of its uses says so; one that is denied leaves nothing consumed."""
    before = unmetered()
    outcome = await site.atomic.check([use("open", 2, "a"), CheckRequest("acme", "sso"), use("open", 3, "b")])
    assert outcome.consumed
    assert [len(one.warnings) for one in outcome.decisions] == [1, 0, 1]
    assert unmetered() - before == 2

    outcome = await site.atomic.check([use("open", 2, "a"), use("open", 11, "b")])
    assert (outcome.consumed, [one.allowed for one in outcome.decisions]) == (False, [True, False])
    assert unmetered() - before == 2
    assert await used(site, "open") == 0


@pytest.mark.parametrize("other", [use("strict", request_id="b"), use("desks", subject="ada")])
async def test_an_atomic_batch_that_may_not_go_unmetered(site: Deciding, other: CheckRequest) -> None:
    """One use that must be recorded, or a seat, which somebody has to have: all is refused."""
    with pytest.raises(OutboxFullError):
        await site.atomic.check([use("open", request_id="a"), other])
    assert await used(site, "desks") == 0


async def test_the_last_part_of_the_room_is_for_billable_usage(site: Deciding) -> None:
    """A consumption of another class is refused earlier."""
    free = Metric("strict", "tests", "call", classification=Classification.INFORMATIONAL)
    site.store.put_catalogue(
        msgspec.structs.replace(catalogue(), version=2, metrics={**catalogue().metrics, "strict": free})
    )
    site.outbox._max_bytes = int(USUAL_BYTES / 0.9)

    with pytest.raises(OutboxFullError, match="rest is for billable"):
        await site.decide(use("strict"))
    assert (await site.decide(use("patient"))).consumption_id
