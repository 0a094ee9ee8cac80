"""Reports: what a tenant's events add up to by subject, actor, emitter, metric, day or a dimension (S3.5).

From the events themselves, with what holds of each now: an event counts by the last word on its
classification, with the value of its last correction, and not at all once it is voided. What retention has
removed is in no report; the aggregates of the ledger keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Subquery, case, func, literal, select, tuple_
from sqlalchemy.orm import Session, aliased

from entitlement_sidecar.domain.catalogue import Aggregation, Classification
from entitlement_sidecar.planstore.catalogue.plans import current_document
from entitlement_sidecar.planstore.db import UsageClassificationRow, UsageEventRow

DIMENSION = "dimension:"
"""Before the name of an attribute that a report is by."""


class By(StrEnum):
    """What a report is by, beside `dimension:NAME`."""

    SUBJECT = "subject"
    ACTOR = "actor"
    EMITTER = "emitter"
    METRIC = "metric"
    DAY = "day"


class ReportAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: of whom, by what, and of which events, `since` included and `until` not.

    `by` is a `By` or `dimension:NAME`; `metric` empty: every one.
    """

    tenant_id: str
    by: str
    since: datetime
    until: datetime
    metric: str = ""


class _Measured(msgspec.Struct, frozen=True):
    """Metrics by how they add up; those of none of these are summed."""

    greatest: list[str]
    last: list[str]
    unique: list[str]


class Line(msgspec.Struct, frozen=True, array_like=True):
    """Where a line stands in a report: what a cursor says. `key` is empty for events that name nobody."""

    key: str
    metric: str
    classification: int


class Sum(msgspec.Struct, frozen=True):
    """What the events of one line add up to, as their metric adds up (sum, max, last or unique subjects)."""

    key: str
    metric: str
    unit: str
    classification: Classification | None
    value: int
    event_count: int
    first_event_at: datetime
    last_event_at: datetime

    @property
    def line(self) -> Line:
        """Its place in the report."""
        return Line(self.key, self.metric, int(self.classification or 0))


def usage_report(
    session: Session, ask: ReportAsk, after: Line | None = None, limit: int | None = None
) -> Sequence[Sum]:
    """The lines of a report by key, metric and classification; `after` is the last one seen."""
    measured = _measured(session, ask.metric)
    facts = _facts(session, ask, ranked=bool(measured.last))
    order = (facts.c.key, facts.c.metric, facts.c.classification)
    query = (
        select(
            *order,
            func.max(facts.c.unit),
            _value(facts, measured),
            func.sum(facts.c.count),
            func.min(facts.c.occurred_at),
            func.max(facts.c.occurred_at),
        )
        .group_by(*order)
        .order_by(*order)
        .limit(limit)
    )
    if after is not None:
        seen = msgspec.structs.astuple(after)
        last = (literal(value, one.type) for one, value in zip(order, seen, strict=True))
        query = query.where(tuple_(*order) > tuple_(*last))
    return [_sum(row) for row in session.execute(query)]


def _sum(row: Any) -> Sum:  # noqa: ANN401 - a row
    key, metric, classification, unit, value, count, first, last = row
    counted = Classification(classification) if classification else None
    return Sum(key, metric, unit, counted, int(value), int(count), first, last)


def _measured(session: Session, metric: str) -> _Measured:
    """The metrics that a report is about whose values are not summed, as the catalogue in force says."""
    found = current_document(session).metrics.values()
    asked = [one for one in found if metric in {"", one.key}]

    def of(kind: Aggregation) -> list[str]:
        return [one.key for one in asked if one.aggregation is kind]

    return _Measured(of(Aggregation.MAX), of(Aggregation.LAST), of(Aggregation.UNIQUE_COUNT))


def _facts(session: Session, ask: ReportAsk, *, ranked: bool) -> Subquery:
    """The events that are asked for, as they hold now; `ranked` numbers those of a line, the last first."""
    event, word, correction = UsageEventRow, _last_words(ask), _last_corrections(ask)
    key = _key(session, ask.by)
    classification = func.coalesce(word.c.classification, event.classification)
    newest = (event.occurred_at.desc(), event.id.desc())
    rank = func.row_number().over(partition_by=(key, event.metric, classification), order_by=newest)
    query = (
        select(
            key.label("key"),
            event.metric,
            event.unit,
            classification.label("classification"),
            func.coalesce(correction.c.value, event.value).label("value"),
            event.count,
            event.subject,
            event.occurred_at,
            (rank if ranked else literal(1)).label("rank"),
        )
        .outerjoin(word, word.c.event_id == event.event_id)
        .outerjoin(correction, correction.c.corrects == event.event_id)
        .where(*_asked(event, ask), event.corrects == "", func.coalesce(correction.c.voids, False).is_(False))
    )
    return query.subquery("facts")


def _asked(event: Any, ask: ReportAsk) -> Sequence[ColumnElement[bool]]:  # noqa: ANN401 - the row, or its alias
    found = [
        event.tenant_id == ask.tenant_id,
        event.occurred_at >= ask.since,
        event.occurred_at < ask.until,
    ]
    return [*found, event.metric == ask.metric] if ask.metric else found


def _last_words(ask: ReportAsk) -> Subquery:
    """What events were classified as after their arrival: of several rows the last holds."""
    row, newest = UsageClassificationRow, aliased(UsageClassificationRow)
    last = (
        select(func.max(newest.id).label("id"))
        .where(newest.tenant_id == ask.tenant_id)
        .group_by(newest.event_id)
        .subquery()
    )
    query = select(row.event_id, row.classification).join(last, last.c.id == row.id)
    return query.subquery("words")


def _last_corrections(ask: ReportAsk) -> Subquery:
    """Corrections by their originals, whose instant and metric they have: the last of each holds."""
    row, newest = UsageEventRow, aliased(UsageEventRow)
    last = (
        select(func.max(newest.id).label("id"))
        .where(*_asked(newest, ask), newest.corrects != "")
        .group_by(newest.corrects)
        .subquery()
    )
    query = select(row.id, row.corrects, row.value, row.voids).join(last, last.c.id == row.id)
    return query.where(*_asked(row, ask)).subquery("corrections")


def _key(session: Session, by: str) -> ColumnElement[str]:
    event = UsageEventRow
    if by.startswith(DIMENSION):
        return func.coalesce(event.dimensions[by.removeprefix(DIMENSION)].as_string(), "")
    columns: Mapping[str, Any] = {
        By.SUBJECT: event.subject,
        By.ACTOR: event.actor_id,
        By.EMITTER: event.emitter,
        By.METRIC: event.metric,
    }
    return columns[by] if by in columns else _day(session)


def _day(session: Session) -> ColumnElement[str]:
    """The day in UTC, as ISO 8601 writes it."""
    if session.get_bind().dialect.name == "sqlite":
        return func.strftime("%Y-%m-%d", UsageEventRow.occurred_at)
    return func.to_char(func.timezone("UTC", UsageEventRow.occurred_at), "YYYY-MM-DD")


def _value(facts: Subquery, measured: _Measured) -> ColumnElement[int]:
    """What the values of a line come to."""
    kinds = (
        (measured.greatest, func.max(facts.c.value)),
        (measured.last, func.max(case((facts.c.rank == 1, facts.c.value)))),
        (measured.unique, func.count(func.nullif(facts.c.subject, "").distinct())),
    )
    cases = [(facts.c.metric.in_(metrics), value) for metrics, value in kinds if metrics]
    total = func.sum(facts.c.value)
    return case(*cases, else_=total) if cases else total
