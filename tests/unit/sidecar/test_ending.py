"""A loop that does not hear the first time that it has to end is told again."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from entitlement_sidecar.sidecar import process
from entitlement_sidecar.sidecar.process import cancelled


async def hears(times: int, heard: list[int]) -> None:
    """Ends at the last of so many cancellations, as where a library has taken the others for itself."""
    for number in range(times):
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        heard.append(number)


async def test_it_ends_however_often_it_has_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process would wait for it for ever."""
    monkeypatch.setattr(process, "CANCEL_AGAIN", 0.001)
    heard: list[int] = []
    tasks = [asyncio.create_task(hears(times, heard)) for times in (1, 2, 3)]
    await asyncio.sleep(0)
    await cancelled(tasks)
    assert all(task.done() for task in tasks)
    assert sorted(heard) == [0, 0, 0, 1, 1, 2]


async def test_what_has_ended_already_is_left_alone() -> None:
    """Nobody is there to be told."""
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    await cancelled([task])  # type: ignore[list-item]  # sleep ends with None
    await cancelled([])
