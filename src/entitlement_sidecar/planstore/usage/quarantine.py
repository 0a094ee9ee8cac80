"""What operators do with usage that is kept and does not count: look, judge it again, discard it (S0.7).

held ──replay──▶ released (it is in the ledger)
│  └──────────▶ held (the registry in force still keeps it, and says why)
└──discard──▶ discarded (its row stays, and its identity is taken: sent again, it is a duplicate)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.planstore.audit import Change, current_actor, record
from entitlement_sidecar.planstore.db import UsageQuarantineRow
from entitlement_sidecar.planstore.usage.arrival import Arrival, Identity
from entitlement_sidecar.planstore.usage.identities import give_up
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.wire.codec import event_from_proto
from entitlement_sidecar.wire.v1 import usage_pb2

_COUNTED = frozenset({UsageOutcome.ACCEPTED, UsageOutcome.LATE_ACCEPTED, UsageOutcome.DUPLICATE})
"""Outcomes after which an event is in the ledger."""


class QuarantinePlace(msgspec.Struct, frozen=True, array_like=True):
    """Where an event stands in the list, the oldest arrival first: what a cursor says."""

    received_at: datetime
    tenant_id: str
    event_id: str


class QuarantineFilter(msgspec.Struct, frozen=True):
    """Which events are meant; what is empty tells nothing apart."""

    tenant_id: str = ""
    metric: str = ""
    rule: str = ""
    event_ids: tuple[str, ...] = ()


class QuarantineQuery(msgspec.Struct, frozen=True):
    """One page of events."""

    wanted: QuarantineFilter
    after: QuarantinePlace | None
    limit: int


class QuarantinePage(msgspec.Struct, frozen=True):
    """What a page of replayed or discarded events has come to; `last` None: there are no more."""

    looked_at: int
    resolved: int
    last: QuarantinePlace | None


def place_of_row(row: UsageQuarantineRow) -> QuarantinePlace:
    """The place of a row."""
    return QuarantinePlace(row.received_at, row.tenant_id, row.event_id)


def quarantined(session: Session, query: QuarantineQuery, state: str) -> Sequence[UsageQuarantineRow]:
    """Events in one state, the oldest arrival first."""
    return session.scalars(_select(query, state)).all()


def held_by_rule(session: Session) -> dict[str, int]:
    """How many events are held, by the rule that keeps them."""
    row = UsageQuarantineRow
    query = select(row.rule, func.count()).where(row.state == "held").group_by(row.rule)
    return dict(session.execute(query).all())


def held_of_metrics(session: Session, metrics: Sequence[str]) -> dict[str, int]:
    """How many events are held because no catalogue named these metrics, by metric."""
    row = UsageQuarantineRow
    query = select(row.metric, func.count()).where(
        row.state == "held", row.rule == RuleName.METRIC, row.metric.in_(metrics)
    )
    return dict(session.execute(query.group_by(row.metric)).all())


class Quarantine:
    """Changes what is held, a page in one transaction, and on record."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def replay(self, session: Session, query: QuarantineQuery, now: datetime) -> QuarantinePage:
        """Judges held events again, by the catalogue in force: they count now, or say why not.

        Raises:
            SourceUnavailableError: There is no catalogue.
        """
        rows = _held(session, query)
        results = self._ledger.append(session, [_arrival(row) for row in rows], now) if rows else []
        released = [row for row, result in zip(rows, results, strict=True) if _release(row, result, now)]
        if rows:
            record(session, _change("usage.quarantine_replayed", query.wanted, rows, released), now)
        return _page(rows, len(released), query.limit)

    def discard(self, session: Session, query: QuarantineQuery, now: datetime) -> QuarantinePage:
        """Gives held events up: they will never count, whoever sends them again.

        What counts by now, since it was sent again and the catalogue had changed, is released instead.
        """
        rows = _held(session, query)
        counted = give_up(session, {_identity(row): row.digest for row in rows}) if rows else set()
        discarded = [row for row in rows if _identity(row) not in counted]
        for row in rows:
            _resolve(row, "released" if _identity(row) in counted else "discarded", now)
        if rows:
            record(session, _change("usage.quarantine_discarded", query.wanted, rows, discarded), now)
        return _page(rows, len(discarded), query.limit)


def _select(asked: QuarantineQuery, state: str) -> Select[UsageQuarantineRow]:
    row, wanted, after = UsageQuarantineRow, asked.wanted, asked.after
    query = select(row).where(row.state == state).order_by(row.received_at, row.tenant_id, row.event_id)
    for name in ("tenant_id", "metric", "rule"):
        if value := getattr(wanted, name):
            query = query.where(getattr(row, name) == value)
    if wanted.event_ids:
        query = query.where(row.event_id.in_(wanted.event_ids))
    if after is not None:
        place = (after.received_at, after.tenant_id, after.event_id)
        query = query.where(tuple_(row.received_at, row.tenant_id, row.event_id) > place)
    return query.limit(asked.limit)


def _held(session: Session, query: QuarantineQuery) -> Sequence[UsageQuarantineRow]:
    """Held rows, locked, so that two operators at once do not do it twice."""
    return session.scalars(_select(query, "held").with_for_update()).all()


def _identity(row: UsageQuarantineRow) -> Identity:
    return row.tenant_id, row.event_id


def _arrival(row: UsageQuarantineRow) -> Arrival:
    event = event_from_proto(usage_pb2.UsageEvent.FromString(row.payload))
    return Arrival(event, row.instance, row.epoch, row.sequence)


def _release(row: UsageQuarantineRow, result: UsageResult, now: datetime) -> bool:
    if result.outcome in _COUNTED:
        _resolve(row, "released", now)
        return True
    row.rule, row.reason, row.registry_version = result.rule, result.reason, result.registry_version
    return False


def _resolve(row: UsageQuarantineRow, state: str, now: datetime) -> None:
    row.state, row.resolved_at, row.resolved_by = state, now, current_actor().name


def _page(rows: Sequence[UsageQuarantineRow], resolved: int, limit: int) -> QuarantinePage:
    last = place_of_row(rows[-1]) if len(rows) == limit else None
    return QuarantinePage(len(rows), resolved, last)


def _change(
    action: str,
    wanted: QuarantineFilter,
    rows: Sequence[UsageQuarantineRow],
    resolved: Sequence[UsageQuarantineRow],
) -> Change:
    before = {"filter": {name: value for name, value in msgspec.to_builtins(wanted).items() if value}}
    after: dict[str, Any] = {
        "looked_at": len(rows),
        "events": [{"tenant_id": row.tenant_id, "event_id": row.event_id} for row in resolved],
    }
    return Change(action, "usage-quarantine/held", wanted.tenant_id, before, after)
