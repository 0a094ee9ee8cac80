"""What a correction takes over from the event that it corrects."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.db import UsageEventRow
from entitlement_sidecar.planstore.usage.arrival import Identity
from entitlement_sidecar.planstore.usage.slots import Slot
from entitlement_sidecar.wire.codec import event_from_proto
from entitlement_sidecar.wire.v1 import usage_pb2


class Original(msgspec.Struct, frozen=True, gc=False):
    """An event that is corrected, and where it counts."""

    event: UsageEvent
    slot: Slot


def originals_of(session: Session, identities: Collection[Identity]) -> dict[Identity, Original]:
    """Stored events by their identity; what was removed by retention, or never came, is absent."""
    row = UsageEventRow
    query = select(row.payload, row.subscription_id, row.window_kind, row.window_start, row.window_end)
    found = session.execute(query.where(tuple_(row.tenant_id, row.event_id).in_(sorted(identities))))
    originals = (
        Original(event_from_proto(usage_pb2.UsageEvent.FromString(payload)), Slot(held, kind, start, end))
        for payload, held, kind, start, end in found
    )
    return {(one.event.tenant_id, one.event.id): one for one in originals}


def completed(correction: UsageEvent, original: UsageEvent) -> UsageEvent:
    """A correction that says what it is about: all but who corrected, when, to what and why."""
    return msgspec.structs.replace(
        correction,
        metric=original.metric,
        unit=original.unit,
        occurred_at=original.occurred_at,
        subject=original.subject,
        correlation_id=original.correlation_id,
        feature=original.feature,
        classification=original.classification,
        dimensions=original.dimensions,
        registry_version=original.registry_version,
        rule=original.rule,
        count=original.count,
        value=0 if correction.voids else correction.value,
    )
