"""Tasks and corrections at the sidecar: what is kept of them, and that it is kept once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification, Durability, Metric
from entitlement_sidecar.domain.errors import NotFoundError, OutboxFullError, SourceUnavailableError
from entitlement_sidecar.domain.registry import Emitter, TaskMetrics, WhenFull
from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome
from entitlement_sidecar.sidecar.usage import when_full
from entitlement_sidecar.sidecar.usage.corrections import Correction, Corrections
from entitlement_sidecar.sidecar.usage.outbox import OutboxRecord
from entitlement_sidecar.sidecar.usage.tasks import Task, TaskRecorder
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from support.usage import next_batch

CATALOGUE = CatalogueDocument(
    version=7,
    features={},
    metrics={
        "jobs": Metric("jobs", domain="ai", unit="job"),
        "read": Metric("read", domain="ai", unit="token", classification=Classification.NON_BILLABLE),
        "compute": Metric("compute", domain="ai", unit="ms"),
    },
    task_metrics=TaskMetrics(task="jobs", input_tokens="read", compute_ms="compute"),
)
TASK = Task(tenant_id="acme", task_id="t-1", input_tokens=5, output_tokens=9, compute_ms=70, subject="u")


class Held:
    """A sidecar's part that takes tasks and corrections."""

    def __init__(self) -> None:
        self.catalogue = CATALOGUE
        self.outbox = MemoryOutbox()
        self.clock = FakeClock()
        means = (self.outbox, lambda: self.catalogue, self.clock, "i-1")
        self.tasks, self.corrections = TaskRecorder(*means), Corrections(*means)

    async def events(self) -> list[UsageEvent]:
        """What is held."""
        batch = await next_batch(self.outbox, 1000, 1 << 20)
        return [] if batch is None else [one.event for one in batch.events]


@pytest.fixture
def held() -> Held:
    """One of its own."""
    return Held()


async def test_each_part_that_the_catalogue_names_is_an_event(held: Held) -> None:
    """In order, correlated with the task, and as the registry classifies them; others are left out."""
    results = await held.tasks.record(TASK)

    events = await held.events()
    assert [(one.metric, one.value, one.unit) for one in events] == [
        ("jobs", 1, "job"),
        ("read", 5, "token"),
        ("compute", 70, "ms"),
    ]
    assert {(one.correlation_id, one.subject, one.recorded_by) for one in events} == {("t-1", "u", "i-1")}
    assert [one.classification for one in events] == [
        Classification.BILLABLE,
        Classification.NON_BILLABLE,
        Classification.BILLABLE,
    ]
    assert [one.id for one in results] == [one.id for one in events]
    assert {(one.outcome, one.registry_version) for one in results} == {(UsageOutcome.ACCEPTED, 7)}


async def test_the_same_task_again_counts_once(held: Held) -> None:
    """Also later, as it has no instant of its own; of another tenant it is another task."""
    first = await held.tasks.record(TASK)
    held.clock.advance(5)

    again = await held.tasks.record(TASK)
    other = await held.tasks.record(msgspec.structs.replace(TASK, tenant_id="other"))

    assert [one.outcome for one in again] == [UsageOutcome.DUPLICATE] * 3
    assert [one.id for one in again] == [one.id for one in first]
    assert [one.outcome for one in other] == [UsageOutcome.ACCEPTED] * 3


async def test_another_word_on_the_same_task_keeps_nothing(held: Held) -> None:
    """Only the part that differs is a conflict; a part that the catalogue names since is not kept alone."""
    await held.tasks.record(TASK)
    named = msgspec.structs.replace(CATALOGUE.task_metrics, output_tokens="read")
    held.catalogue = msgspec.structs.replace(CATALOGUE, version=8, task_metrics=named)

    results = await held.tasks.record(msgspec.structs.replace(TASK, input_tokens=6))

    assert [one.outcome for one in results] == [
        UsageOutcome.DUPLICATE,
        UsageOutcome.CONFLICT,
        UsageOutcome.INVALID,
        UsageOutcome.DUPLICATE,
    ]
    assert results[2].retriable
    assert len(await held.events()) == 3


async def test_one_part_that_is_refused_refuses_the_others(held: Held) -> None:
    """It names its rule; the others say that they are not to blame."""
    short = msgspec.structs.replace(CATALOGUE.metrics["compute"], max_age=60.0)
    held.catalogue = msgspec.structs.replace(CATALOGUE, metrics={**CATALOGUE.metrics, "compute": short})
    ended = held.clock.now() - timedelta(hours=1)

    results = await held.tasks.record(msgspec.structs.replace(TASK, occurred_at=ended))

    assert [(one.outcome, one.rule, one.retriable) for one in results] == [
        (UsageOutcome.INVALID, RuleName.ATOMIC, True),
        (UsageOutcome.INVALID, RuleName.ATOMIC, True),
        (UsageOutcome.LATE_REFUSED, RuleName.AGE, False),
    ]
    assert await held.events() == []


async def test_a_task_of_an_emitter_that_may_not_is_kept_for_operators(held: Held) -> None:
    """The parts that are billable, and the caller is told."""
    held.catalogue = msgspec.structs.replace(CATALOGUE, emitters={"crm": Emitter("crm", external=True)})

    results = await held.tasks.record(msgspec.structs.replace(TASK, emitter="crm"))

    assert [one.outcome for one in results] == [
        UsageOutcome.QUARANTINED,
        UsageOutcome.ACCEPTED,
        UsageOutcome.QUARANTINED,
    ]
    assert [one.rule for one in await held.events()] == [RuleName.EMITTER, "", RuleName.EMITTER]


async def test_tasks_need_a_catalogue_that_names_their_metrics(held: Held) -> None:
    """Without one the caller may try again; where it names none, it says what would."""
    held.catalogue = msgspec.structs.replace(CATALOGUE, task_metrics=TaskMetrics())
    with pytest.raises(NotFoundError, match="task_metrics"):
        await held.tasks.record(TASK)
    held.catalogue = msgspec.structs.replace(CATALOGUE, version=0)
    with pytest.raises(SourceUnavailableError):
        await held.tasks.record(TASK)
    assert await held.events() == []


async def test_a_full_outbox_keeps_no_part(held: Held) -> None:
    """The caller sends the task again."""
    held.outbox = MemoryOutbox(max_bytes=64)
    tasks = TaskRecorder(held.outbox, lambda: CATALOGUE, held.clock, "i-1")
    with pytest.raises(OutboxFullError):
        await tasks.record(TASK)
    assert await held.events() == []


async def test_a_task_waits_for_room_where_a_metric_of_it_says_so(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As reports do."""
    monkeypatch.setattr(when_full, "BLOCK_WITHIN", 60.0)
    jobs = msgspec.structs.replace(CATALOGUE.metrics["jobs"], when_full=WhenFull.BLOCK)
    held.catalogue = msgspec.structs.replace(CATALOGUE, metrics={**CATALOGUE.metrics, "jobs": jobs})
    held.outbox._max_bytes = 64
    waiting = asyncio.create_task(held.tasks.record(TASK))
    await asyncio.sleep(0)
    held.outbox._max_bytes = 1 << 20

    assert {one.outcome for one in await waiting} == {UsageOutcome.ACCEPTED}
    assert len(await held.events()) == 3


CORRECTION = Correction(tenant_id="acme", original_id="e1", reason="counted twice", request_id="r1", value=3)


async def test_a_correction_names_its_original_and_nothing_else_of_it(held: Held) -> None:
    """With a value it amends, without one it voids; the plan store completes it."""
    amended = await held.corrections.correct(CORRECTION)
    voided = await held.corrections.correct(
        msgspec.structs.replace(CORRECTION, value=None, request_id="r2", actor_id="ops")
    )

    first, second = await held.events()
    assert (amended.outcome, amended.id, amended.registry_version) == (UsageOutcome.ACCEPTED, first.id, 7)
    assert (first.corrects, first.voids, first.value, first.reason) == ("e1", False, 3, "counted twice")
    assert (second.id, second.voids, second.value, second.actor_id) == (voided.id, True, 0, "ops")
    assert (first.metric, first.unit, first.subject, first.correlation_id) == ("", "", "", "")


async def test_the_same_correction_again_is_one(held: Held) -> None:
    """Also later; of another event, or another request, it is another; with another value a conflict."""
    await held.corrections.correct(CORRECTION)
    held.clock.advance(60)
    outcomes = [
        (await held.corrections.correct(msgspec.structs.replace(CORRECTION, **changed))).outcome
        for changed in ({}, {"value": 4}, {"original_id": "e2"}, {"request_id": "r2"})
    ]
    assert outcomes == [
        UsageOutcome.DUPLICATE,
        UsageOutcome.CONFLICT,
        UsageOutcome.ACCEPTED,
        UsageOutcome.ACCEPTED,
    ]


async def test_corrections_are_durable(held: Held) -> None:
    """They are few, and people wait for them."""
    asked: list[Durability] = []

    class Asked(MemoryOutbox):
        async def append(
            self, records: list[OutboxRecord], durability: Durability, *, atomic: bool = False
        ) -> list:  # type: ignore[type-arg] # as its base
            asked.append(durability)
            return await super().append(records, durability, atomic=atomic)

    await Corrections(Asked(), lambda: CATALOGUE, held.clock, "i-1").correct(CORRECTION)
    assert asked == [Durability.DURABLE]
