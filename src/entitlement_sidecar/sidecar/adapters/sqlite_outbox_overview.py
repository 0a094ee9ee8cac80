"""What an outbox's file holds, summed up for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import (
    DEAD,
    QUEUED,
    Epoch,
    OutboxReader,
    Stored,
    damaged_files,
)
from entitlement_sidecar.sidecar.leases.journal import LeaseAccount
from entitlement_sidecar.sidecar.usage.room import level_of


class Waiting(msgspec.Struct):
    """Queued usage of one tenant and metric. `records` travel, `events` were reported: rollups differ."""

    tenant_id: str
    metric: str
    records: int = 0
    events: int = 0
    value: int = 0
    oldest: datetime | None = None


class Refused(msgspec.Struct):
    """Dead letters of one tenant and metric that share outcome and reason."""

    tenant_id: str
    metric: str
    outcome: str
    reason: str
    records: int = 0


class Damaged(msgspec.Struct, frozen=True):
    """A file that was set aside."""

    file: str
    bytes: int


class Overview(msgspec.Struct, frozen=True):
    """Everything that `outbox inspect` says. Largest first in `waiting` and `dead_letters`."""

    file: str
    instance: str
    accepted: int
    settled: int
    queued: int
    dead: int
    lost: int
    oldest_recorded_at: datetime | None
    first_answers: int
    bytes_used: int
    max_bytes: int
    level: str
    open_batches: int
    epochs: list[Epoch]
    waiting: list[Waiting]
    dead_letters: list[Refused]
    leases: list[LeaseAccount]
    damaged_files: list[Damaged]


def overview(reader: OutboxReader, max_bytes: int, advance: Callable[[int], None]) -> Overview:
    """Sums up a file as of one instant. `advance` is told how many records were read."""
    epochs, used = reader.epochs(), reader.bytes_used
    waiting = _waiting(reader.rows(QUEUED), advance)
    return Overview(
        file=str(reader.path),
        instance=reader.instance,
        accepted=sum(one.accepted for one in epochs),
        settled=sum(one.settled for one in epochs),
        queued=sum(one.queued for one in epochs),
        dead=sum(one.buried for one in epochs),
        lost=sum(one.lost for one in epochs),
        oldest_recorded_at=min((one.oldest for one in waiting if one.oldest), default=None),
        first_answers=reader.first_answers,
        bytes_used=used,
        max_bytes=max_bytes,
        level=level_of(used / max_bytes).name.lower(),
        open_batches=len(reader.batches()),
        epochs=epochs,
        waiting=sorted(waiting, key=lambda one: -one.records),
        dead_letters=sorted(_refused(reader.rows(DEAD), advance), key=lambda one: -one.records),
        leases=reader.leases(),
        damaged_files=[Damaged(str(one), one.stat().st_size) for one in damaged_files(Path(reader.path))],
    )


def _waiting(rows: Iterable[Stored], advance: Callable[[int], None]) -> list[Waiting]:
    found: dict[tuple[str, str], Waiting] = {}
    for stored in rows:
        advance(1)
        event = stored.event()
        key = (stored.tenant_id, _metric(event))
        one = found.setdefault(key, Waiting(*key))
        one.records += 1
        if event is not None:
            one.events += event.count
            one.value += event.value
            one.oldest = min(one.oldest or event.recorded_at, event.recorded_at)
    return list(found.values())


def _refused(rows: Iterable[Stored], advance: Callable[[int], None]) -> list[Refused]:
    found: dict[tuple[str, str, str, str], Refused] = {}
    for stored in rows:
        advance(1)
        key = (stored.tenant_id, _metric(stored.event()), stored.outcome_name, stored.reason)
        found.setdefault(key, Refused(*key)).records += 1
    return list(found.values())


def _metric(event: UsageEvent | None) -> str:
    """The metric; of damaged bytes nobody knows."""
    return "(unreadable)" if event is None else event.metric
