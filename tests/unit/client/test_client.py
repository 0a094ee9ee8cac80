"""The clients, against a server in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from entitlement_sidecar.client import (
    Answer,
    AsyncEntitlementsClient,
    Decision,
    Degradation,
    EntitlementsClient,
    IdempotencyConflictError,
    InvalidInputError,
    Reason,
    RetryableError,
    Usage,
    UsageOutcome,
)
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import DrainingError, ExhaustedError
from entitlement_sidecar.wire.v1 import decision_pb2
from support.answering import AnsweringSidecar, answering

ALLOWED = Decision(
    allowed=True, reason=Reason.WITHIN_LIMIT, limit=10, used=1, remaining=9, source=Source.MEMORY
)
DENIED = Decision(allowed=False, reason=Reason.QUOTA_EXCEEDED, limit=10, used=10, remaining=0)
NOWHERE = "127.0.0.1:1"

Ask = Callable[..., Awaitable[Any]]


@pytest.fixture
def sidecar() -> Iterator[AnsweringSidecar]:
    """Allows everything until a test says otherwise."""
    with answering(lambda _: ALLOWED) as server:
        yield server


async def _ask_sync(target: str, method: str, *args: Any, **kwargs: Any) -> Any:
    def call() -> Any:
        with EntitlementsClient(target, timeout=5, **kwargs.pop("settings", {})) as client:
            return getattr(client, method)(*args, **kwargs)

    return await asyncio.to_thread(call)


async def _ask_async(target: str, method: str, *args: Any, **kwargs: Any) -> Any:
    async with AsyncEntitlementsClient(target, timeout=5, **kwargs.pop("settings", {})) as client:
        return await getattr(client, method)(*args, **kwargs)


@pytest.fixture(params=[_ask_sync, _ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """One call of one client; both have to behave alike."""
    chosen: Ask = request.param
    return chosen


async def test_a_decision_arrives_as_it_was_made(sidecar: AnsweringSidecar, ask: Ask) -> None:
    """Allowed and denied are both answers."""
    assert await ask(sidecar.target, "check", "acme", "tasks") == ALLOWED

    sidecar.judge = lambda _: DENIED
    denied = await ask(sidecar.target, "check", "acme", "tasks")

    assert (denied.allowed, denied.reason) == (False, Reason.QUOTA_EXCEEDED)


async def test_every_option_reaches_the_sidecar(sidecar: AnsweringSidecar, ask: Ask) -> None:
    """A check says all that its caller said."""
    await ask(
        sidecar.target,
        "check",
        "acme",
        "models",
        consume=True,
        quantity=0,
        subject="u1",
        request_id="r1",
        correlation_id="c1",
        requested_value=["small", 3],
        max_staleness=1.5,
        min_snapshot_version=7,
        dimensions={"region": "eu"},
    )

    (seen,) = sidecar.checks
    assert (seen.tenant_id, seen.feature, seen.mode) == ("acme", "models", decision_pb2.CHECK_MODE_CONSUME)
    assert seen.HasField("quantity")
    assert seen.quantity == 0
    assert (seen.subject, seen.request_id, seen.correlation_id) == ("u1", "r1", "c1")
    assert seen.requested_value_json == '["small",3]'
    assert seen.max_staleness.ToMilliseconds() == 1500
    assert (seen.min_snapshot_version, dict(seen.dimensions)) == (7, {"region": "eu"})


async def test_a_peek_says_nothing_that_differs_between_equal_questions(
    sidecar: AnsweringSidecar, ask: Ask
) -> None:
    """Equal peeks have equal bytes, so that the sidecar can remember its answer."""
    for _ in range(2):
        await ask(sidecar.target, "check", "acme", "sso")

    first, second = (check.SerializeToString() for check in sidecar.checks)
    assert first == second


async def test_a_consume_without_a_request_id_gets_its_own(sidecar: AnsweringSidecar, ask: Ask) -> None:
    """Two consumptions stay two, and a retry of either stays one."""
    for _ in range(2):
        await ask(sidecar.target, "check", "acme", "tasks", consume=True)

    first, second = (check.request_id for check in sidecar.checks)
    assert first
    assert second
    assert first != second


async def test_what_is_turned_away_once_is_sent_again_with_the_same_id(
    sidecar: AnsweringSidecar, ask: Ask
) -> None:
    """A draining sidecar is asked again, and could tell that it is the same consumption."""
    replies = iter([DrainingError("draining"), DrainingError("draining")])

    def judge(_: decision_pb2.CheckEntitlementRequest) -> Decision:
        error = next(replies, None)
        if error:
            raise error
        return ALLOWED

    sidecar.judge = judge
    assert (await ask(sidecar.target, "check", "acme", "tasks", consume=True)).allowed

    assert len(sidecar.checks) == 3
    assert len({check.request_id for check in sidecar.checks}) == 1


@pytest.mark.parametrize(
    ("declared", "allowed", "degradation"),
    [(Answer.ALLOW, True, Degradation.FAIL_OPEN), (Answer.DENY, False, Degradation.FAIL_CLOSED)],
)
async def test_without_a_sidecar_the_declared_answer_is_given(
    ask: Ask, declared: Answer, *, allowed: bool, degradation: Degradation
) -> None:
    """The answer says that it is a fallback and which way it went."""
    for decision in (
        await ask(NOWHERE, "check", "acme", "tasks", if_unreachable=declared),
        await ask(NOWHERE, "check", "acme", "tasks", settings={"if_unreachable": declared}),
    ):
        assert (decision.allowed, decision.degradation) == (allowed, degradation)
        assert (decision.reason, decision.source) == (Reason.UNDETERMINED, Source.FALLBACK)
        assert decision.notes == ("billing:error:sidecar-unavailable",)


async def test_without_a_sidecar_and_a_declaration_it_raises(ask: Ask) -> None:
    """The error names where nobody answered."""
    with pytest.raises(RetryableError, match=NOWHERE):
        await ask(NOWHERE, "check", "acme", "tasks")
    with pytest.raises(RetryableError, match=NOWHERE):
        await ask(NOWHERE, "report", [Usage(tenant_id="acme", metric="tasks")])


async def test_an_overloaded_sidecar_counts_as_away(sidecar: AnsweringSidecar, ask: Ask) -> None:
    """Overload is no fault of the question."""

    def overloaded(_: decision_pb2.CheckEntitlementRequest) -> Decision:
        raise ExhaustedError("too many calls", 0.1)

    sidecar.judge = overloaded
    decision = await ask(sidecar.target, "check", "acme", "tasks", if_unreachable=Answer.ALLOW)
    assert decision.degradation is Degradation.FAIL_OPEN
    with pytest.raises(ExhaustedError):
        await ask(sidecar.target, "check", "acme", "tasks")


async def test_a_wrong_question_raises_whatever_is_declared(sidecar: AnsweringSidecar, ask: Ask) -> None:
    """A malformed or conflicting question never becomes an allowed answer."""

    def conflict(_: decision_pb2.CheckEntitlementRequest) -> Decision:
        raise IdempotencyConflictError("request id r1 came with quantity 2")

    def malformed(_: decision_pb2.CheckEntitlementRequest) -> Decision:
        raise InvalidInputError.of("tenant_id", "is required")

    sidecar.judge = conflict
    with pytest.raises(IdempotencyConflictError):
        await ask(sidecar.target, "check", "acme", "tasks", if_unreachable=Answer.ALLOW)
    sidecar.judge = malformed
    with pytest.raises(InvalidInputError, match="tenant_id"):
        await ask(sidecar.target, "check", "", "tasks", if_unreachable=Answer.ALLOW)


@pytest.mark.parametrize(
    "options",
    [
        {"quantity": "many"},
        {"quantity": 2**63},
        {"requested_value": object()},
        {"dimensions": {"a": 1}},
        {"dimensions": 5},
    ],
    ids=range(5),
)
async def test_an_option_of_the_wrong_type_is_refused_before_it_is_sent(
    sidecar: AnsweringSidecar, ask: Ask, options: dict[str, Any]
) -> None:
    """The caller hears of it even when no sidecar runs."""
    with pytest.raises(InvalidInputError):
        await ask(sidecar.target, "check", "acme", "tasks", **options)
    assert sidecar.checks == []


async def test_usage_is_reported_with_an_identity(sidecar: AnsweringSidecar, ask: Ask) -> None:
    """An id is kept, derivable identity is left to the sidecar, and everything else gets one here."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    results = await ask(
        sidecar.target,
        "report",
        [
            Usage(tenant_id="acme", metric="tasks", id="e1", value=3, correlation_id="c"),
            Usage(tenant_id="acme", metric="tasks", correlation_id="c", occurred_at=at),
            Usage(tenant_id="acme", metric="tasks", correlation_id="c"),
        ],
    )

    assert [result.outcome for result in results] == [UsageOutcome.ACCEPTED] * 3
    given, derivable, made = sidecar.events
    assert (given.id, given.value) == ("e1", 3)
    assert (derivable.id, derivable.occurred_at.ToDatetime(UTC)) == ("", at)
    assert made.id
    assert not made.HasField("occurred_at")


async def test_usage_with_an_instant_without_a_zone_is_refused(sidecar: AnsweringSidecar, ask: Ask) -> None:
    """A local time says nothing to a ledger."""
    naive = datetime(2026, 1, 2)  # noqa: DTZ001 - what is refused
    with pytest.raises(InvalidInputError):
        await ask(sidecar.target, "report", [Usage(tenant_id="a", metric="b", occurred_at=naive)])


def test_threads_share_one_client(sidecar: AnsweringSidecar) -> None:
    """Many threads, one channel, every answer its own."""
    sidecar.judge = lambda request: Decision(allowed=True, reason=Reason.ENABLED, notes=(request.feature,))
    with EntitlementsClient(sidecar.target, timeout=20) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.check("acme", f"f{n}").notes, range(200)))

    assert answers == [(f"f{n}",) for n in range(200)]


async def test_a_task_is_recorded(sidecar: AnsweringSidecar, ask: Ask) -> None:
    """With its parts as they were given; an instant without a zone is refused here."""
    ended = datetime(2026, 1, 2, tzinfo=UTC)
    [result] = await ask(
        sidecar.target, "record_task", "acme", "job", input_tokens=3, occurred_at=ended, dimensions={"a": "b"}
    )

    assert (result.id, result.outcome) == ("job", UsageOutcome.ACCEPTED)
    [task] = sidecar.tasks
    assert (task.tenant_id, task.input_tokens, task.output_tokens) == ("acme", 3, 0)
    assert (task.occurred_at.ToDatetime(UTC), dict(task.dimensions)) == (ended, {"a": "b"})
    with pytest.raises(InvalidInputError):
        await ask(sidecar.target, "record_task", "acme", "job", occurred_at=datetime(2026, 1, 2))  # noqa: DTZ001 - the mistake
    with pytest.raises(RetryableError):
        await ask(NOWHERE, "record_task", "acme", "job")


async def test_usage_is_corrected(sidecar: AnsweringSidecar, ask: Ask) -> None:
    """Nought amends, no value voids; each correction has a request id, so that a retry corrects once."""
    await ask(sidecar.target, "correct", "acme", "e1", "miscounted", value=0, request_id="r1")
    await ask(sidecar.target, "correct", "acme", "e1", "test run")

    amended, voided = sidecar.corrections
    assert (amended.HasField("value"), amended.value, amended.request_id) == (True, 0, "r1")
    assert (voided.HasField("value"), voided.reason) == (False, "test run")
    assert voided.request_id
    with pytest.raises(InvalidInputError):
        await ask(sidecar.target, "correct", "acme", "e1", "x", value="many")
    with pytest.raises(RetryableError):
        await ask(NOWHERE, "correct", "acme", "e1", "x")
