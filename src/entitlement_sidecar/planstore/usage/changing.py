"""What becomes of aggregates when a fact is not what it was: corrected, voided or classified anew.

Sums change by the difference. All else, and what a sum was first or last of, is counted again from the facts
of the window, whose aggregate is held meanwhile. Where retention has removed some of these facts, only what
follows from the difference changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Aggregation, CatalogueDocument, Metric
from entitlement_sidecar.planstore.db import MetricRow, UsageEventRow, UsageLedgerRow
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.planstore.usage.facts import Fact, Key, facts_of, in_aggregate
from entitlement_sidecar.planstore.usage.removed import Removed
from entitlement_sidecar.planstore.usage.slots import is_closed
from entitlement_sidecar.planstore.usage.totals import DERIVED, LARGEST, add_up, key_columns, nothing

# Made before there are threads, as in `catalogue.plans`.
_metric = msgspec.json.Decoder(Metric).decode


class FactChange(msgspec.Struct, frozen=True):
    """An event, as it counted until now, and as it does from now on; None: it does not."""

    row: UsageEventRow
    before: Fact | None
    after: Fact | None


class Occasion(msgspec.Struct, frozen=True):
    """Why facts change, and when. After a correction an aggregate is `adjusted` in any case."""

    now: datetime
    is_correction: bool = False


class _Edges(msgspec.Struct):
    """What some facts were first and last of."""

    first: datetime
    last: datetime
    highest: int

    @classmethod
    def of(cls, fact: Fact, known: _Edges | None) -> _Edges:
        """With one more fact."""
        at = fact.occurred_at
        if known is None:
            return cls(at, at, fact.id)
        return cls(min(at, known.first), max(at, known.last), max(fact.id, known.highest))


class _Difference(msgspec.Struct):
    """What one aggregate loses and gets, added up. `left` is of those that are gone for good."""

    unit: str
    window_end: datetime | None
    value: int = 0
    count: int = 0
    come: _Edges | None = None
    left: _Edges | None = None


class Differences:
    """What changes of facts make of aggregates: as large as these are many, however many facts change."""

    def __init__(self) -> None:
        self._found: dict[Key, _Difference] = {}

    def add(self, changes: Iterable[FactChange]) -> None:
        """Changes of facts that are stored already, each of another event."""
        for change in changes:
            before, after = change.before, change.after
            if before == after:
                continue
            if before is not None:
                self._leaves(before, for_good=after is None or after.key != before.key)
            if after is not None:
                self._comes(after)

    def _leaves(self, fact: Fact, *, for_good: bool) -> None:
        difference = self._of(fact)
        difference.value -= fact.value
        difference.count -= fact.count
        if for_good:
            difference.left = _Edges.of(fact, difference.left)

    def _comes(self, fact: Fact) -> None:
        difference = self._of(fact)
        difference.value += fact.value
        difference.count += fact.count
        difference.come = _Edges.of(fact, difference.come)

    def _of(self, fact: Fact) -> _Difference:
        found = self._found.get(fact.key)
        if found is None:
            found = self._found[fact.key] = _Difference(fact.unit, fact.window_end)
        return found

    def apply(self, session: Session, metrics: Mapping[str, Metric], occasion: Occasion) -> None:
        """Has aggregates follow; `metrics` has the metric of every one.

        In the order of keys, so that two that change the same never wait for each other in a circle.
        """
        if not self._found:
            return
        removed = Removed.read(session)
        for key, difference in sorted(self._found.items(), key=_by_key):
            metric = metrics[key.metric]
            row = _held(session, key, difference.unit, difference.window_end)
            is_whole = removed.is_whole(key.classification, row.window_end)
            if is_whole and _must_count_again(row, metric):
                _count_again(session, key, row, metric)
            else:
                _add_difference(row, metric, difference)
                if is_whole and _was_at_an_edge(row, difference.left):
                    _find_edges(session, key, row)
            _changed(row, metric, occasion)
        session.flush()


def _by_key(found: tuple[Key, _Difference]) -> Key:
    return found[0]


def metrics_of(session: Session, catalogue: CatalogueDocument, keys: Iterable[str]) -> dict[str, Metric]:
    """Metrics by key, as the catalogue in force has them, or else the last one that had them."""
    found = {key: catalogue.metrics[key] for key in keys if key in catalogue.metrics}
    if missing := set(keys) - found.keys():
        rows = session.execute(select(MetricRow.key, MetricRow.body).where(MetricRow.key.in_(missing)))
        found |= {key: _metric(body) for key, body in rows}
    return found


def count_again(session: Session, key: Key, metric: Metric, now: datetime) -> None:
    """Makes an aggregate anew from its facts, in the caller's transaction, and makes it where it is missing.

    Nothing may have been removed from its window.
    """
    row = _held(session, key, metric.unit, None)
    before = {name: getattr(row, name) for name in DERIVED}
    _count_again(session, key, row, metric)
    if before != {name: getattr(row, name) for name in DERIVED}:
        _changed(row, metric, Occasion(now))
    session.flush()


def _changed(row: UsageLedgerRow, metric: Metric, occasion: Occasion) -> None:
    if occasion.is_correction or row.state != "open" or is_closed(metric, row.window_end, occasion.now):
        row.state = "adjusted"
    row.version += 1


def _held(session: Session, key: Key, unit: str, window_end: datetime | None) -> UsageLedgerRow:
    """The aggregate, made where it is missing, and held until the transaction ends."""
    row = UsageLedgerRow
    empty = key_columns(key) | nothing(key, unit, window_end)
    session.execute(insert_for(session, row).values(**empty).on_conflict_do_nothing())
    query = select(row).where(*(getattr(row, name) == value for name, value in key_columns(key).items()))
    return session.scalars(query.with_for_update(), execution_options={"populate_existing": True}).one()


def _must_count_again(row: UsageLedgerRow, metric: Metric) -> bool:
    return metric.aggregation is not Aggregation.SUM or row.value >= LARGEST


def _count_again(session: Session, key: Key, row: UsageLedgerRow, metric: Metric) -> None:
    total = add_up(facts_of(session, key, row.window_end), metric.aggregation)
    _fill(row, nothing(key, row.unit, row.window_end) if total is None else total.derived())


def _add_difference(row: UsageLedgerRow, metric: Metric, difference: _Difference) -> None:
    row.event_count = max(0, row.event_count + difference.count)
    if metric.aggregation is Aggregation.SUM:
        row.value = min(max(0, row.value + difference.value), LARGEST)
    if (come := difference.come) is not None:
        row.first_event_at = come.first if not row.watermark else min(row.first_event_at, come.first)
        row.last_event_at = max(row.last_event_at, come.last)
        row.watermark = max(row.watermark, come.highest)


def _was_at_an_edge(row: UsageLedgerRow, left: _Edges | None) -> bool:
    return left is not None and (
        left.highest >= row.watermark or left.first <= row.first_event_at or left.last >= row.last_event_at
    )


def _find_edges(session: Session, key: Key, row: UsageLedgerRow) -> None:
    query, fact = in_aggregate(key, row.window_end)
    edges = (func.min(fact.c.occurred_at), func.max(fact.c.occurred_at), func.max(fact.c.id))
    first, last, watermark = session.execute(query.with_only_columns(*edges)).one()
    if watermark is None:
        _fill(row, nothing(key, row.unit, row.window_end))
    else:
        row.first_event_at, row.last_event_at, row.watermark = first, last, watermark


def _fill(row: UsageLedgerRow, columns: Mapping[str, Any]) -> None:
    for name, value in columns.items():
        setattr(row, name, value)
