"""Records of one turn go to the outbox together, and whoever waits for one is told; identities stay apart."""

from __future__ import annotations

import asyncio
import re
import uuid
from itertools import islice, pairwise

import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import OutboxFullError
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.sidecar.usage.gathering import LARGEST, Gathering, Keeping
from entitlement_sidecar.sidecar.usage.identity import event_ids, generated_event_id
from entitlement_sidecar.sidecar.usage.outbox import PreparedRecord
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox

DURABLE: Keeping = (Durability.DURABLE, True)
BUFFERED: Keeping = (Durability.BUFFERED, False)


class Outbox(MemoryOutbox):
    """Notes what was appended together, and lets the test say what becomes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.appended: list[tuple[list[str], Keeping]] = []
        self.kept: list[asyncio.Future[list[UsageResult]]] = []
        self.full = False

    def append_prepared(
        self, records: list[PreparedRecord], durability: Durability, *, billable: bool
    ) -> asyncio.Future[list[UsageResult]]:
        if self.full:
            raise OutboxFullError("full", 1.0)
        self.appended.append(([record.event_id for record in records], (durability, billable)))
        self.kept.append(asyncio.get_running_loop().create_future())
        return self.kept[-1]


class Waiter:
    """What it was told, of which record."""

    def __init__(self, told: list[tuple[str, object]], name: str) -> None:
        self._told, self._name = told, name

    def told(self, error: BaseException | None) -> None:
        self._told.append((self._name, error))
        if self._name == "clumsy":
            raise RuntimeError("it cannot be told")


def record(name: str) -> PreparedRecord:
    """One that is never looked into."""
    return PreparedRecord("acme", name, 0, b"", 0, "", 1)


async def test_a_turn_is_one_append_for_each_way_to_be_kept() -> None:
    """Given records of two kinds in one turn, then each kind is one append, and told of its commit."""
    outbox, told = Outbox(), list[tuple[str, object]]()
    gathering = Gathering(outbox)
    for name, keeping in (("a", DURABLE), ("b", BUFFERED), ("c", DURABLE)):
        gathering.keep(record(name), keeping, Waiter(told, name))
    assert outbox.appended == []
    await asyncio.sleep(0)
    assert outbox.appended == [(["a", "c"], DURABLE), (["b"], BUFFERED)]
    assert told == []
    outbox.kept[1].set_result([])
    await asyncio.sleep(0)
    assert told == [("b", None)]
    error = OutboxFullError("the disk is full", 1.0)
    outbox.kept[0].set_exception(error)
    await asyncio.sleep(0)
    assert told == [("b", None), ("a", error), ("c", error)]


async def test_a_large_turn_is_several_appends() -> None:
    """Given more than fits, then what fits goes at once, and the rest at the end of the turn."""
    outbox, told = Outbox(), list[tuple[str, object]]()
    gathering = Gathering(outbox)
    names = [str(number) for number in range(2 * LARGEST + 3)]
    for name in names:
        gathering.keep(record(name), DURABLE, Waiter(told, name))
    assert [len(one) for one, _ in outbox.appended] == [LARGEST, LARGEST]
    await asyncio.sleep(0)
    assert [name for one, _ in outbox.appended for name in one] == names
    gathering.keep(record("later"), DURABLE, Waiter(told, "later"))
    await asyncio.sleep(0)
    assert outbox.appended[-1] == (["later"], DURABLE)


async def test_everybody_is_told_of_an_outbox_that_is_full(caplog: pytest.LogCaptureFixture) -> None:
    """Given an append that is refused at once, then all are told, also after one that cannot be told."""
    outbox, told = Outbox(), list[tuple[str, object]]()
    outbox.full = True
    gathering = Gathering(outbox)
    for name in ("a", "clumsy", "c"):
        gathering.keep(record(name), DURABLE, Waiter(told, name))
    await asyncio.sleep(0)
    assert [(name, type(error)) for name, error in told] == [
        (name, OutboxFullError) for name in ("a", "clumsy", "c")
    ]
    assert "an answer could not be given" in caplog.text


def test_identities_of_one_instant_are_apart_in_order_and_well_formed() -> None:
    """Given more than are ever made in one turn, then all are UUIDv7, each after the one before."""
    names = list(islice(event_ids(), 100_000))
    assert all(one < other for one, other in pairwise(names))
    form = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    assert all(form.fullmatch(name) for name in names)
    assert uuid.UUID(names[-1]).version == 7
    assert uuid.UUID(names[-1]).variant == uuid.RFC_4122


def test_identities_of_many_instants_are_apart() -> None:
    """Given as many turns as fit into a moment, then no two of their identities are the same."""
    names = {generated_event_id() for _ in range(20_000)}
    assert len(names) == 20_000
