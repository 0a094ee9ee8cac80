"""What listed events count as now: a later word on one, or on the original of a correction, holds (S0.9)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.db import UsageClassificationRow, UsageEventRow


class Verdict(msgspec.Struct, frozen=True):
    """What an event counts as, by which rule, and by the registry of which version."""

    classification: int
    rule: str
    registry_version: int


def verdicts(session: Session, tenant_id: str, events: Sequence[UsageEventRow]) -> list[Verdict]:
    """What holds of each of a page of a tenant's events, in their order."""
    row = UsageClassificationRow
    about = {_about(event) for event in events}
    query = select(row.event_id, row.classification, row.rule, row.registry_version)
    told = query.where(row.tenant_id == tenant_id, row.event_id.in_(about)).order_by(row.id)
    # Of several the last one stays.
    last = {
        event_id: Verdict(counts_as, rule, version)
        for event_id, counts_as, rule, version in session.execute(told)
    }
    return [last.get(_about(event)) or _first(event) for event in events]


def _about(event: UsageEventRow) -> str:
    return event.corrects or event.event_id


def _first(event: UsageEventRow) -> Verdict:
    return Verdict(event.classification, event.rule, event.registry_version)
