"""Reports: what a tenant's events add up to by subject, actor, emitter, metric, day or a dimension (S3.5).

From the events themselves, with what holds of each now: an event counts by the last word on its
classification, with the value of its last correction, and not at all once it is voided. What retention has
removed is in no report; the aggregates of the ledger keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from sqlalchemy import ColumnElement, Subquery, Text, case, column, func, literal, select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Aggregation, Classification
from entitlement_sidecar.planstore.catalogue.plans import current_document
from entitlement_sidecar.planstore.usage.facts import Scope, facts
from entitlement_sidecar.planstore.usage.totals import LARGEST

DIMENSION = "dimension:"
"""Before the name of an attribute that a report is by."""

_PART = 2**32
"""Sums of halves of numbers stay within 64 bits for as many events as a report can read."""


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
    classification: Annotated[int, msgspec.Meta(ge=0, le=Classification.INFORMATIONAL.value)]


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
    lines = _lines(session, ask, ranked=bool(measured.last))
    order = (lines.c.key, lines.c.metric, lines.c.classification)
    query = (
        select(
            *order,
            func.max(lines.c.unit),
            _value(lines, measured),
            _total(lines.c.events),
            func.min(lines.c.occurred_at),
            func.max(lines.c.occurred_at),
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
    # Beyond 64 bits SQLite answers a float, and PostgreSQL a decimal.
    value, count = (min(int(one), LARGEST) for one in (value, count))
    return Sum(key, metric, unit, counted, value, count, first, last)


def _measured(session: Session, metric: str) -> _Measured:
    """The metrics that a report is about whose values are not summed, as the catalogue in force says."""
    found = current_document(session).metrics.values()
    asked = [one for one in found if metric in {"", one.key}]

    def of(kind: Aggregation) -> list[str]:
        return [one.key for one in asked if one.aggregation is kind]

    return _Measured(of(Aggregation.MAX), of(Aggregation.LAST), of(Aggregation.UNIQUE_COUNT))


def _lines(session: Session, ask: ReportAsk, *, ranked: bool) -> Subquery:
    """The events that are asked for, by their lines; `ranked` numbers those of a line, the last one first."""
    fact = facts(Scope(ask.tenant_id, ask.metric, ask.since, ask.until))
    key = _key(session, fact, ask.by)
    newest = (fact.c.occurred_at.desc(), fact.c.id.desc())
    rank = func.row_number().over(partition_by=(key, fact.c.metric, fact.c.classification), order_by=newest)
    return select(
        key.label("key"),
        fact.c.metric,
        fact.c.unit,
        fact.c.classification,
        fact.c.value,
        fact.c["count"].label("events"),
        fact.c.subject,
        fact.c.occurred_at,
        (rank if ranked else literal(1)).label("rank"),
    ).subquery("lines")


def _key(session: Session, fact: Subquery, by: str) -> ColumnElement[str]:
    if by.startswith(DIMENSION):
        return func.coalesce(_dimension(session, fact, by.removeprefix(DIMENSION)), "")
    columns: Mapping[str, ColumnElement[str]] = {
        By.SUBJECT: fact.c.subject,
        By.ACTOR: fact.c.actor_id,
        By.EMITTER: fact.c.emitter,
        By.METRIC: fact.c.metric,
    }
    return columns[by] if by in columns else _day(session, fact)


def _dimension(session: Session, fact: Subquery, name: str) -> ColumnElement[str]:
    """The value of an attribute; null of events without it."""
    if session.get_bind().dialect.name != "sqlite":
        found: ColumnElement[str] = fact.c.dimensions[name].as_string()
        return found
    # A path of SQLite finds no name as it is escaped in what is stored: quotes, backslashes, beyond ASCII.
    each = func.json_each(fact.c.dimensions).table_valued("key", column("value", Text()))
    return select(each.c.value).where(each.c.key == name).scalar_subquery()


def _day(session: Session, fact: Subquery) -> ColumnElement[str]:
    """The day in UTC, as ISO 8601 writes it."""
    if session.get_bind().dialect.name == "sqlite":
        return func.strftime("%Y-%m-%d", fact.c.occurred_at)
    return func.to_char(func.timezone("UTC", fact.c.occurred_at), "YYYY-MM-DD")


def _value(lines: Subquery, measured: _Measured) -> ColumnElement[int]:
    """What the values of a line come to."""
    kinds = (
        (measured.greatest, func.max(lines.c.value)),
        (measured.last, func.max(case((lines.c.rank == 1, lines.c.value)))),
        (measured.unique, func.count(func.nullif(lines.c.subject, "").distinct())),
    )
    cases = [(lines.c.metric.in_(metrics), value) for metrics, value in kinds if metrics]
    total = _total(lines.c.value)
    return case(*cases, else_=total) if cases else total


def _total(numbers: ColumnElement[int]) -> ColumnElement[int]:
    """Their sum, in two parts: SQLite fails where a sum leaves 64 bits, and not where two are added."""
    return func.sum(numbers // _PART) * _PART + func.sum(numbers % _PART)
