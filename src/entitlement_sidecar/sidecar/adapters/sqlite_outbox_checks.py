"""What has to hold in an outbox's file, checked one by one; each finding says where and what is wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations

import msgspec

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import epoch_of, sequence_of
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import (
    DEAD,
    QUEUED,
    Epoch,
    OutboxReader,
    Stored,
    StoredBatch,
)
from entitlement_sidecar.sidecar.leases.journal import LeaseAccount


class Finding(msgspec.Struct, frozen=True):
    """Something that does not hold: which check, where, and what is wrong."""

    check: str
    where: str
    problem: str


def check(reader: OutboxReader, advance: Callable[[int], None]) -> Iterator[Finding]:
    """Everything that is wrong, as of one instant. `advance` is told how many events were looked at."""
    damage = reader.integrity()
    yield from (Finding("integrity", "file", one) for one in damage)
    try:
        epochs = {one.epoch: one for one in reader.epochs()}
        yield from (found for epoch in epochs.values() for found in _conservation(epoch))
        yield from _boundaries(reader.batches())
        unused = _Unused(reader.leases())
        for stored in reader.rows(QUEUED):
            advance(1)
            unused.subtract(stored)
            yield from _record(stored, epochs.get(epoch_of(stored.place)))
        for stored in reader.rows(DEAD):
            advance(1)
            yield from _payload("dead letters", stored)
        yield from unused.findings()
    except sqlite3.Error as error:
        yield Finding("integrity", "file", f"cannot be read to its end: {error}")


class _Unused:
    """What leases say was used, less the events that wait: those that have left are the rest."""

    def __init__(self, leases: Iterable[LeaseAccount]) -> None:
        self._leases = {one.lease_id: one for one in leases}
        self._rest = {one.lease_id: one.used for one in self._leases.values()}

    def subtract(self, stored: Stored) -> None:
        """Takes an event off the lease that it names."""
        event = stored.event() if self._rest else None
        if event is not None and event.lease_id in self._rest:
            self._rest[event.lease_id] -= event.value

    def findings(self) -> Iterator[Finding]:
        """Leases of which more was used than their accounts say."""
        for lease_id, rest in self._rest.items():
            if rest < 0:
                used = self._leases[lease_id].used
                told = f"says that {used} were used, but events that wait used {used - rest}"
                yield Finding("leases", f"lease {lease_id}", told)


def _conservation(epoch: Epoch) -> Iterator[Finding]:
    where = f"epoch {epoch.epoch}"
    rest = epoch.settled + epoch.queued + epoch.buried + epoch.lost
    if epoch.accepted != rest:
        told = f"settled {epoch.settled} + queued {epoch.queued} + dead {epoch.buried} + lost {epoch.lost}"
        yield Finding("conservation", where, f"accepted {epoch.accepted}, but {told} = {rest}")
    if epoch.dead != epoch.buried:
        counted = f"counted {epoch.dead} dead letters, holds {epoch.buried}"
        yield Finding("conservation", where, counted)


def _boundaries(batches: list[StoredBatch]) -> Iterator[Finding]:
    for one in batches:
        where = f"batch {one.batch_id}"
        if one.first > one.last or epoch_of(one.first) != epoch_of(one.last):
            yield Finding("batches", where, "its boundaries are not those of events of one epoch in order")
        elif not one.waiting:
            yield Finding("batches", where, "none of its events waits, and it was not closed")
    for one, other in combinations(batches, 2):
        share = one.lane is None or other.lane is None or one.lane == other.lane
        if share and one.first <= other.last and other.first <= one.last:
            yield Finding("batches", f"batch {one.batch_id}", f"has events of batch {other.batch_id} too")


def _record(stored: Stored, epoch: Epoch | None) -> Iterator[Finding]:
    if epoch is None or not 0 < sequence_of(stored.place) <= epoch.accepted:
        yield Finding("places", _where(stored), "its epoch has not given this place")
    yield from _payload("records", stored)


def _payload(check_: str, stored: Stored) -> Iterator[Finding]:
    event = stored.event()
    if event is None:
        yield Finding(check_, _where(stored), "its bytes are no event")
    elif (event.tenant_id, event.id) != (stored.tenant_id, stored.event_id):
        yield Finding(check_, _where(stored), f"its bytes are event {event.id!r} of {event.tenant_id!r}")
    elif not _fits(stored, event):
        yield Finding(check_, _where(stored), "its digest is that of other content")


def intact(stored: Stored) -> UsageEvent | None:
    """The event, where it is what was accepted; None where it is damaged."""
    event = stored.event()
    return event if event is not None and _fits(stored, event) else None


def _fits(stored: Stored, event: UsageEvent) -> bool:
    """A rollup has no digest: it grew after it was accepted."""
    return not stored.digest or stored.value is not None or event.digest() == stored.digest


def _where(stored: Stored) -> str:
    place = f"epoch {epoch_of(stored.place)}, sequence {sequence_of(stored.place)}"
    return f"{place}: event {stored.event_id!r} of {stored.tenant_id!r}"
