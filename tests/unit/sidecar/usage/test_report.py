"""Judging reports: what is kept and as what, and what every refusal says."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification, Durability, Metric
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest
from entitlement_sidecar.domain.errors import InvalidInputError, OutboxFullError
from entitlement_sidecar.domain.registry import Emitter, Granularity, RuleCondition, RuleEffect, UsageRule
from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.identity import generated_event_id
from entitlement_sidecar.sidecar.usage.outbox import OutboxRecord
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from entitlement_sidecar.wire.codec import to_timestamp
from entitlement_sidecar.wire.v1 import usage_pb2
from support.usage import next_batch

CATALOGUE = CatalogueDocument(
    version=4,
    features={},
    metrics={
        "calls": Metric("calls", domain="api", unit="call"),
        "views": Metric(
            "views",
            domain="api",
            unit="view",
            classification=Classification.INFORMATIONAL,
            durability=Durability.BUFFERED,
        ),
    },
)


RULED = msgspec.structs.replace(
    CATALOGUE,
    version=5,
    metrics={
        **CATALOGUE.metrics,
        "pings": Metric("pings", domain="api", unit="ping", granularity=Granularity.ROLLUP),
    },
    emitters={"": Emitter(""), "crm": Emitter("crm", external=True)},
    rules=(
        UsageRule("failed-work", (RuleCondition("dimensions.status", ("failed",)),)),
        UsageRule("tests", (RuleCondition("dimensions.env", ("test-*",)),), RuleEffect.REFUSE),
    ),
)
"""The same with forbidden cases, and with emitters: whoever gives no name is trusted."""


class Outbox(MemoryOutbox):
    """Remembers how durably it was asked to keep, and what to sum up."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.asked: list[Durability] = []
        self.rolled_up: list[str] = []

    def append(self, records: Any, durability: Durability, **more: Any) -> Any:
        """Keeps records."""
        self.asked.append(durability)
        self.rolled_up += [record.event.metric for record in records if record.rollup]
        return super().append(records, durability, **more)

    async def events(self) -> list[UsageEvent]:
        """What is held."""
        batch = await next_batch(self, 1000, 1 << 20)
        return [] if batch is None else [one.event for one in batch.events]


@pytest.fixture
def clock() -> FakeClock:
    """The sidecar's clock."""
    return FakeClock()


@pytest.fixture
def outbox() -> Outbox:
    """Where events are kept."""
    return Outbox()


@pytest.fixture
def reporter(outbox: Outbox, clock: FakeClock) -> UsageReporter:
    """A reporter that holds the catalogue."""
    return UsageReporter(outbox, lambda: CATALOGUE, clock, "i-1")


def call(**more: Any) -> usage_pb2.UsageEvent:
    """A billable event as a service reports it."""
    fields = {"tenant_id": "acme", "metric": "calls", "value": 1, "correlation_id": "work"}
    return usage_pb2.UsageEvent(**{**fields, **more})


async def one(reporter: UsageReporter, event: usage_pb2.UsageEvent) -> UsageResult:
    """What became of one event."""
    [result] = await reporter.report([event])
    return result


async def test_the_sidecar_says_when_where_and_as_what(
    reporter: UsageReporter, outbox: Outbox, clock: FakeClock
) -> None:
    """What the caller wrote into the sidecar's fields counts for nothing, above all what spares quota."""
    forged = call(
        id="a",
        recorded_at=Timestamp(seconds=1),
        classification=3,
        schema_version=99,
        registry_version=99,
        recorded_by="me",
        feature="vip",
        lease_id="root:1",
        id_generated=True,
    )

    result = await one(reporter, forged)

    [event] = await outbox.events()
    assert result.outcome is UsageOutcome.ACCEPTED
    assert event.recorded_at == event.occurred_at == clock.now()
    assert (event.unit, event.classification) == ("call", Classification.BILLABLE)
    assert (event.schema_version, event.registry_version, event.recorded_by) == (1, 4, "i-1")
    assert (event.feature, event.lease_id, event.id_generated) == ("", "", False)


async def test_what_the_caller_says_is_kept(
    reporter: UsageReporter, outbox: Outbox, clock: FakeClock
) -> None:
    """Who, what, when and the attributes."""
    earlier = clock.now() - timedelta(hours=3)
    await one(
        reporter,
        call(
            id="a",
            value=7,
            unit="call",
            occurred_at=to_timestamp(earlier),
            actor_id="u1",
            emitter="gateway",
            subject="p1",
            dimensions={"region": "eu"},
        ),
    )

    [event] = await outbox.events()
    assert (event.value, event.occurred_at, event.correlation_id) == (7, earlier, "work")
    assert (event.actor_id, event.emitter, event.subject) == ("u1", "gateway", "p1")
    assert event.dimensions == {"region": "eu"}


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (call(tenant_id=""), "tenant_id"),
        (call(tenant_id="x" * 129), "tenant_id"),
        (call(tenant_id="a b"), "tenant_id"),
        (call(metric=""), "metric"),
        (call(value=-1), "value"),
        (call(value=2**53), "value"),
        (call(unit="call!"), "unit"),
        (call(metric="unheard-of", unit="x" * 257), "unit"),
        (call(metric="unheard-of", unit="nul\0"), "unit"),
        (call(correlation_id=""), "correlation_id"),
        (call(id="x" * 129), "id"),
        (call(id="nul\0"), "id"),
        (call(subject="two\nlines"), "subject"),
        (call(emitter="x" * 257), "emitter"),
        (call(occurred_at=Timestamp(seconds=-1)), "occurred_at"),
        (call(occurred_at=Timestamp(seconds=2**62)), "occurred_at"),
        (call(occurred_at=to_timestamp(datetime(2026, 1, 15, 13, tzinfo=UTC))), "occurred_at"),
        (call(dimensions={f"k{number}": "" for number in range(17)}), "dimensions"),
        (call(dimensions={"": "v"}), "dimensions"),
        (call(dimensions={"k": "x" * 257}), "dimensions['k']"),
    ],
)
async def test_malformed_events_are_refused_with_the_field(
    reporter: UsageReporter, outbox: Outbox, event: usage_pb2.UsageEvent, field: str
) -> None:
    """And with what would be right; neighbours are kept."""
    before, invalid, after = await reporter.report([call(id="before"), event, call(id="after")])

    assert before.outcome is after.outcome is UsageOutcome.ACCEPTED
    assert (invalid.outcome, invalid.retriable) == (UsageOutcome.INVALID, False)
    assert invalid.reason.startswith(f"{field}: ")
    assert invalid.reason.count("expected") + invalid.reason.count("required") == 1
    assert [kept.id for kept in await outbox.events()] == ["before", "after"]


async def test_an_unknown_metric_is_kept_for_ingest(reporter: UsageReporter, outbox: Outbox) -> None:
    """A newer catalogue may name it, so nobody has to send it again."""
    result = await one(reporter, call(id="a", metric="faxes"))

    [event] = await outbox.events()
    assert (result.outcome, result.retriable) == (UsageOutcome.UNKNOWN_METRIC, False)
    assert (result.rule, result.registry_version, result.classification) == (RuleName.METRIC, 4, None)
    assert "'faxes'" in result.reason
    assert (event.id, event.classification, event.rule) == ("a", None, "usage:metric")


async def test_outcomes_say_what_decided(reporter: UsageReporter) -> None:
    """By which version of the registry, and what counts as what: once, where it came before."""
    results = await reporter.report(
        [
            call(id="a"),
            call(id="a"),
            call(id="a", value=2),
            call(id="b", value=-1),
            call(metric="views", correlation_id=""),
        ]
    )

    told = [(one.outcome.name, one.rule, one.registry_version, one.classification) for one in results]
    assert told == [
        ("ACCEPTED", "", 4, Classification.BILLABLE),
        ("DUPLICATE", RuleName.IDENTITY, 4, None),
        ("CONFLICT", RuleName.IDENTITY, 4, None),
        ("INVALID", RuleName.MALFORMED, 4, None),
        ("ACCEPTED", "", 4, Classification.INFORMATIONAL),
    ]


async def test_declared_rules_classify_or_refuse(outbox: Outbox, clock: FakeClock) -> None:
    """What may not be billed is kept as such and says why; what a rule refuses is not kept."""
    reporter = UsageReporter(outbox, lambda: RULED, clock, "i-1")

    failed, test = await reporter.report(
        [call(id="a", dimensions={"status": "failed"}), call(id="b", dimensions={"env": "test-7"})]
    )

    [event] = await outbox.events()
    assert (failed.outcome, failed.rule) == (UsageOutcome.ACCEPTED, "failed-work")
    assert failed.classification is event.classification is Classification.NON_BILLABLE
    assert (event.id, event.rule) == ("a", "failed-work")
    assert (test.outcome, test.rule) == (UsageOutcome.INVALID, "tests")


async def test_what_its_emitter_may_not_report_is_kept_and_does_not_count(
    outbox: Outbox, clock: FakeClock
) -> None:
    """Neither to be sent again, nor lost: operators see it."""
    reporter = UsageReporter(outbox, lambda: RULED, clock, "i-1")

    result = await one(reporter, call(id="a", emitter="crm"))

    [event] = await outbox.events()
    assert (result.outcome, result.rule, result.retriable) == (
        UsageOutcome.QUARANTINED,
        RuleName.EMITTER,
        False,
    )
    assert (result.classification, event.classification) == (None, None)


async def test_a_newer_catalogue_judges_what_comes_after_it(outbox: Outbox, clock: FakeClock) -> None:
    """The registry is made anew when the document is another."""
    held = [CATALOGUE]
    reporter = UsageReporter(outbox, lambda: held[-1], clock, "i-1")
    before = await one(reporter, call(id="a", dimensions={"status": "failed"}))

    held.append(RULED)
    after = await one(reporter, call(id="b", dimensions={"status": "failed"}))

    assert (before.rule, before.registry_version) == ("", 4)
    assert (after.rule, after.registry_version) == ("failed-work", 5)


async def test_events_of_a_rollup_metric_are_summed_up(outbox: Outbox, clock: FakeClock) -> None:
    """Nobody has to correlate them, and those of other metrics stay what they are."""
    reporter = UsageReporter(outbox, lambda: RULED, clock, "i-1")

    await reporter.report([call(metric="pings", correlation_id=""), call(id="a")])

    assert outbox.rolled_up == ["pings"]


class Known:
    """A caller that may report about acme, as itself and as cart."""

    def refusal(self, tenant_id: str) -> str:
        """Why not about a tenant."""
        return "" if tenant_id == "acme" else f"not about {tenant_id}"

    def emitter(self, claimed: str) -> str:
        """In whose name."""
        if claimed not in {"", "checkout", "cart"}:
            raise InvalidInputError.of("emitter", f"not as {claimed}")
        return claimed or "checkout"


async def test_a_known_caller_reports_in_its_own_name(reporter: UsageReporter, outbox: Outbox) -> None:
    """Which stands where none is given; another's is refused, and so is another's tenant."""
    results = await reporter.report(
        [call(id="a"), call(id="b", emitter="cart"), call(emitter="crm"), call(tenant_id="globex")], Known()
    )

    assert [event.emitter for event in await outbox.events()] == ["checkout", "cart"]
    assert [(one.outcome.name, one.rule, one.reason) for one in results[2:]] == [
        ("INVALID", RuleName.EMITTER, "emitter: not as crm"),
        ("INVALID", RuleName.TENANT, "not about globex"),
    ]


async def test_without_a_catalogue_what_is_well_formed_is_kept(outbox: Outbox, clock: FakeClock) -> None:
    """Durably, for ingest to judge; what is malformed is refused all the same."""
    reporter = UsageReporter(outbox, lambda: CatalogueDocument(0, {}, {}), clock, "i-1")

    kept, refused = await reporter.report([call(id="a", metric="faxes", unit="page"), call(value=-1)])

    [event] = await outbox.events()
    assert (kept.outcome, refused.outcome) == (UsageOutcome.ACCEPTED, UsageOutcome.INVALID)
    assert (event.unit, event.classification, event.registry_version) == ("page", None, 0)
    assert outbox.asked == [Durability.DURABLE]


async def test_what_is_not_billable_needs_no_correlation(reporter: UsageReporter) -> None:
    """The registry says which."""
    assert (await one(reporter, call(metric="views", correlation_id=""))).outcome is UsageOutcome.ACCEPTED


async def test_attributes_of_a_consumption_count_zero(reporter: UsageReporter, outbox: Outbox) -> None:
    """The consumption was counted when it was allowed."""
    await one(reporter, call(value=5, consumption_id="c-1"))

    [event] = await outbox.events()
    assert (event.value, event.consumption_id) == (0, "c-1")


async def test_a_fact_without_an_id_gets_the_same_one_again(reporter: UsageReporter, outbox: Outbox) -> None:
    """Derived where the caller gave correlation and time, so that a retry is a duplicate."""
    stamp = to_timestamp(datetime(2026, 1, 15, 11, tzinfo=UTC))

    first = await one(reporter, call(occurred_at=stamp))
    again = await one(reporter, call(occurred_at=stamp))
    other = await one(reporter, call(occurred_at=stamp, subject="p2"))

    assert (first.outcome, again.outcome, other.outcome) == (
        UsageOutcome.ACCEPTED,
        UsageOutcome.DUPLICATE,
        UsageOutcome.ACCEPTED,
    )
    assert first.id == again.id != other.id
    assert not (await outbox.events())[0].id_generated


async def test_equal_facts_in_one_call_are_different_facts(reporter: UsageReporter) -> None:
    """Told apart by their ordinal, the same way when the call is repeated."""
    stamp = to_timestamp(datetime(2026, 1, 15, 11, tzinfo=UTC))
    events = [call(occurred_at=stamp), call(occurred_at=stamp), call(occurred_at=stamp)]

    first = await reporter.report(events)
    again = await reporter.report(events)

    assert len({result.id for result in first}) == 3
    assert [result.id for result in again] == [result.id for result in first]
    assert {result.outcome for result in again} == {UsageOutcome.DUPLICATE}


@pytest.mark.parametrize("event", [call(), call(metric="views", correlation_id="")])
async def test_other_events_get_an_id_that_says_it_is_no_use_to_retry(
    reporter: UsageReporter, outbox: Outbox, event: usage_pb2.UsageEvent
) -> None:
    """A UUIDv7 in the answer, flagged in the event."""
    first, second = await reporter.report([event, event])

    assert first.id != second.id
    assert uuid.UUID(first.id).version == 7
    assert all(kept.id_generated for kept in await outbox.events())


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_call_holds_one_to_a_thousand_events(reporter: UsageReporter, count: int) -> None:
    """Another number is an error of the call."""
    with pytest.raises(InvalidInputError, match="1 to 1000 events"):
        await reporter.report([call()] * count)


async def test_a_full_outbox_fails_the_call_as_a_whole(clock: FakeClock) -> None:
    """Whatever classes it mixes, nothing of it is kept: repeating it counts nothing twice."""
    outbox = Outbox(max_bytes=150)
    reporter = UsageReporter(outbox, lambda: CATALOGUE, clock, "i-1")

    with pytest.raises(OutboxFullError):
        await reporter.report([call(), call(metric="views"), call(subject="x" * 200)])

    assert not await outbox.events()


async def test_a_call_is_kept_as_its_strictest_metric_asks(reporter: UsageReporter, outbox: Outbox) -> None:
    """Buffered alone, durable with a durable neighbour; refused events have no say."""
    await reporter.report([call(metric="views"), call(value=-1)])
    await reporter.report([call(metric="views"), call()])

    assert outbox.asked == [Durability.BUFFERED, Durability.DURABLE]


async def test_the_event_of_a_consume(reporter: UsageReporter, clock: FakeClock) -> None:
    """Names what it was checked against and what paid for it, and is always correlated."""
    request = CheckRequest(
        "acme", "exports", CheckMode.CONSUME, 3, subject="u1", request_id="r1", dimensions={"size": "l"}
    )

    event = reporter.consume(request, CATALOGUE.metrics["calls"], "c-1", "root:9")
    anonymous = reporter.consume(CheckRequest("acme", "exports"), CATALOGUE.metrics["calls"], "g-1", "")

    assert (event.id, event.value, event.unit, event.metric) == ("c-1", 3, "call", "calls")
    assert (event.feature, event.lease_id, event.correlation_id) == ("exports", "root:9", "r1")
    assert (event.subject, event.dimensions, event.recorded_by) == ("u1", {"size": "l"}, "i-1")
    assert event.occurred_at == event.recorded_at == clock.now()
    assert (event.id_generated, anonymous.id_generated) == (False, True)
    assert anonymous.correlation_id == "g-1"
    assert OutboxRecord(event).consumption is None


async def test_a_consume_that_a_rule_is_about_is_kept_and_not_billed(
    outbox: Outbox, clock: FakeClock
) -> None:
    """Also where the rule refuses what is reported: it was allowed, so it has happened."""
    reporter = UsageReporter(outbox, lambda: RULED, clock, "i-1")
    request = CheckRequest("acme", "exports", CheckMode.CONSUME, 3, dimensions={"env": "test-1"})

    event = reporter.consume(request, RULED.metrics["calls"], "c-1", "root:9")

    assert (event.classification, event.rule) == (Classification.NON_BILLABLE, "tests")


def test_generated_ids_are_uuids_of_their_time() -> None:
    """Version 7: later ones sort behind, and no two are the same."""
    ids = [generated_event_id() for _ in range(1000)]

    assert len(set(ids)) == len(ids)
    assert {(uuid.UUID(one).version, uuid.UUID(one).variant) for one in ids} == {(7, uuid.RFC_4122)}
    assert ids[0][:13] <= ids[-1][:13]


async def test_checks_have_their_turn_while_a_large_report_is_judged(
    reporter: UsageReporter,
) -> None:
    """A thousand events are judged in stretches: nobody waits for the whole report."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    results = await reporter.report([call(id=f"e{number}") for number in range(1000)])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert len(results) == 1000
    assert turns >= 40
