"""What becomes of aggregates when a fact is not what it was: corrected, voided or classified anew.

Sums change by the difference. All else, and what a sum was first or last of, is counted again from the facts
of the window, whose aggregate is held meanwhile. Where retention has removed some of these facts, only what
follows from the difference changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


class _Difference(msgspec.Struct):
    """What one aggregate loses and gets."""

    gone: dict[int, Fact] = msgspec.field(default_factory=dict)
    come: dict[int, Fact] = msgspec.field(default_factory=dict)

    @property
    def any_fact(self) -> Fact:
        return next(iter((self.gone or self.come).values()))

    @property
    def left(self) -> list[Fact]:
        """Those that are gone for good, not only of another value."""
        return [fact for id_, fact in self.gone.items() if id_ not in self.come]


def change_aggregates(
    session: Session,
    changes: Iterable[FactChange],
    metrics: Mapping[str, Metric],
    occasion: Occasion,
) -> None:
    """Applies changes of facts that are stored already; `metrics` has the metric of every one.

    In the order of keys, so that two that change the same never wait for each other in a circle.
    """
    differences: dict[Key, _Difference] = {}
    for change in changes:
        if change.before != change.after:
            if change.before is not None:
                differences.setdefault(change.before.key, _Difference()).gone[change.before.id] = (
                    change.before
                )
            if change.after is not None:
                differences.setdefault(change.after.key, _Difference()).come[change.after.id] = change.after
    if not differences:
        return
    removed = Removed.read(session)
    for key in sorted(differences):
        metric, difference = metrics[key.metric], differences[key]
        fact = difference.any_fact
        row = _held(session, key, fact.unit, fact.window_end)
        is_whole = removed.is_whole(key.classification, row.window_end)
        if is_whole and _must_count_again(row, metric):
            _count_again(session, key, row, metric)
        else:
            _add_difference(row, metric, difference)
            if is_whole and _was_at_an_edge(row, difference.left):
                _find_edges(session, key, row)
        _changed(row, metric, occasion)
    session.flush()


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
    gone, come = difference.gone.values(), difference.come.values()
    count = row.event_count + sum(fact.count for fact in come) - sum(fact.count for fact in gone)
    row.event_count = max(0, count)
    if metric.aggregation is Aggregation.SUM:
        value = row.value + sum(fact.value for fact in come) - sum(fact.value for fact in gone)
        row.value = min(max(0, value), LARGEST)
    for fact in come:
        row.first_event_at = (
            fact.occurred_at if not row.watermark else min(row.first_event_at, fact.occurred_at)
        )
        row.last_event_at = max(row.last_event_at, fact.occurred_at)
        row.watermark = max(row.watermark, fact.id)


def _was_at_an_edge(row: UsageLedgerRow, left: Sequence[Fact]) -> bool:
    return any(
        fact.id == row.watermark or fact.occurred_at in {row.first_event_at, row.last_event_at}
        for fact in left
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
