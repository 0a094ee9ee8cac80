"""What the ledger says of one limit in one window: its events, by the admission or lease that they name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Subquery, and_, case, func, or_, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification
from entitlement_sidecar.planstore.db import QuotaAdmissionRow, UsageEventKeyRow, UsageEventRow
from entitlement_sidecar.planstore.usage.facts import Scope, facts
from entitlement_sidecar.planstore.usage.unadmitted import UNADMITTED

ADMITTED = "root:"
"""What names of admissions here begin with."""

UNLIMITED = "root:unlimited"
"""Names what was used while there was no limit: no counter has it."""


class Span(msgspec.Struct, frozen=True):
    """A feature of a tenant in a window `[since, until)`; None: it never ends."""

    tenant_id: str
    feature: str
    since: datetime
    until: datetime | None


class Told(msgspec.Struct, frozen=True):
    """What events add up to as they count now: `admitted` by an admission or a lease, `unadmitted` by nobody.

    `arrived` is what events of each lease had when they came, whatever became of them since.
    """

    admitted: int
    unadmitted: int
    arrived: Mapping[str, int]


class Waiting(msgspec.Struct, frozen=True):
    """What was counted, and whose event has not come."""

    admitted: int
    reported: int


def told_by_ledger(session: Session, span: Span, document: CatalogueDocument) -> Told:
    """Sums of what counts to the feature's quota, with corrections applied."""
    fact = facts(Scope(span.tenant_id, since=span.since, until=span.until))
    covered = case((fact.c.lease_id != "", fact.c.lease_id), (_was_admitted(fact), ADMITTED), else_="")
    query = select(covered, func.sum(fact.c.value)).where(_counts(fact, span, document)).group_by(covered)
    sums: dict[str, int] = defaultdict(int)
    for name, value in session.execute(query):
        sums[name] += int(value)
    admitted = sum(value for name, value in sums.items() if name not in {"", UNLIMITED})
    return Told(admitted, sums.get("", 0), _arrived(session, span, document))


def _arrived(session: Session, span: Span, document: CatalogueDocument) -> dict[str, int]:
    row = UsageEventRow
    query = (
        select(row.lease_id, func.sum(row.value))
        .where(
            row.tenant_id == span.tenant_id,
            row.occurred_at >= span.since,
            *([] if span.until is None else [row.occurred_at < span.until]),
            row.corrects == "",
            row.lease_id != "",
            row.lease_id.not_like(f"{ADMITTED}%"),
            _is_of(row.feature, row.metric, span, document),
        )
        .group_by(row.lease_id)
    )
    return {name: int(value) for name, value in session.execute(query)}


def waiting_for(session: Session, span: Span) -> Waiting:
    """Admissions and reports of the window whose events have not come, or not yet."""
    row, key = QuotaAdmissionRow, UsageEventKeyRow
    came = select(key.event_id).where(key.tenant_id == row.tenant_id, key.event_id == row.request_id)
    reported = func.sum(case((row.lease_id == UNADMITTED, row.quantity), else_=0))
    query = select(func.sum(row.quantity), reported).where(
        row.tenant_id == span.tenant_id,
        row.feature == span.feature,
        row.admitted_at >= span.since,
        *([] if span.until is None else [row.admitted_at < span.until]),
        ~came.exists(),
    )
    both, of_reports = (int(total or 0) for total in session.execute(query).one())
    return Waiting(admitted=both - of_reports, reported=of_reports)


def _was_admitted(fact: Subquery) -> ColumnElement[bool]:
    """Its sender never heard that it was: the admission has the event's id."""
    row = QuotaAdmissionRow
    return (
        select(row.request_id)
        .where(
            row.tenant_id == fact.c.tenant_id,
            row.request_id == fact.c.event_id,
            row.lease_id != UNADMITTED,
        )
        .exists()
    )


def _counts(fact: Subquery, span: Span, document: CatalogueDocument) -> Any:  # noqa: ANN401 - an SQL condition
    always = [name for name, metric in document.metrics.items() if metric.counts_to_quota]
    return and_(
        _is_of(fact.c.feature, fact.c.metric, span, document),
        or_(fact.c.classification == int(Classification.BILLABLE), fact.c.metric.in_(always)),
    )


def _is_of(feature: Any, metric: Any, span: Span, document: CatalogueDocument) -> Any:  # noqa: ANN401 - columns
    """An event that names no feature is of that of its metric."""
    mine = [name for name, one in document.metrics.items() if one.feature == span.feature]
    return or_(feature == span.feature, and_(feature == "", metric.in_(mine)))
