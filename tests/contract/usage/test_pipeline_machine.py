"""Outbox, shipper, ingest and ledger against a list: whatever happens, nothing is lost or counted twice.

Services report, repeat, contradict and correct; batches are lost, doubled, late and cut off; either end is
restarted; a catalogue names what was unknown, and operators replay. `SOAK=1` tries far more, and PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, text

from entitlement_sidecar.domain.catalogue import Classification
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.planstore.db import (
    Base,
    Database,
    UsageEventRow,
    UsageLedgerRow,
    UsageQuarantineRow,
    UsageSourceRow,
    create_engine_for,
)
from entitlement_sidecar.planstore.db.migrate import migrate
from entitlement_sidecar.planstore.usage.rebuild import Rebuild, RebuildRequest
from entitlement_sidecar.sidecar.usage.corrections import Correction
from entitlement_sidecar.wire.v1 import usage_pb2
from support.pipeline import FATES, PlanStoreEnd, SidecarEnd, Wire
from support.pipeline_model import Books, Fact, Kept, Sent
from support.shop import NOW, Shop

TENANT = "acme"
SOAK = bool(os.environ.get("SOAK"))

CATALOGUE = """
catalogue: pipeline
features:
  jobs: {kind: metered, metric: jobs}
metrics:
  jobs: {domain: work, unit: job, aggregation: sum, window: month, classification: billable, feature: jobs}
  pings: {domain: work, unit: ping, aggregation: sum, window: month, classification: non_billable,
          durability: buffered}
  hits: {domain: work, unit: hit, aggregation: sum, window: month, classification: non_billable,
         durability: buffered, granularity: rollup}
  done: {domain: work, unit: job, aggregation: sum, window: month, classification: non_billable,
         terminal: true}
emitters:
  app: {}
  partner: {external: true}
plans:
  basic:
    title: Basic
    price: {amount: "10.00", currency: EUR}
    billing_period: month
    entitlements:
      jobs: true
"""
LATER = "  later: {domain: work, unit: job, aggregation: sum, window: month, classification: billable}\n"
WITH_LATER = CATALOGUE.replace("emitters:", LATER + "emitters:")

NUMBERS = st.integers(0, 5)
VALUES = st.integers(1, 2)
SEVERAL = st.lists(st.tuples(NUMBERS, VALUES), min_size=1, max_size=5)
WIRE = st.lists(st.sampled_from(FATES), min_size=1, max_size=8)


class PipelineMachine(RuleBasedStateMachine):
    """One sidecar, one plan store, and the model of each."""

    url = ""

    @initialize()
    def open(self) -> None:
        """Nothing has happened yet."""
        self.loop = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="pipeline"))
        self.database = Database(create_engine_for(self._empty_database()))
        self.shop = Shop(self.database)
        self.shop.apply(CATALOGUE)
        self.shop.subscribe(TENANT)
        self.sent, self.kept = Sent(), Kept()
        self.wire = Wire(self._arrived, self.sent.settle)
        self.wire.end = self.planstore = PlanStoreEnd(self.shop)
        self.beside = self._sidecar()

    def _empty_database(self) -> str:
        if self.url.startswith("postgresql"):
            database = Database(create_engine_for(self.url))
            tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
            with database.writing() as session:
                session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
            database.close()
            return self.url
        copy = self.folder / "planstore.db"
        shutil.copyfile(self.url, copy)
        return f"sqlite:///{copy}"

    def _sidecar(self) -> SidecarEnd:
        async def make() -> SidecarEnd:
            return SidecarEnd(self.folder / "sidecar", self.shop, self.wire, self.planstore.catalogue())

        return self.loop.run(make())

    def teardown(self) -> None:
        """All that is under way arrives in the end, and is there once."""
        if not hasattr(self, "beside"):
            return
        try:
            self._all_arrives()
        finally:
            self.loop.run(self.beside.close())
            self.loop.close()
            self.database.close()
            shutil.rmtree(self.folder)

    def _all_arrives(self) -> None:
        self.shop.clock.advance(2)
        self.loop.run(self.beside.ship([]))
        self.wire.deliver_late()
        stats = self.loop.run(self.beside.stats())
        assert (stats.queued, stats.lost) == (0, 0)
        assert stats.accepted == stats.settled + stats.dead == len(self.kept.places())
        assert self.sent.all_arrived
        assert self.sent.queued == {}
        assert self.sent.rolled == self.sent.rolled_there
        self._compare()
        assert Rebuild(self.database, self.shop.clock).run(RebuildRequest(check=True)).differences == []

    def _arrived(self, request: usage_pb2.IngestBatchRequest, results: Iterable[Any]) -> None:
        """A batch has come to the plan store: the list says what has to become of it."""
        facts = [Fact.of(item.event) for item in request.events]
        places = [(request.epoch, item.sequence) for item in request.events]
        plain = [fact for fact in facts if fact.metric != "hits"]
        outcomes = iter(list(self.kept.settle(plain)))
        for place, fact, result, item in zip(places, facts, results, request.events, strict=True):
            if fact.metric == "hits":
                expected = UsageOutcome.DUPLICATE if place in self.kept.places() else UsageOutcome.ACCEPTED
                if expected is UsageOutcome.ACCEPTED:
                    count = item.event.count or 1
                    self.sent.rolled_there += count
                    assert item.event.value == 2 * count
            else:
                self.sent.arrive(place, fact)
                expected = next(outcomes)
            assert result.outcome == expected, (fact, result)
            self.kept.note(place, expected)

    def _report(self, facts: list[Fact], usual: UsageOutcome = UsageOutcome.ACCEPTED) -> None:
        results = self.loop.run(self.beside.report([_event(fact) for fact in facts]))
        for fact, result in zip(facts, results, strict=True):
            assert result.outcome is self.sent.expected(fact, usual), (fact, result)
            self.sent.keep(fact)

    @rule(several=SEVERAL)
    def report_jobs(self, several: list[tuple[int, int]]) -> None:
        """Billable work: new, repeated, or contradicting what was said before."""
        self._report([_fact("jobs", *one) for one in several])

    @rule(several=SEVERAL)
    def report_pings(self, several: list[tuple[int, int]]) -> None:
        """What is not billable, and only buffered."""
        self._report([_fact("pings", *one) for one in several])

    @rule(number=st.integers(0, 1))
    def report_the_end(self, number: int) -> None:
        """The terminal event of a piece of work, early or late."""
        self._report([_fact("done", number, 1)._replace(at=_at(3))])

    @rule(several=SEVERAL)
    def report_by_partner(self, several: list[tuple[int, int]]) -> None:
        """Billable usage from an external emitter: kept, and does not count."""
        facts = [_fact("jobs", *one)._replace(id=f"partner-{one[0]}", emitter="partner") for one in several]
        self._report(facts, UsageOutcome.QUARANTINED)

    @rule(several=SEVERAL)
    def report_later(self, several: list[tuple[int, int]]) -> None:
        """Usage of a metric that the catalogue does not name yet."""
        known = "later" in self.beside.document.metrics
        self._report(
            [_fact("later", *one) for one in several],
            UsageOutcome.ACCEPTED if known else UsageOutcome.UNKNOWN_METRIC,
        )

    @rule(count=st.integers(1, 20))
    def report_hits(self, count: int) -> None:
        """What is rolled up: it has no identity, and counts each time."""
        hit = usage_pb2.UsageEvent(tenant_id=TENANT, metric="hits", value=2, emitter="app")
        results = self.loop.run(self.beside.report([hit] * count))
        assert {result.outcome for result in results} == {UsageOutcome.ACCEPTED}
        self.sent.rolled += count

    @rule(
        metric=st.sampled_from(("jobs", "jobs", "later")),
        number=NUMBERS,
        value=st.one_of(st.none(), st.integers(0, 5)),
        request=st.integers(0, 1),
    )
    def correct(self, metric: str, number: int, value: int | None, request: int) -> None:
        """Voids or amends what was reported, or what is not known yet."""
        original = f"{metric}-{number}"
        correction = Correction(
            tenant_id=TENANT,
            original_id=original,
            reason="wrong",
            request_id=f"r{request}",
            value=value,
            emitter="app",
        )
        result: UsageResult = self.loop.run(self.beside.correct(correction))
        fact = Fact(result.id, value=value, corrects=original)
        assert result.outcome is self.sent.expected(fact, UsageOutcome.ACCEPTED)
        self.sent.keep(fact)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        """Time passes: records that are rolled up are closed."""
        self.shop.clock.advance(seconds)

    @rule(fates=WIRE)
    def ship(self, fates: list[str]) -> None:
        """The sidecar ships until it fails, or nothing is left."""
        self.loop.run(self.beside.ship(fates))
        self._compare()

    @rule()
    def deliver_late(self) -> None:
        """Batches of long ago arrive again, the newest first."""
        self.wire.deliver_late()
        self._compare()

    @rule()
    def restart_sidecar(self) -> None:
        """What was acknowledged is in its file; the plan store's newest catalogue is what it learns."""
        self.loop.run(self.beside.close())
        self.beside = self._sidecar()

    @rule()
    def restart_planstore(self) -> None:
        """All that it knows is in its database."""
        self.wire.end = self.planstore = PlanStoreEnd(self.shop)

    @precondition(lambda self: not self.kept.knows_later)
    @rule()
    def name_later(self) -> None:
        """The next catalogue names the metric; the sidecar hears of it when it starts again."""
        self.shop.apply(WITH_LATER)
        self.kept.knows_later = True

    @rule()
    def replay(self) -> None:
        """An operator has everything in quarantine judged again."""
        with self.database.reading() as session:
            row = UsageQuarantineRow
            query = select(row.event_id).where(row.state == "held")
            order = list(session.scalars(query.order_by(row.received_at, row.tenant_id, row.event_id)))
        self.planstore.replay()
        self.kept.replay(order)
        self._compare()

    def _compare(self) -> None:
        """The database says what the model says."""
        with self.database.reading() as session:
            events = session.scalars(select(UsageEventRow)).all()
            aside = session.scalars(select(UsageQuarantineRow)).all()
            aggregates = session.scalars(select(UsageLedgerRow)).all()
            sources = session.scalars(select(UsageSourceRow)).all()
        self._compare_events(events)
        held = {row.event_id: row.rule for row in aside if row.state == "held"}
        assert held == {id_: rule for id_, (_, rule) in self.kept.held.items()}
        assert {row.event_id for row in aside if row.state == "released"} == set(self.kept.released)
        self._compare_books(aggregates)
        self._compare_sources(sources)

    def _compare_events(self, events: Iterable[UsageEventRow]) -> None:
        stored = {row.event_id: row for row in events if row.metric != "hits"}
        assert stored.keys() == self.kept.stored.keys()
        for fact in self.kept.stored.values():
            row = stored[fact.id]
            assert (row.value, row.voids) == (fact.value or 0, fact.value is None)
            assert row.corrects == fact.corrects

    def _compare_books(self, aggregates: Iterable[UsageLedgerRow]) -> None:
        found = {
            (row.metric, Classification(row.classification)): Books(row.value, row.event_count)
            for row in aggregates
            if row.event_count or row.value
        }
        expected = self.kept.books()
        if self.sent.rolled_there:
            hits = self.sent.rolled_there
            expected["hits", Classification.NON_BILLABLE] = Books(2 * hits, hits)
        assert found == expected

    def _compare_sources(self, sources: Iterable[UsageSourceRow]) -> None:
        found = {
            row.epoch: Counter(
                stored=row.stored,
                duplicates=row.duplicates,
                conflicts=row.conflicts,
                quarantined=row.quarantined,
                refused=row.refused,
                declared=row.declared,
            )
            for row in sources
        }
        assert {epoch: +counts for epoch, counts in found.items()} == self.kept.counts()
        received = {
            (row.epoch, sequence)
            for row in sources
            for first, last in json.loads(row.received)
            for sequence in range(first, last + 1)
        }
        assert received == self.kept.places()


def _at(offset: int) -> int:
    return int((NOW - timedelta(seconds=10 * offset + 5)).timestamp())


def _fact(metric: str, number: int, value: int) -> Fact:
    at = int((NOW - timedelta(seconds=10 * number + 10)).timestamp())
    return Fact(f"{metric}-{number}", metric, value, at, f"work-{number % 2}")


def _event(fact: Fact) -> usage_pb2.UsageEvent:
    event = usage_pb2.UsageEvent(
        id=fact.id,
        tenant_id=TENANT,
        metric=fact.metric,
        value=fact.value or 0,
        correlation_id=fact.correlation,
        emitter=fact.emitter,
    )
    event.occurred_at.FromSeconds(fact.at)
    return event


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A migrated SQLite file that every example copies."""
    path = tmp_path_factory.mktemp("template") / "planstore.db"
    migrate(f"sqlite:///{path}")
    return str(path)


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"] if SOAK else ["sqlite"])
def test_pipeline_keeps_to_the_list(kind: str, request: pytest.FixtureRequest) -> None:
    """Any order of reports, batches, failures, restarts, catalogues and replays."""
    url = request.getfixturevalue("template")
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_dsn")
        migrate(url)
    machine = type("Machine", (PipelineMachine,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=1000 if SOAK else 25,
            stateful_step_count=40,
            deadline=None,
            derandomize=not SOAK,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
