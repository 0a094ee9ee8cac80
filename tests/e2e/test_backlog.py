"""A long outage of the plan store: what waited on disk is drained whole, and memory does not grow with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from entitlement_sidecar.domain.catalogue import Classification, Durability
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import SqliteOutbox
from entitlement_sidecar.sidecar.usage.outbox import OutboxRecord
from support.processes import Planstore, Sidecar
from support.waiting import until

BACKLOG = 2_000_000 if os.environ.get("SOAK") else 200_000
"""Events that wait."""

TENANTS = 50
_CALL = 1000
_DRAINED_WITHIN = 1500.0 if os.environ.get("SOAK") else 600.0
_MOST_MIB = 150


def waiting(count: int) -> Iterator[OutboxRecord]:
    """Usage of many tenants, half of it of each of two metrics, each event of the value 3."""
    now = datetime.now(UTC)
    for number in range(count):
        metric, unit = (("calls", "call"), ("exports", "export"))[number // TENANTS % 2]
        yield OutboxRecord(
            UsageEvent(
                id=f"backlog-{number}",
                tenant_id=f"tenant-{number % TENANTS}",
                metric=metric,
                value=3,
                unit=unit,
                occurred_at=now,
                recorded_at=now,
                correlation_id=f"job-{number}",
                emitter="worker",
                subject=f"user-{number % 997}",
                classification=Classification.BILLABLE,
                dimensions={"region": "eu-west-1", "model": "large"},
            )
        )


async def fill(folder: Path, count: int) -> None:
    """Keeps so many events in a sidecar's folder, as a sidecar would."""
    outbox = SqliteOutbox(folder, max_bytes=16 << 30)
    records = waiting(count)
    try:
        for _ in range(0, count, _CALL):
            await outbox.append([next(records) for _ in range(_CALL)], Durability.BUFFERED)
    finally:
        await outbox.close()


def most_mib(beside: Sidecar) -> float:
    """The most memory that a process ever had."""
    assert beside.process is not None
    lines = Path(f"/proc/{beside.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def sources(store: Planstore) -> list[dict[str, Any]]:
    """What the plan store says of each start of each sidecar."""
    answer = store.rest("GET", "/api/billing/usage/sources")
    assert answer.is_success, answer.text
    found: list[dict[str, Any]] = answer.json()["sources"]
    return found


def value_of(store: Planstore, tenant: str) -> int:
    """What the ledger has of a tenant's usage, all metrics together."""
    return sum(metric["value"] for metric in store.usage(tenant)["usage"])


@pytest.mark.timeout(1800)
def test_a_backlog_drains(
    planstore: Callable[..., Planstore], sidecar: Callable[..., Sidecar], tmp_path: Path
) -> None:
    """All of it is in the ledger once, both ends say so, and the sidecar stays small."""
    store = planstore()
    for number in range(TENANTS):
        store.subscribe(f"tenant-{number}", "large")
    asyncio.run(fill(tmp_path / "sidecar", BACKLOG))

    beside = sidecar(store, "--max-outbox-bytes", str(16 << 30))
    until(
        lambda: beside.metric("entitlement_outbox_settled_events") == BACKLOG,
        "the backlog to drain",
        timeout=_DRAINED_WITHIN,
    )

    assert beside.metric("entitlement_outbox_accepted_events") == BACKLOG
    assert beside.metric("entitlement_outbox_events") == 0
    assert beside.metric("entitlement_outbox_lost_events") == 0
    assert most_mib(beside) < _MOST_MIB
    [source] = [one for one in sources(store) if one["accepted_total"]]
    assert (source["stored"], source["outstanding"], source["missing"]) == (BACKLOG, 0, [])
    assert sum(value_of(store, f"tenant-{number}") for number in range(TENANTS)) == BACKLOG * 3
