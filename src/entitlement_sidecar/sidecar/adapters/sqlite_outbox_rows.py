"""Events as the outbox's file holds them, and how calls are judged against what is held."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Sequence

import msgspec

from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.outbox import Consumption, OutboxRecord, PreparedRecord, not_kept
from entitlement_sidecar.sidecar.usage.rollup import rolled_up, rolls_up
from entitlement_sidecar.sidecar.usage.window import lane_of
from entitlement_sidecar.wire.codec import event_from_proto, event_to_proto, microseconds
from entitlement_sidecar.wire.v1 import usage_pb2

Held = dict[tuple[str, str], bytes]
"""Digests by tenant and event id."""

_parse = usage_pb2.UsageEvent.FromString


class Kept(msgspec.Struct, frozen=True, gc=False):
    """An event as the file holds it. `recorded_at` is in microseconds since 1970.

    One that is summed up has no payload yet, but `rollup`; only with a first answer it has an identity.
    It uses `value` of the lease that it names.
    """

    tenant_id: str
    event_id: str
    digest: bytes
    recorded_at: int
    payload: bytes
    lane: int = 0
    consumption: Consumption | None = None
    rollup: UsageEvent | None = None
    lease_id: str = ""
    value: int = 0


class Call(msgspec.Struct, frozen=True):
    """Events of one call; `atomic`: one conflict keeps nothing of it."""

    rows: Sequence[Kept]
    atomic: bool = False


class Row(msgspec.Struct, frozen=True, gc=False):
    """What the file says of an event that left it, or is read from it. A rollup has a value and a count."""

    event_id: str
    payload: bytes
    value: int | None
    count: int | None

    def message(self) -> usage_pb2.UsageEvent:
        """The event as it travels."""
        message = _parse(self.payload)
        if self.value is not None and self.count is not None:
            # As `rolled_up`.
            message.id = message.correlation_id = self.event_id
            message.value = self.value
            message.count = self.count if self.count != 1 else 0
            message.id_generated = False
        return message

    def event(self) -> UsageEvent:
        """The event."""
        event = event_from_proto(_parse(self.payload))
        if self.value is None or self.count is None:
            return event
        return rolled_up(event, self.event_id, self.value, self.count)


def kept(record: OutboxRecord) -> Kept:
    """A record as the file holds it. Nobody else has an identity that was made for it here."""
    named_here = record.event.id_generated and record.consumption is None and not record.rollup
    return _kept(record, b"" if named_here else _digest(record))


def kept_apart(record: OutboxRecord) -> Kept:
    """As `kept`, of a record that may come again, whoever named its event."""
    return _kept(record, _digest(record))


def _kept(record: OutboxRecord, digest: bytes) -> Kept:
    event, rollup = record.event, rolls_up(record)
    return Kept(
        event.tenant_id,
        event.id,
        digest,
        microseconds(event.recorded_at),
        b"" if rollup else payload_of(event),
        lane_of(event.tenant_id, event.metric),
        record.consumption,
        event if rollup else None,
        event.lease_id,
        event.value,
    )


def _digest(record: OutboxRecord) -> bytes:
    """What tells a record from another of its identity."""
    return _quantity(record.consumption) if rolls_up(record) else record.event.digest()


def kept_prepared(record: PreparedRecord) -> Kept:
    """A prepared record as the file holds it."""
    return Kept(
        record.tenant_id,
        record.event_id,
        b"",
        record.recorded_at,
        record.payload,
        record.lane,
        None,
        None,
        record.lease_id,
        record.value,
    )


def payload_of(event: UsageEvent) -> bytes:
    """An event as bytes."""
    return event_to_proto(event).SerializeToString()


def _quantity(consumption: Consumption | None) -> bytes:
    """What tells a CONSUME that is summed up from another request of its id."""
    return b"" if consumption is None else b"consumed %d" % consumption.quantity


def has_identity(row: Kept) -> bool:
    """Whether it can be told from others: not what was named here, nor, but for a CONSUME, a sum."""
    return bool(row.digest)


def judge(call: Call, held: Held) -> tuple[list[UsageResult], list[Kept]]:
    """Outcomes of a call, and what it adds to what is held."""
    seen = ChainMap[tuple[str, str], bytes]({}, held)
    results, fresh = [], []
    for row in call.rows:
        before = seen.get((row.tenant_id, row.event_id)) if has_identity(row) else None
        if before is None:
            seen.update(identities([row]))
            fresh.append(row)
        results.append(_outcome(row, before))
    if call.atomic and any(result.outcome is UsageOutcome.CONFLICT for result in results):
        return [not_kept(r.id) if r.outcome is UsageOutcome.ACCEPTED else r for r in results], []
    return results, fresh


def identities(rows: Iterable[Kept]) -> Held:
    """What rows add to what is held."""
    return {(row.tenant_id, row.event_id): row.digest for row in rows if has_identity(row)}


def _outcome(row: Kept, held: bytes | None) -> UsageResult:
    if held is None:
        return UsageResult(row.event_id, UsageOutcome.ACCEPTED)
    if held == row.digest:
        return UsageResult(row.event_id, UsageOutcome.DUPLICATE, "already held; counted once")
    reason = "the same id is held with other content; give other usage another id"
    return UsageResult(row.event_id, UsageOutcome.CONFLICT, reason)
