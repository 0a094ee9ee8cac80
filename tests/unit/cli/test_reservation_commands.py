"""`reserve`, `settle` and `release`, against a sidecar in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from entitlement_sidecar.client import (
    AsyncEntitlementsClient,
    EntitlementsClient,
    InvalidInputError,
    UsageOutcome,
)
from entitlement_sidecar.domain.decision import Decision, Reason
from support.answering import AnsweringSidecar, answering
from support.commands import Run

HELD = Decision(allowed=True, reason=Reason.WITHIN_LIMIT, limit=10, used=0, remaining=7)
REFUSED = Decision(allowed=False, reason=Reason.QUOTA_EXCEEDED, limit=10, used=8, remaining=2)


@pytest.fixture
def sidecar() -> Iterator[AnsweringSidecar]:
    """Holds everything."""
    with answering(lambda _: HELD) as server:
        yield server


@pytest.fixture
def command(sidecar: AnsweringSidecar, entitlements: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command that finds it."""
    monkeypatch.setenv("ENTITLEMENTS_SIDECAR", sidecar.target)
    return entitlements


def test_an_amount_is_reserved(command: Run, sidecar: AnsweringSidecar) -> None:
    """Exit code 0 says that it is held, 1 that it is not; without a name it gets one."""
    held = command("reserve", "acme", "tokens", "3", "--ttl", "5m", "--subject", "ada", "-o", "json")
    sidecar.judge = lambda _: REFUSED
    refused = command("reserve", "acme", "tokens", "3", "--id", "r-1")

    asked, named = sidecar.reservations
    assert (held.code, refused.code, held.err) == (0, 1, "")
    assert (asked.quantity, asked.ttl.seconds, asked.subject) == (3, 300, "ada")
    assert (named.reservation_id, named.HasField("ttl")) == ("r-1", False)
    told = json.loads(held.out)
    assert (told["reservation_id"], told["held"], told["remaining"]) == (asked.reservation_id, True, 7)
    assert "QUOTA_EXCEEDED" in refused.out


def test_a_reservation_is_settled(command: Run, sidecar: AnsweringSidecar) -> None:
    """With what was used and its attributes."""
    settled = command("settle", "acme", "r-1", "2", "--dimension", "model=large", "-o", "json")

    (asked,) = sidecar.settlements
    assert (settled.code, asked.reservation_id, asked.quantity) == (0, "r-1", 2)
    assert dict(asked.dimensions) == {"model": "large"}
    assert json.loads(settled.out) == {
        "event_id": "s-r-1", "outcome": "ACCEPTED", "returned": 1, "overage": 0, "pending": False,
    }  # fmt: skip


def test_one_thing_is_released(command: Run, sidecar: AnsweringSidecar) -> None:
    """A reservation, or a consumption; neither and both are mistakes."""
    assert command("release", "acme", "r-1").code == 0
    assert command("release", "acme", "--consumption", "c-1").code == 0
    for wrong in ((), ("r-1", "--consumption", "c-1")):
        assert "name a RESERVATION" in command("release", "acme", *wrong).err
    assert [one.WhichOneof("target") for one in sidecar.releases] == ["reservation_id", "consumption_id"]


async def test_applications_do_the_same(sidecar: AnsweringSidecar) -> None:
    """With either client; a reservation is true where it is held."""
    with EntitlementsClient(sidecar.target, report_timeout=20) as client:
        held = client.reserve("acme", "tokens", 3, ttl=30.0)
        settled = client.settle("acme", held.reservation_id, 2)
        with pytest.raises(InvalidInputError, match="a reservation_id or a consumption_id"):
            client.release("acme")
    async with AsyncEntitlementsClient(sidecar.target, report_timeout=20) as beside:
        again = await beside.reserve("acme", "tokens", 3, reservation_id="r-1")
        late = await beside.settle("acme", "r-1", 2, {"model": "x"})
        returned = await beside.release("acme", consumption_id="c-1")
        with pytest.raises(InvalidInputError, match="reservation"):
            await beside.reserve("acme", "tokens", "many")  # type: ignore[arg-type] # what is tested

    assert held
    assert (again.reservation_id, held.remaining, held.decision.reason) == ("r-1", 7, Reason.WITHIN_LIMIT)
    assert (settled.result.outcome, settled.returned, late.pending) == (UsageOutcome.ACCEPTED, 1, False)
    assert returned == 1


def test_what_was_answered_is_false_where_nothing_is_held(sidecar: AnsweringSidecar) -> None:
    """So that `if not held` reads as it is meant."""
    sidecar.judge = lambda _: REFUSED
    with EntitlementsClient(sidecar.target, report_timeout=20) as client:
        refused = client.reserve("acme", "tokens", 3)

    assert not refused
    assert (refused.expires_at, refused.decision.reason) == (None, Reason.QUOTA_EXCEEDED)
