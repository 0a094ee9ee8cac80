"""What is ready is answered, kept and counted as it would be the ordinary way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, note, settings
from hypothesis import strategies as st

from entitlement_sidecar.domain.break_glass import BreakGlass, BreakGlassAction
from entitlement_sidecar.domain.catalogue import (
    AfterStale,
    CatalogueDocument,
    Classification,
    Durability,
    Limit,
    OutagePolicy,
)
from entitlement_sidecar.domain.errors import OutboxFullError, SourceUnavailableError
from entitlement_sidecar.domain.registry import (
    Granularity,
    RuleCondition,
    RuleEffect,
    UsageRule,
    WhenFull,
)
from entitlement_sidecar.domain.snapshot import Phase, Snapshot, SubscriptionState
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import (
    BEGINNING,
    document,
    limit,
    metered,
    plan_grant,
    snapshot,
    subscription,
)
from entitlement_sidecar.wire.v1 import decision_pb2
from support.ready_twins import FEATURE, TENANT, Twin, counted, of_no_identity, without_ids

SIZE = 100
MONTH = WindowSpec(WindowUnit.MONTH)

LIMITS: dict[str, tuple[Limit, ...]] = {
    "one": (limit(SIZE),),
    "more": (limit(2 * SIZE),),
    "less": (limit(SIZE // 2),),
    "several": (limit(60, WindowUnit.DAY), limit(SIZE)),
    "soft": (limit(40, soft=True), limit(SIZE, WindowUnit.DAY)),
    "only soft": (limit(30, soft=True),),
    "carried": (Limit(SIZE, MONTH, carry_over_cap=20, before=SIZE),),
    "open": (limit(None), limit(SIZE, WindowUnit.HOUR)),
}

DAY = timedelta(days=1)
STALE_AT_ONCE = OutagePolicy(serve_stale_for=1.0, after_stale=AfterStale.DENY)
NOT_OF_BOTS = UsageRule(
    "bots", (RuleCondition("subject", ("bot*",)),), metrics=(FEATURE,), effect=RuleEffect.NON_BILLABLE
)


def held(clock: FakeClock, version: int, name: str) -> Snapshot:
    """What the tenant has, by a name of `LIMITS` or of something that denies or ends it."""
    grant = plan_grant(FEATURE, *LIMITS.get(name, LIMITS["one"]))
    match name:
        case "suspended":
            gone = subscription(Phase(SubscriptionState.SUSPENDED, BEGINNING))
            return snapshot(TENANT, grant, version=version, subscriptions=[gone])
        case "ends":
            grant = msgspec.structs.replace(grant, until=clock.now() + timedelta(days=7, seconds=5))
        case "ends at once":
            grant = msgspec.structs.replace(grant, until=clock.now() + timedelta(seconds=5))
        case "nothing":
            return snapshot(TENANT, version=version)
    return snapshot(TENANT, grant, version=version)


def catalogue(clock: FakeClock, version: int, name: str) -> CatalogueDocument:
    """The catalogue, changed in one way."""
    feature = metered(FEATURE)
    made = document(feature, version=version)
    metric, changed = made.metrics[FEATURE], {}
    match name:
        case "deprecated":
            feature = msgspec.structs.replace(feature, deprecated=True)
        case "stale at once":
            feature = msgspec.structs.replace(feature, outage=STALE_AT_ONCE)
        case "buffered":
            changed = {"durability": Durability.BUFFERED}
        case "rollup":
            changed = {"granularity": Granularity.ROLLUP}
        case "unmetered":
            changed = {"when_full": WhenFull.ALLOW_UNMETERED}
        case "not billable":
            changed = {"classification": Classification.NON_BILLABLE}
        case "rule":
            made = msgspec.structs.replace(made, rules=(NOT_OF_BOTS,))
        case "open" | "frozen":
            now = clock.now()
            opened = name == "open"
            entry = BreakGlass(
                "b1",
                BreakGlassAction.OPEN if opened else BreakGlassAction.FREEZE,
                now + timedelta(seconds=2),
                now + DAY,
                "fire",
                FEATURE if opened else "",
            )
            made = msgspec.structs.replace(made, break_glass=(entry,))
    metrics = {FEATURE: msgspec.structs.replace(metric, **changed)}
    return msgspec.structs.replace(made, features={FEATURE: feature}, metrics=metrics)


def use(quantity: int | None = 1, **more: Any) -> decision_pb2.CheckEntitlementRequest:
    """A CONSUME of so much."""
    message = decision_pb2.CheckEntitlementRequest(
        tenant_id=TENANT, feature=FEATURE, mode=decision_pb2.CHECK_MODE_CONSUME, **more
    )
    if quantity is not None:
        message.quantity = quantity
    return message


def look() -> decision_pb2.CheckEntitlementRequest:
    """A PEEK."""
    return decision_pb2.CheckEntitlementRequest(tenant_id=TENANT, feature=FEATURE)


class Pair:
    """Both twins; everything that one is told or asked, the other one is too."""

    def __init__(self, *, hidden: bool = False) -> None:
        clock = FakeClock()
        made = catalogue(clock, 1, "")
        self.ready = Twin(made, SIZE, ready=True, hidden=hidden)
        self.ordinary = Twin(made, SIZE, ready=False, hidden=hidden)
        self.twins = (self.ready, self.ordinary)
        self.counts = {twin: Counter[tuple[str, ...]]() for twin in self.twins}
        self._versions = count(1)
        self.hold("one")

    def hold(self, name: str) -> None:
        """A snapshot arrives."""
        version = next(self._versions)
        for twin in self.twins:
            one = held(twin.clock, version, name)
            hard = [each.amount for each in LIMITS.get(name, ()) if not each.soft and each.amount]
            twin.site.root.granted = max(twin.site.root.held, min(hard, default=SIZE))
            twin.hold(one)

    def catalogue(self, name: str) -> None:
        """A catalogue arrives."""
        version = next(self._versions) + 1
        for twin in self.twins:
            twin.catalogue(catalogue(twin.clock, version, name))

    async def each(self, do: Callable[[Twin], object]) -> None:
        """Something happens to both."""
        for twin in self.twins:
            do(twin)
            await twin.settled()

    async def ask(self, message: decision_pb2.CheckEntitlementRequest) -> list[decision_pb2.Decision | str]:
        """Both are asked, and answer alike."""
        answers = []
        for twin in self.twins:
            before = counted()
            answers.append(await twin.ask(message))
            await twin.settled()
            self.counts[twin] += counted() - before
        assert without_ids(answers[0]) == without_ids(answers[1])
        return answers

    def check(self) -> None:
        """All that they kept and counted is alike."""
        events = [[of_no_identity(one) for one in twin.outbox.events()] for twin in self.twins]
        assert events[0] == events[1]
        named = [one.id for one in self.ready.outbox.events()]
        assert len(named) == len(set(named))
        assert self.ready.accounts() == self.ordinary.accounts()
        assert self.counts[self.ready] == self.counts[self.ordinary]


DRAWN: dict[str, list[Any]] = {
    "use": [1, 1, 1, 1, 1, 1, 2, 3, 7, 12, None, 0, 2**40],
    "many": [2, 5, 10, 40],
    "subject": ["ada", "bot-1", "\n", "x" * 300],
    "correlation": ["c1", "\0", "y" * 256],
    "request": ["r1", "r2"],
    "odd": ["dimensions", "staleness", "version", "value", "peek"],
    "hold": [*LIMITS, "suspended", "ends", "ends at once", "nothing"],
    "catalogue": [
        "",
        "deprecated",
        "stale at once",
        "buffered",
        "rollup",
        "unmetered",
        "not billable",
        "rule",
        "open",
        "frozen",
    ],
    "time": [0.1, 0.9, 1.1, 2.0, 3.5, 12.0, 3600.0, 86400.0, 40 * 86400.0],
    "quiet": [0.5, 1.2, 2.5, 3.5],
    "jump": [-40 * 86400.0, -3600.0, -2.0, 3600.0],
    "others": [1, 10, 30],
    "unfollowed": [None],
    "broken": ["full", "away"],
    "permit": [True, False],
}
STEPS = st.sampled_from([*["use"] * 4, *DRAWN]).flatmap(
    lambda kind: st.tuples(st.just(kind), st.sampled_from(DRAWN[kind]))
)

ODD: dict[str, dict[str, Any]] = {
    "dimensions": {"dimensions": {"region": "eu"}},
    "staleness": {"max_staleness": {"seconds": 1}},
    "version": {"min_snapshot_version": 1},
    "value": {"requested_value_json": "1"},
}


def asked(kind: str, value: Any) -> list[decision_pb2.CheckEntitlementRequest]:
    """The calls that a step is; none where it is something else."""
    match kind:
        case "use":
            return [use(value)]
        case "many":
            return [use()] * value
        case "subject" | "correlation" | "request":
            field = {"correlation": "correlation_id", "request": "request_id"}.get(kind, kind)
            return [use(**{field: value})]
        case "odd":
            return [look() if value == "peek" else use(**ODD[value])]
    return []


async def step(pair: Pair, kind: str, value: Any) -> None:
    """One step for both."""
    for message in asked(kind, value):
        await pair.ask(message)
    match kind:
        case "hold":
            pair.hold(value)
        case "catalogue":
            pair.catalogue(value)
        case "others":
            await pair.each(lambda twin: twin.others_use(value))
        case "permit":
            await pair.each(lambda twin: twin.permit.change([TENANT] if value else ["other"]))
            await pair.ask(use())
            await pair.each(lambda twin: twin.permit.change(None))
        case "broken":
            await broken(pair, value)
        case _:
            await passing(pair, kind, value)


async def passing(pair: Pair, kind: str, value: Any) -> None:
    """Time passes, or the feed falls silent."""
    match kind:
        case "time":
            await pair.each(lambda twin: twin.clock.advance(value))
            await pair.each(Twin.beat)
        case "quiet":
            await pair.each(lambda twin: twin.clock.advance(value))
        case "jump":
            await pair.each(lambda twin: twin.clock.jump(value))
            await pair.each(Twin.beat)
        case "unfollowed":
            for twin in pair.twins:
                tenant = twin.store.get(TENANT)
                assert tenant is not None
                tenant.followed, tenant.confirmed_at = False, twin.clock.now()


async def broken(pair: Pair, how: str) -> None:
    """Nothing can be kept for a moment."""
    for twin in pair.twins:
        match how:
            case "full":
                twin.outbox._max_bytes = 0
            case _:
                twin.outbox.breaking = SourceUnavailableError("somebody else has the file")
    await pair.ask(use())
    for twin in pair.twins:
        twin.outbox.breaking = None
        twin.outbox._max_bytes = 1 << 30


@settings(max_examples=20, deadline=None)
@given(hidden=st.booleans(), steps=st.lists(STEPS, max_size=25))
@example(hidden=False, steps=[("many", 99), ("use", 1), ("use", 1)])
@example(hidden=False, steps=[("hold", "several"), ("many", 59), ("time", 86400.0), ("many", 30)])
@example(hidden=True, steps=[("hold", "soft"), ("many", 45), ("subject", "ada"), ("use", 2)])
@example(hidden=False, steps=[("hold", "ends"), ("time", 12.0), ("many", 5), ("jump", -3600.0), ("use", 1)])
@example(hidden=False, steps=[("catalogue", "stale at once"), ("many", 2), ("unfollowed", None), ("use", 1),
                              ("quiet", 1.2), ("use", 1)])  # fmt: skip
def test_what_is_ready_is_answered_as_ever(hidden: bool, steps: list[tuple[str, Any]]) -> None:
    """Given anything that may happen between calls, then nobody can tell what was ready from what was not."""

    async def story() -> None:
        note(f"{hidden=} {steps=}")
        pair = Pair(hidden=hidden)
        await pair.ask(use())
        for kind, value in steps:
            await step(pair, kind, value)
            pair.check()

    asyncio.run(story())


async def under_way(twin: Twin, *messages: decision_pb2.CheckEntitlementRequest) -> list[asyncio.Task[Any]]:
    """Calls of which nothing is committed yet."""
    twin.outbox.committing.clear()
    calls = [asyncio.ensure_future(twin.ask(message)) for message in messages]
    await twin.settled()
    return calls


async def committed(twin: Twin) -> None:
    """All that waits is committed."""
    twin.outbox.committing.set()
    await twin.settled()


async def made_ready(version: int = 1) -> Twin:
    """A sidecar whose next CONSUMEs are ready, and that holds enough for several."""
    clock = FakeClock()
    twin = Twin(catalogue(clock, version, ""), SIZE, ready=True)
    twin.hold(held(twin.clock, version, "one"))
    for _ in range(6):
        await twin.ask(use(2))
        await twin.settled()
    grip = twin.book.grip(TENANT, FEATURE)
    assert twin.taken
    assert grip is not None
    assert grip.left > 10
    return twin


def used(twin: Twin) -> list[tuple[int, int, int]]:
    """Of each lease: what was taken, what was kept, and what the journal says."""
    leases, journalled, _ = twin.accounts()
    return [(taken, kept, used) for (_, taken, kept), used in zip(leases, journalled, strict=True)]


@pytest.mark.parametrize("change", ["snapshot", "catalogue"])
async def test_nothing_is_ready_by_what_is_known_no_more(change: str) -> None:
    """Given a tenant suspended, or a break-glass, while a CONSUME is committed: none like it is ready."""
    twin = await made_ready()
    first = twin.taken
    [call] = await under_way(twin, use(request_id="the ordinary way"))
    if change == "snapshot":
        twin.hold(held(twin.clock, 2, "suspended"))
    else:
        twin.catalogue(catalogue(twin.clock, 2, "deprecated"))
    await committed(twin)
    assert (await call).allowed
    after = await twin.ask(use())
    assert isinstance(after, decision_pb2.Decision)
    assert (after.allowed, len(after.warnings)) == ((False, 0) if change == "snapshot" else (True, 1))
    assert twin.taken == first


@pytest.mark.parametrize("how", ["refusing", "breaking"])
async def test_what_cannot_be_kept_is_not_used(how: str) -> None:
    """Given an outbox that fails: nobody is told yes, tokens are left again, others wait a while."""
    twin = await made_ready()
    before, taken = used(twin), twin.taken
    setattr(twin.outbox, how, OutboxFullError("the disk is full", 1.0))
    answers = await asyncio.gather(*(twin.ask(use(quantity)) for quantity in (1, 2, 3)))
    assert all(isinstance(answer, str) and answer.startswith("OutboxFullError") for answer in answers)
    assert (used(twin), twin.taken) == (before, taken + 3)
    appends = twin.outbox.appends
    refused = await twin.ask(use())
    assert isinstance(refused, str)
    assert (twin.taken, twin.outbox.appends) == (taken + 3, appends)


async def test_who_leaves_has_consumed() -> None:
    """Given callers that leave while their events are committed, then these are kept and counted anyway."""
    twin = await made_ready()
    events, taken = len(twin.outbox.events()), twin.taken
    calls = await under_way(twin, *[use()] * 5)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await committed(twin)
    assert all(call.cancelled() for call in calls)
    assert (len(twin.outbox.events()), twin.taken) == (events + 5, taken + 5)
    [(taken, kept, journalled)] = used(twin)
    assert taken == kept == journalled


async def test_a_lease_goes_back_once_its_uses_are_committed() -> None:
    """Given consumptions under way when the book closes: the grantor is told of them, and not before."""
    twin = await made_ready()
    calls = await under_way(twin, *[use()] * 3)
    closing = asyncio.ensure_future(twin.book.close(60))
    await twin.settled()
    assert not closing.done()
    await committed(twin)
    await closing
    assert all(call.result().allowed for call in calls)
    assert twin.site.root.held == twin.site.root.used == sum(one.value for one in twin.outbox.events())


async def test_one_turn_is_one_append_and_its_answers_differ() -> None:
    """Given many calls at once: one append; what each answer tells as used is its own, as is its identity."""
    twin = await made_ready()
    appends = twin.outbox.appends
    answers = await asyncio.gather(*(twin.ask(use()) for _ in range(10)))
    assert all(isinstance(one, decision_pb2.Decision) and one.allowed for one in answers)
    assert len({one.used for one in answers}) == len({one.consumption_id for one in answers}) == 10
    assert twin.outbox.appends == appends + 1


async def test_a_duplicate_gives_its_tokens_back() -> None:
    """Given a CONSUME whose very event was queued before: its admission is not used, by book and journal."""
    twin = await made_ready()
    [first] = await under_way(twin, use(request_id="r", correlation_id="c"))
    await committed(twin)
    twin.outbox._consumptions.clear()
    before = used(twin)
    again = await twin.ask(use(request_id="r", correlation_id="c"))
    assert isinstance(again, decision_pb2.Decision)
    assert (again.allowed, again.consumption_id) == (True, first.result().consumption_id)
    assert used(twin) == before


async def test_a_look_between_leaves_it_ready() -> None:
    """Given looks that bring the same view again, then the CONSUME after each is ready still."""
    twin = await made_ready()
    await twin.ask(look())
    await twin.ask(use())
    taken = twin.taken
    # The clock stands still, so a look sees nothing else.
    for _ in range(3):
        await twin.ask(look())
        await twin.settled()
        await twin.ask(use())
        await twin.settled()
    assert twin.taken == taken + 3


async def test_a_batch_answers_from_what_is_ready() -> None:
    """Given a batch, then each of its CONSUMEs is answered as alone, ready or not."""
    twin = await made_ready()
    taken = twin.taken
    request = decision_pb2.BatchCheckEntitlementsRequest(checks=[use(), use(2), look(), use(0), use(500)])
    answer = twin.servicer.batch(request.SerializeToString())
    assert not isinstance(answer, bytes)
    results = decision_pb2.BatchCheckEntitlementsResponse.FromString(await answer).results
    assert [one.decision.allowed for one in results] == [True, True, True, True, False]
    assert twin.taken == taken + 2
