"""Both outboxes, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entitlement_sidecar.sidecar.adapters.sqlite_outbox import SqliteOutbox
from entitlement_sidecar.sidecar.usage.outbox import Outbox
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox

MAX_BYTES = 520_000


@pytest.fixture
def clock() -> FakeClock:
    """The outbox's clock."""
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
async def outbox(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Outbox]:
    """An empty outbox of either kind."""
    if request.param == "memory":
        made: Outbox = MemoryOutbox(clock=clock, max_bytes=MAX_BYTES)
    else:
        made = SqliteOutbox(tmp_path / "state", clock=clock, max_bytes=MAX_BYTES)
    yield made
    await made.close()
