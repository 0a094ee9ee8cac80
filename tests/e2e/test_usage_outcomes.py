"""What becomes of usage, case by case: through a sidecar and a plan store, by the shipped catalogue of sales.

Every case is a row of `docs/reference/usage-outcomes.md`: what callers are told is what they can look up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.catalogue import Classification
from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.planstore.db import (
    Database,
    UsageClassificationRow,
    UsageEventRow,
    UsageLedgerRow,
    UsageQuarantineRow,
    create_engine_for,
)
from entitlement_sidecar.wire.v1 import decision_pb2, usage_pb2
from support.outbox_books import dead, queued
from support.processes import Planstore, Sidecar
from support.waiting import until

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "examples" / "catalogues" / "sales-usage.yaml"
DOCUMENTED = ROOT / "docs" / "reference" / "usage-outcomes.md"

PATIENCE = 60.0
SIDECAR, PLAN_STORE = "sidecar", "plan store"
BILLABLE, NON_BILLABLE = Classification.BILLABLE, Classification.NON_BILLABLE


class Told(NamedTuple):
    """What an event came to."""

    outcome: UsageOutcome
    rule: str = ""
    classification: Classification | None = None

    @classmethod
    def of(cls, result: usage_pb2.UsageResult) -> Told:
        """What a sidecar said."""
        classification = Classification(result.classification) if result.classification else None
        return cls(UsageOutcome(result.outcome), result.rule, classification)


class Site:
    """A plan store and a sidecar of it; what is in the ledger is looked up in the database."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        url = f"sqlite:///{folder}/usage.db"
        self.store = Planstore(folder / "planstore", database=url)
        ending.callback(self.store.kill)
        self.store.start()
        self.store.apply(CATALOGUE)
        self.database = Database(create_engine_for(url))
        ending.callback(self.database.close)
        upstream = ("--planstore", f"127.0.0.1:{self.store.grpc_port}")
        token = ("--token-file", str(self.store.state / "token"))
        self.beside = Sidecar(folder / "sidecar", *upstream, *token)
        ending.callback(self.beside.kill)
        self.beside.start()
        self.store.subscribe("canary", "scale")
        until(lambda: self.beside.check("canary", "voice").allowed, "the catalogue to be held", PATIENCE)

    def report(self, *events: usage_pb2.UsageEvent) -> list[Told]:
        """Reports, and what the sidecar says; each of it is documented, and names the registry."""
        results = self.beside.report(events)
        assert {result.registry_version for result in results} == {1}
        told = [Told.of(result) for result in results]
        for one in told:
            assert_documented(one, SIDECAR)
        return told

    def stored(self, tenant: str, event_id: str = "") -> Told:
        """What an event has come to in the ledger, once it is there; without an id the tenant's only one."""
        row = until(lambda: self._event(tenant, event_id), f"{event_id} of {tenant} in the ledger", PATIENCE)
        with self.database.reading() as session:
            query = select(UsageClassificationRow).where(
                UsageClassificationRow.tenant_id == tenant, UsageClassificationRow.event_id == row.event_id
            )
            last = session.scalars(query.order_by(UsageClassificationRow.id.desc())).first()
        decided: Any = last or row
        outcome = UsageOutcome.LATE_ACCEPTED if decided.rule == RuleName.LATE else UsageOutcome.ACCEPTED
        told = Told(outcome, decided.rule, Classification(decided.classification))
        assert_documented(told, PLAN_STORE)
        return told

    def _event(self, tenant: str, event_id: str) -> UsageEventRow | None:
        query = select(UsageEventRow).where(UsageEventRow.tenant_id == tenant)
        with self.database.reading() as session:
            return session.scalars(
                query.where(UsageEventRow.event_id == event_id) if event_id else query
            ).first()

    def settled(self) -> None:
        """Waits until the sidecar has nothing left to ship."""
        until(lambda: queued(self.beside.state) == 0, "the outbox to be empty", PATIENCE)

    def books(self, tenant: str) -> dict[tuple[str, Classification], tuple[int, int]]:
        """What a tenant's aggregates say: value and number of events."""
        with self.database.reading() as session:
            rows = session.scalars(select(UsageLedgerRow).where(UsageLedgerRow.tenant_id == tenant)).all()
        return {
            (row.metric, Classification(row.classification)): (row.value, row.event_count)
            for row in rows
            if row.event_count
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Started once: each test has a tenant of its own."""
    with ExitStack() as ending:
        yield Site(tmp_path_factory.mktemp("site"), ending)


def assert_documented(told: Told, place: str) -> None:
    """Whether the page has a row of it."""
    rows = [
        [cell.strip().strip("`") for cell in line.split("|")[1:4]]
        for line in DOCUMENTED.read_text().splitlines()
        if line.startswith("| `")
    ]
    name = told.rule or "none"
    names = {name, "key of a rule"} if ":" not in name and told.rule else {name}
    assert [row for row in rows if row[0] == told.outcome.name and row[1] in names and place in row[2]], told


def event(tenant: str, metric: str, emitter: str, **more: Any) -> usage_pb2.UsageEvent:
    """An event that would count. `ago` is how long ago it happened."""
    ago: timedelta = more.pop("ago", timedelta())
    made = usage_pb2.UsageEvent(
        tenant_id=tenant, metric=metric, emitter=emitter, **{"value": 1, "correlation_id": "work-1", **more}
    )
    made.occurred_at.FromDatetime(datetime.now(UTC) - ago)
    return made


FORBIDDEN = {
    "lead.ingested": ("intake", "redelivered-lead", {"dimensions": {"delivery": "duplicate"}}),
    "lead.scored": ("pipeline", "repeated-scoring", {"dimensions": {"attempt": "retry"}}),
    "lead.routed": ("pipeline", "failed-routing", {"dimensions": {"status": "cancelled"}}),
    "sla.evaluated": ("sla-watch", "synthetic-evaluation", {"dimensions": {"source": "probe-7"}}),
    "escalation.raised": ("sla-watch", "internal-escalation", {"actor_id": "staff-ada"}),
    "voice.seconds": ("telephony", "unconnected-call", {"dimensions": {"status": "busy"}}),
    "api.calls": ("gateway", "sandbox-traffic", {"dimensions": {"environment": "test-3"}}),
    "message.sent": ("messenger", "undelivered-message", {"dimensions": {"status": "bounced"}}),
    "ai.tokens": (
        "assistant",
        "assistant-retry",
        {"dimensions": {"attempt": "retry", "cause": "our-error"}},
    ),
    "storage.bytes": ("storage-meter", "storage-copy", {"dimensions": {"copy": "replica"}}),
}
"""Of each shipped metric: who emits it, its forbidden case, and what makes it one."""


@pytest.mark.parametrize("metric", FORBIDDEN)
def test_forbidden_case(site: Site, metric: str) -> None:
    """The rule decides, at the sidecar and in the ledger; the same usage without it counts as ever."""
    emitter, rule, case = FORBIDDEN[metric]
    tenant = f"forbidden-{metric.replace('.', '-')}"

    [forbidden] = site.report(event(tenant, metric, emitter, **case))

    assert forbidden.rule == rule
    if metric == "sla.evaluated":
        # What is refused by its rule is not even kept.
        assert forbidden == Told(UsageOutcome.INVALID, rule)
        site.settled()
        assert site.books(tenant) == {}
        return
    assert forbidden == Told(UsageOutcome.ACCEPTED, rule, NON_BILLABLE)
    assert site.stored(tenant) == forbidden
    [plain] = site.report(event(tenant, metric, emitter, value=2))
    assert plain == Told(UsageOutcome.ACCEPTED, "", BILLABLE)
    until(
        lambda: site.books(tenant) == {(metric, NON_BILLABLE): (1, 1), (metric, BILLABLE): (2, 1)},
        "both to be in the aggregates",
        PATIENCE,
    )


def test_external_emitter(site: Site) -> None:
    """What an external system says is billable is kept, does not count, and operators see it."""
    [told] = site.report(event("outside", "lead.ingested", "crm", id="from-outside"))

    assert told == Told(UsageOutcome.QUARANTINED, RuleName.EMITTER)
    site.settled()
    answer = site.store.rest("GET", "/api/billing/usage/quarantine", params={"tenant_id": "outside"})
    assert answer.is_success, answer.text
    with site.database.reading() as session:
        held = session.get_one(UsageQuarantineRow, ("outside", "from-outside"))
    assert (held.state, held.rule, held.emitter) == ("held", RuleName.EMITTER, "crm")
    assert "from-outside" in answer.text
    assert site.books("outside") == {}


def test_after_the_terminal_event(site: Site) -> None:
    """Work on what has become a case is not billed."""
    minute = timedelta(minutes=1)
    site.report(event("after", "case.opened", "crm", id="case", ago=2 * minute))
    assert site.stored("after", "case") == Told(UsageOutcome.ACCEPTED, "", Classification.INFORMATIONAL)

    [told] = site.report(event("after", "lead.routed", "pipeline", id="routed", ago=minute))

    assert told == Told(UsageOutcome.ACCEPTED, "", BILLABLE)
    assert site.stored("after", "routed") == Told(UsageOutcome.ACCEPTED, RuleName.TERMINAL, NON_BILLABLE)
    assert site.books("after")["lead.routed", NON_BILLABLE] == (1, 1)


def test_terminal_event_that_arrives_late(site: Site) -> None:
    """What was billed meanwhile no longer is: its classification, and the aggregates."""
    minute = timedelta(minutes=1)
    before = event("late", "lead.scored", "pipeline", id="before", value=3, ago=3 * minute)
    site.report(before, event("late", "lead.scored", "pipeline", id="scored", value=5, ago=minute))
    assert site.stored("late", "scored") == Told(UsageOutcome.ACCEPTED, "", BILLABLE)

    site.report(event("late", "case.opened", "crm", id="case", ago=2 * minute))

    site.stored("late", "case")
    assert site.stored("late", "scored") == Told(UsageOutcome.ACCEPTED, RuleName.TERMINAL, NON_BILLABLE)
    assert site.stored("late", "before") == Told(UsageOutcome.ACCEPTED, "", BILLABLE)
    books = site.books("late")
    assert books["lead.scored", NON_BILLABLE] == (5, 1)
    assert books["lead.scored", BILLABLE] == (3, 1)


def test_same_id_with_other_content(site: Site) -> None:
    """The first one stands: at the sidecar while it holds it, and in the ledger for good."""
    first = event("twice", "lead.routed", "pipeline", id="same")
    other = usage_pb2.UsageEvent()
    other.CopyFrom(first)
    other.value = 7

    told = site.report(first, first, other)
    assert [one.outcome for one in told] == [
        UsageOutcome.ACCEPTED,
        UsageOutcome.DUPLICATE,
        UsageOutcome.CONFLICT,
    ]
    assert {one.rule for one in told[1:]} == {RuleName.IDENTITY}

    site.settled()
    before = dead(site.beside.state)
    site.report(other)
    until(lambda: dead(site.beside.state) == before + 1, "the plan store to refuse it", PATIENCE)
    assert_documented(Told(UsageOutcome.CONFLICT, RuleName.IDENTITY), PLAN_STORE)
    assert site.books("twice") == {("lead.routed", BILLABLE): (1, 1)}


def test_too_late(site: Site) -> None:
    """Past the metric's bound it is refused, and neighbours are not."""
    late, fine = (event("past", "message.sent", "messenger", ago=timedelta(days=days)) for days in (8, 0))

    assert site.report(late, fine) == [
        Told(UsageOutcome.LATE_REFUSED, RuleName.AGE),
        Told(UsageOutcome.ACCEPTED, "", BILLABLE),
    ]


def test_late_and_still_counted(site: Site) -> None:
    """A window that had ended when it was recorded: it counts there."""
    this_month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    ago = datetime.now(UTC) - this_month + timedelta(hours=1)

    [told] = site.report(event("overdue", "lead.ingested", "intake", id="late", ago=ago))

    assert told == Told(UsageOutcome.ACCEPTED, "", BILLABLE)
    site.stored("overdue", "late")
    with site.database.reading() as session:
        [row] = session.scalars(select(UsageLedgerRow).where(UsageLedgerRow.tenant_id == "overdue"))
    assert (row.metric, row.value, row.event_count) == ("lead.ingested", 1, 1)
    assert row.window_end == this_month


def test_in_the_future(site: Site) -> None:
    """A clock that is wrong is said to be."""
    ahead = event("future", "lead.routed", "pipeline", ago=-timedelta(minutes=10))

    assert site.report(ahead) == [Told(UsageOutcome.INVALID, RuleName.FUTURE)]


def test_consumption_and_report_of_it(site: Site) -> None:
    """A CONSUME counts; a report that names it adds what is known of it, and nothing to the sum."""
    site.store.subscribe("consumer", "scale")
    decision = until(
        lambda: (
            one
            if (one := site.beside.consume("consumer", "lead-ingestion", request_id="r1")).allowed
            else None
        ),
        "the tenant to be held",
        PATIENCE,
    )
    said = event("consumer", "lead.ingested", "intake", id="said", consumption_id=decision.consumption_id)
    said.dimensions["source"] = "fair"

    assert site.report(said) == [Told(UsageOutcome.ACCEPTED, "", BILLABLE)]

    site.stored("consumer", decision.consumption_id)
    site.stored("consumer", "said")
    assert site.books("consumer")["lead.ingested", BILLABLE][0] == 1


def consumed(beside: Sidecar) -> decision_pb2.Decision:
    """One CONSUME, the same each time."""
    return beside.consume("consumer", "lead-ingestion", request_id="r1")


def test_metric_that_nobody_knows(site: Site) -> None:
    """It is kept for whoever makes it known; neither sidecar nor plan store drops it."""
    [told] = site.report(event("unknown", "lead.lost", "pipeline", id="lost"))

    assert told == Told(UsageOutcome.UNKNOWN_METRIC, RuleName.METRIC)
    site.settled()
    with site.database.reading() as session:
        held = session.get_one(UsageQuarantineRow, ("unknown", "lost"))
    assert (held.state, held.rule) == ("held", RuleName.METRIC)
    assert_documented(Told(UsageOutcome.QUARANTINED, RuleName.METRIC), PLAN_STORE)
