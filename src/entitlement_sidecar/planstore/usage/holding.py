"""Keeps events that may not count (yet) for operators: each identity once (S0.7)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.planstore.db import UsageQuarantineRow
from entitlement_sidecar.planstore.usage.arrival import Identity, Judged
from entitlement_sidecar.planstore.usage.bulk import insert_rows, passing_by

HELD = frozenset({UsageOutcome.QUARANTINED, UsageOutcome.UNKNOWN_METRIC})
"""Outcomes of events that are kept and do not count. Sidecars are told QUARANTINED for both."""

_OTHER = "an event with this id and other content is in quarantine; this one was refused"


def hold(session: Session, judged: Sequence[Judged], now: datetime) -> list[UsageResult]:
    """Keeps events that are not stored; one outcome per event, in order.

    QUARANTINED also where the same event is kept already; CONFLICT where another one of its identity is.
    """
    first: dict[Identity, Judged] = {}
    for one in judged:
        first.setdefault(one.identity, one)
    row = UsageQuarantineRow.__table__.c
    added = insert_rows(
        session,
        UsageQuarantineRow,
        [_row(first[identity], now) for identity in sorted(first)],
        passing_by,
        returning=[row.tenant_id, row.event_id],
    )
    digests = {identity: one.digest for identity, one in first.items()}
    if known := digests.keys() - {(tenant_id, event_id) for tenant_id, event_id in added}:
        query = select(row.tenant_id, row.event_id, row.digest)
        found = session.execute(query.where(tuple_(row.tenant_id, row.event_id).in_(sorted(known))))
        digests |= {(tenant_id, event_id): digest for tenant_id, event_id, digest in found}
    return [_told(one, digests[one.identity]) for one in judged]


def _told(one: Judged, digest: bytes) -> UsageResult:
    if digest != one.digest:
        return one.told(UsageOutcome.CONFLICT, RuleName.IDENTITY, _OTHER)
    return one.told(UsageOutcome.QUARANTINED, one.ruling.rule, one.ruling.reason)


def _row(one: Judged, now: datetime) -> dict[str, object]:
    event, arrival = one.event, one.arrival
    return {
        "tenant_id": event.tenant_id,
        "event_id": event.id,
        "digest": one.digest,
        "metric": event.metric,
        "emitter": event.emitter,
        "rule": one.ruling.rule,
        "reason": one.ruling.reason,
        "registry_version": one.registry_version,
        "occurred_at": event.occurred_at,
        "received_at": now,
        "instance": arrival.instance,
        "epoch": arrival.epoch,
        "sequence": arrival.sequence,
        "payload": arrival.payload(),
        "state": "held",
        "resolved_by": "",
    }
