"""Corrections: an event is voided, or its value amended, by its id, by an event of its own (DESIGN 8).

The ledger stores them like others, completed from what they correct. Of several of one event, the last to
arrive holds. Each is in the audit log, with who made it, why, and what the event counted as before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.audit import Change, because, record
from entitlement_sidecar.planstore.db import UsageEventRow
from entitlement_sidecar.planstore.usage.changing import Differences, FactChange, Occasion, metrics_of
from entitlement_sidecar.planstore.usage.facts import Fact, Stored, stored
from entitlement_sidecar.planstore.usage.giving_back import LimitsOf, QuotaChanges


def apply_corrections(
    session: Session,
    corrections: Sequence[UsageEvent],
    document: CatalogueDocument,
    now: datetime,
    limits_of: LimitsOf,
) -> None:
    """Has corrections that were just stored count, in the caller's transaction.

    It has its turn with their tenants (`turns`): no other corrects the same events meanwhile. Aggregates
    become `adjusted`, and quota is given back or counted. Where the window is closed and its
    metric refuses late events, corrections are refused before they are stored.
    """
    new = {(correction.tenant_id, correction.id): correction for correction in corrections}
    found = stored(session, {(correction.tenant_id, correction.corrects) for correction in corrections})
    changes = [_change(one, new.keys()) for one in found]
    metrics = metrics_of(session, document, {one.row.metric for one in found})
    quota, differences = QuotaChanges(limits_of, now), Differences()
    quota.add(session, changes, metrics)
    differences.add(changes)
    quota.apply(session)
    differences.apply(session, metrics, Occasion(now, is_correction=True))
    for one in found:
        _record(session, one, new, now)


def _change(one: Stored, new: Any) -> FactChange:  # noqa: ANN401 - a view of keys
    """From what it was to what it is. What another replica stored meanwhile was its change, not ours."""
    earlier = [row for row in one.corrections if (row.tenant_id, row.event_id) not in new]
    before = one.fact(earlier, one.classification)
    return FactChange(one.row, before, one.fact(one.corrections, one.classification))


def _record(session: Session, one: Stored, new: dict[tuple[str, str], UsageEvent], now: datetime) -> None:
    """One entry for each correction, in the order in which they hold."""
    before: list[UsageEventRow] = []
    for row in one.corrections:
        correction = new.get((row.tenant_id, row.event_id))
        if correction is not None:
            after = {
                **_told(one.fact([*before, row], one.classification)),
                "correction": row.event_id,
                "actor_id": correction.actor_id,
                "reason": correction.reason,
            }
            change = Change(
                "usage.voided" if row.voids else "usage.amended",
                f"usage_event/{one.row.event_id}",
                one.row.tenant_id,
                _told(one.fact(before, one.classification)),
                after,
            )
            with because(correction.reason):
                record(session, change, now)
        before.append(row)


def _told(fact: Fact | None) -> dict[str, Any]:
    if fact is None:
        return {"counts": False}
    return {
        "counts": True,
        "metric": fact.key.metric,
        "value": fact.value,
        "classification": Classification(fact.key.classification).name.lower(),
    }
