"""Every write, sync and truncation of the outbox fails once, in every way that a disk can fail.

A fixed story is told to an outbox on a disk that fails at the n-th call, for every n that the story reaches
(by `make soak`; for some of them otherwise), and on one whose power is cut there. Afterwards nothing that was
acked may be missing, nothing may be there twice, and what was not kept was answered with an error. A failure
names its point and its seed; `FAULT_SEED` sets it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import ConfigurationError, OutboxFullError, RetryableError
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import FILE_NAME, SqliteOutbox
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_checks import check
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import DEAD, QUEUED, OutboxReader
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_replay import StoppedOutbox
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from support.faulty_disk import Fault, FaultyDisk
from support.outbox_story import Story, tell
from support.usage import records, settled

SOAK = bool(os.environ.get("SOAK"))
SEED = int(os.environ.get("FAULT_SEED") or time.time_ns() % (1 << 32))
CUTS = 25 if SOAK else 1
"""Times that the power is cut at each point."""
STEP = {Fault.FULL: 4, Fault.ERROR: 4, Fault.SHORT: 4, Fault.CRASH: 2}
"""Of so many points, one; all of them by `make soak`."""
NAMES = [f"e{n}" for n in range(5)]
LASTING = [Fault.FULL, Fault.ERROR, Fault.SHORT]


def step(fault: Fault) -> int:
    """How far one point is from the next."""
    return 1 if SOAK else STEP[fault]


def first(fault: Fault) -> int:
    """The point before the first one: another with each seed."""
    return SEED % step(fault) - step(fault) + 1


class RefusingTwin(MemoryOutbox):
    """The twin, full at one call."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at
        self.calls = 0

    def append(self, *arguments: Any, **more: Any) -> Awaitable[list[UsageResult]]:
        """Keeps records, but for one call."""
        self.calls += 1
        if self.calls == self._at:
            raise OutboxFullError("the outbox is full", 1.0)
        return super().append(*arguments, **more)


@pytest.mark.parametrize("fault", LASTING, ids=lambda fault: fault.name)
async def test_a_failing_disk(fault: Fault, tmp_path: Path) -> None:
    """A call that fails says so; the same outbox goes on when the disk does, and holds what it acked."""
    at, reached = first(fault), True
    while reached:
        # Given a disk that fails at one call
        at += step(fault)
        folder = tmp_path / str(at)
        with FaultyDisk(folder, fault, at) as disk:
            story = Story(folder, f"{fault.name} at {at}, FAULT_SEED={SEED}")
            # When the story is told, and what was refused is tried again on a healthy disk
            await tell(story)
            reached = disk.failed is not None
            disk.heal()
            await story.go_on()
            await story.close()
        # Then everything is there
        with FaultyDisk(folder):
            await story.check(everything=True)
    assert at > 50


@pytest.mark.parametrize("cut", range(CUTS))
async def test_a_power_cut(cut: int, tmp_path: Path) -> None:
    """Whatever of the last writes is lost or torn, what was acked as durable is there after the start."""
    chance = random.Random(SEED + cut)  # noqa: S311 - to be repeated, not to be secret
    at, reached = first(Fault.CRASH), True
    while reached:
        # Given a machine that stops at one call
        at += step(Fault.CRASH)
        folder = tmp_path / str(at)
        with FaultyDisk(folder, Fault.CRASH, at) as disk:
            story = Story(folder, f"CRASH at {at}, cut {cut}, FAULT_SEED={SEED}")
            await tell(story)
            await story.close()
            reached = disk.failed is not None
        # When it starts again with what reached the disk
        disk.power_cut(chance)
        # Then nothing that was durable is missing
        with FaultyDisk(folder):
            await story.check(everything=False)
    assert at > 50


async def test_a_twin_that_refuses(tmp_path: Path) -> None:
    """The same story over the twin: what it refuses is not there, and is taken when it is tried again."""
    at, reached = 0, True
    while reached:
        # Given a twin that is full at one call
        at += 1
        twin = RefusingTwin(at)
        story = Story(tmp_path, f"refused at {at}", twin)
        # When the story is told, and what was refused is tried again
        await tell(story)
        reached = twin.calls >= at
        await story.go_on()
        await story.close()
        # Then everything is there
        await story.check(everything=True)
    assert at > 10


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.CRASH], ids=lambda fault: fault.name)
async def test_an_interrupted_replay(fault: Fault, tmp_path: Path) -> None:
    """Wherever it ends, each dead letter is in the queue or a dead letter still; and it can be done again."""
    chance = random.Random(SEED)  # noqa: S311 - to be repeated, not to be secret
    at, reached = 0, True
    while reached:
        # Given dead letters, and a disk that fails at one call of the replay
        at += 1
        folder = tmp_path / str(at)
        with FaultyDisk(folder):
            await bury(folder, NAMES)
        with FaultyDisk(folder, fault, at) as disk:
            with suppress(ConfigurationError, RetryableError):
                replay(folder)
            reached = disk.failed is not None
        disk.power_cut(chance)
        with FaultyDisk(folder):
            # When it is looked at
            with OutboxReader(folder / FILE_NAME) as reader:
                found = list(check(reader, lambda _: None))
                there = [one.event_id for what in (QUEUED, DEAD) for one in reader.rows(what)]
            # Then nothing is missing, nothing is there twice, and the rest can be put back
            assert (found, sorted(there)) == ([], sorted(NAMES)), f"{fault.name} at {at}, FAULT_SEED={SEED}"
            replay(folder)
            with OutboxReader(folder / FILE_NAME) as reader:
                assert sorted(one.event_id for one in reader.rows(QUEUED)) == sorted(NAMES)
    assert at > 10


async def bury(folder: Path, names: Sequence[str]) -> None:
    """Leaves events as dead letters."""
    outbox = SqliteOutbox(folder)
    await outbox.append(records(*names), Durability.DURABLE)
    while batches := await outbox.next_batches(len(names), 1 << 20):
        for batch in batches:
            await outbox.settle(batch, settled(batch, UsageOutcome.INVALID))
    await outbox.close()


def replay(folder: Path) -> None:
    """Puts every dead letter back."""
    path = folder / FILE_NAME
    with OutboxReader(path) as reader:
        places = [one.place for one in reader.rows(DEAD)]
    with StoppedOutbox.at(path) as stopped:
        stopped.revive(places)
