"""A CONSUME: counted once, kept before it is answered, replayed whatever has happened since."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import (
    CatalogueDocument,
    Feature,
    FeatureKind,
    OutagePolicy,
    WhenUnknown,
)
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Degradation, Reason
from entitlement_sidecar.domain.errors import IdempotencyConflictError, InvalidInputError, OutboxFullError
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution, resolve
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.testing.builders import boolean, document, limit, metered, plan_grant, snapshot
from support.deciding import Authority, Deciding
from support.usage import next_batch

OFFLINE = OutagePolicy(
    when_unknown=WhenUnknown.ALLOWANCE, allowance=3, allowance_window=WindowSpec(WindowUnit.HOUR)
)


def catalogue() -> CatalogueDocument:
    """One feature of each way to be counted, and one that is not."""
    desks = Feature("desks", FeatureKind.SEATS)
    spare = msgspec.structs.replace(metered("spare"), outage=OFFLINE)
    return document(boolean("sso"), metered("calls"), spare, desks)


def held(amount: int = 10) -> Snapshot:
    """Acme has all of them."""
    return snapshot(
        "acme",
        plan_grant("sso"),
        plan_grant("calls", limit(amount)),
        plan_grant("spare", limit(amount)),
        plan_grant("desks", limit(1, WindowUnit.LIFETIME)),
        version=amount,
    )


def use(feature: str, quantity: int = 1, request_id: str = "r1", subject: str = "") -> CheckRequest:
    return CheckRequest(
        "acme", feature, CheckMode.CONSUME, quantity=quantity, request_id=request_id, subject=subject
    )


@pytest.fixture
def site() -> Deciding:
    """A sidecar that holds acme."""
    site = Deciding(catalogue())
    site.hold(held())
    return site


@pytest.mark.parametrize("since", ["ended", "lowered", "away"])
async def test_a_repeated_consume_gets_its_first_answer(site: Deciding, since: str) -> None:
    """Also after the limit was lowered, the tenant has gone, or nobody can be asked."""
    first = await site.decide(use("calls", 5))
    match since:
        case "ended":
            site.hold(msgspec.structs.replace(held(), version=11, subscriptions=(), grants=()))
        case "lowered":
            site.hold(msgspec.structs.replace(held(3), version=11))
        case _:
            site.authority.away = site.planstore.away = True
            site.clock.advance(3600)
    assert await site.decide(use("calls", 5)) == first
    assert site.authority.consumed == 1
    with pytest.raises(IdempotencyConflictError):
        await site.decide(use("calls", 500))


async def test_who_leaves_leaves_nothing_admitted_and_not_kept() -> None:
    """A caller that gives up while the authority admits: the event is kept all the same."""
    site = Deciding(catalogue())
    site.hold(held())
    admitting, answered = asyncio.Event(), asyncio.Event()

    class Slow(Authority):
        async def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:  # type: ignore[override]
            usage = self.counting.consume(tenant_id, ask, request_id)
            admitting.set()
            await answered.wait()
            return usage

    site.decisions._authority = Slow(site.clock)
    caller = asyncio.create_task(site.decide(use("calls")))
    await admitting.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    answered.set()
    await site.decisions.finish()
    assert (await site.outbox.stats()).accepted == 1


async def test_a_seat_is_no_usage_event(site: Deciding) -> None:
    """Who holds one is the authority's to know; the same subject again takes no other seat."""
    for _ in range(2):
        assert (
            await site.decide(use("desks", 5, request_id="", subject="ada"))
        ).reason is Reason.WITHIN_LIMIT
    assert (await site.decide(use("desks", request_id="", subject="bob"))).reason is Reason.SEATS_EXHAUSTED
    assert (await site.outbox.stats()).accepted == 0
    with pytest.raises(InvalidInputError, match="subject"):
        await site.decide(use("desks", request_id=""))


async def test_a_consume_of_a_boolean_is_a_look(site: Deciding) -> None:
    """Nothing is used of it."""
    decision = await site.decide(use("sso"))
    assert (decision.reason, decision.consumption_id) == (Reason.ENABLED, "")


async def test_an_offline_allowance_is_counted_and_kept(site: Deciding) -> None:
    """Three an hour by this sidecar alone; each is a usage event, without an admission."""
    site.authority.away = True
    answers = [await site.decide(use("spare", request_id=f"r{n}")) for n in range(4)]
    assert [one.degradation for one in answers] == [
        *[Degradation.OFFLINE_ALLOWANCE] * 3,
        Degradation.FAIL_CLOSED,
    ]
    assert [one.remaining for one in answers] == [2, 1, 0, 0]
    assert (await site.outbox.stats()).accepted == 3
    looked = await site.decide(CheckRequest("acme", "spare"))
    assert (looked.allowed, looked.reason, looked.used) == (False, Reason.UNDETERMINED, 3)

    site.clock.advance(3600)
    assert (await site.decide(use("spare", request_id="later"))).allowed


async def test_an_atomic_batch_may_live_on_its_allowance(site: Deciding) -> None:
    """With nobody to ask: within the allowance all is consumed, beyond it nothing is."""
    site.authority.away = True
    beyond = await site.atomic.check([use("spare", 2, "a"), use("spare", 2, "b")])
    assert (beyond.consumed, (await site.outbox.stats()).accepted) == (False, 0)
    within = await site.atomic.check([use("spare", 1, "a"), use("spare", 2, "b")])
    assert (within.consumed, (await site.outbox.stats()).accepted) == (True, 2)
    assert [one.degradation for one in within.decisions] == [Degradation.OFFLINE_ALLOWANCE] * 2
    # One allowance for all that this sidecar is asked.
    assert not (await site.decide(use("spare", 1, "c"))).allowed


async def test_a_full_outbox_admits_nothing(site: Deciding) -> None:
    """What could not be kept is refused before it is counted."""
    site.outbox._max_bytes = 0
    with pytest.raises(OutboxFullError):
        await site.decide(use("calls", 5))
    with pytest.raises(OutboxFullError):
        await site.atomic.check([use("calls", 5)])
    assert site.authority.consumed == 0
    assert (await site.decide(CheckRequest("acme", "calls"))).used == 0


async def test_a_look_in_an_atomic_batch_takes_nothing(site: Deciding) -> None:
    """It is answered, counts to whether all are allowed, and two of them are no conflict."""
    looks = [CheckRequest("acme", "calls"), CheckRequest("acme", "spare")]
    outcome = await site.atomic.check([*looks, use("calls", 4)])
    assert (outcome.consumed, [one.used for one in outcome.decisions]) == (True, [0, 0, 4])
    outcome = await site.atomic.check([CheckRequest("acme", "calls", quantity=7), use("spare", 1, "r2")])
    assert (outcome.consumed, outcome.decisions[0].reason) == (False, Reason.QUOTA_EXCEEDED)
    assert (await site.decide(CheckRequest("acme", "spare"))).used == 0


async def test_a_conflict_in_an_atomic_batch_leaves_nothing_counted(site: Deciding) -> None:
    """Of the authority that counts in memory too."""
    site.authority.counting.consume("acme", QuotaAsk(*_asked(site, "spare", 1)), "c-known")
    asks = [QuotaAsk(*_asked(site, "calls", 3)), QuotaAsk(*_asked(site, "spare", 2))]
    with pytest.raises(IdempotencyConflictError):
        site.authority.consume_all("acme", list(zip(asks, ["new", "c-known"], strict=True)))
    assert (await site.decide(CheckRequest("acme", "calls"))).used == 0


def _asked(site: Deciding, feature: str, quantity: int) -> tuple[Feature, int, Resolution]:
    known = site.store.catalogue.features[feature]
    return known, quantity, resolve(held(), known, site.clock.now())


async def test_one_request_id_is_not_one_seat(site: Deciding) -> None:
    """Another subject under the same id takes a seat of its own, or gets none."""
    assert (await site.decide(use("desks", request_id="r", subject="ada"))).allowed
    assert not (await site.decide(use("desks", request_id="r", subject="bob"))).allowed


async def test_usage_of_an_allowance_names_no_admission(site: Deciding) -> None:
    """So that the ledger counts it against the limit when it arrives."""
    site.authority.away = True
    await site.decide(use("spare", request_id="alone"))
    await site.atomic.check([use("spare", 1, "together")])
    batch = await next_batch(site.outbox, 10, 1 << 20)
    assert batch is not None
    assert [one.event.lease_id for one in batch.events] == ["", ""]


async def test_a_refused_atomic_batch_costs_no_allowance(site: Deciding) -> None:
    """Also where everything has to live on its allowance."""
    site.authority.away = True
    for _ in range(3):
        refused = await site.atomic.check([use("spare", 1, "a"), use("calls", 1, "b")])
        assert not refused.consumed
    assert (await site.decide(CheckRequest("acme", "spare"))).used == 0
