"""Every write, sync and truncation of the outbox fails once, in every way that a disk can fail.

A fixed story is told to an outbox on a disk that fails at the n-th call, for every n that the story reaches
(by `make soak`; for every third otherwise), and on one whose power is cut at every one. Afterwards nothing
that was acked may be missing, nothing may be there twice, and what was not kept was answered with an error. A
failure names its point and its seed; `FAULT_SEED` sets it.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from support.faulty_disk import Fault, FaultyDisk
from support.outbox_story import Story, tell

SOAK = bool(os.environ.get("SOAK"))
SEED = int(os.environ.get("FAULT_SEED") or time.time_ns() % (1 << 32))
CUTS = 25 if SOAK else 1
"""Times that the power is cut at each point."""
STEP = 1 if SOAK else 3
"""Of so many points where the disk may fail, one."""
LASTING = [Fault.FULL, Fault.ERROR, Fault.SHORT]


@pytest.mark.parametrize("fault", LASTING, ids=lambda fault: fault.name)
async def test_a_failing_disk(fault: Fault, tmp_path: Path) -> None:
    """A call that fails says so; the same outbox goes on when the disk does, and holds what it acked."""
    at, reached = SEED % STEP - STEP + 1, True
    while reached:
        # Given a disk that fails at one call
        at += STEP
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
    at, reached = 0, True
    while reached:
        # Given a machine that stops at one call
        at += 1
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
