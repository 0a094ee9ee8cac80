"""The end of work: an event of a terminal metric ends what has its correlation id (S0.9).

Billable usage of the same tenant and correlation id that happens later than it is not billable, whichever of
the two arrives first. Where the end arrives last, what is stored is classified anew; where both arrive at
once at two replicas, one of them waits. The end stands, also when its event is voided afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification, Metric
from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.db import UsageClassificationRow, UsageEventRow
from entitlement_sidecar.planstore.usage.bulk import among, insert_rows
from entitlement_sidecar.planstore.usage.changing import Differences, FactChange, Occasion, metrics_of
from entitlement_sidecar.planstore.usage.facts import (
    PAGE,
    Identity,
    Stored,
    pages_of,
    with_what_came_after,
    without_payload,
)
from entitlement_sidecar.planstore.usage.giving_back import LimitsOf, QuotaChanges
from entitlement_sidecar.planstore.usage.turns import take_turns

Work = tuple[str, str]
"""Tenant and correlation id."""

REASON = "it happened after the end of its work"

AT_ONCE = 50
"""Ends of work whose events one statement looks for."""


def after_terminal(
    session: Session, events: Sequence[UsageEvent], document: CatalogueDocument
) -> set[Identity]:
    """Which of the events that are about to be stored are billable and come after the end of their work.

    `events` is all of them, corrections too: the transaction takes its turn with their tenants, so that no
    other stores an end that is not seen here, or misses the events that are stored here.
    """
    terminal = {metric.key for metric in document.metrics.values() if metric.terminal}
    changing = {
        event.tenant_id for event in events if event.corrects or event.settles or event.metric in terminal
    }
    take_turns(session, changing, {event.tenant_id for event in events})
    if not terminal:
        return set()
    bound = [event for event in events if event.correlation_id and not event.corrects]
    billable = [event for event in bound if event.classification is Classification.BILLABLE]
    ends = _stored_ends(session, {_work(event) for event in billable}, terminal)
    for work, end in _ends(event for event in bound if event.metric in terminal).items():
        ends[work] = min(end, ends.get(work, end))
    return {
        (event.tenant_id, event.id)
        for event in billable
        if (at := ends.get(_work(event))) is not None and event.occurred_at > at
    }


def reclassify_after(
    session: Session,
    terminals: Sequence[UsageEvent],
    now: datetime,
    document: CatalogueDocument,
    limits_of: LimitsOf,
) -> int:
    """Classifies what happened after ends that were just stored; how many events that were.

    `terminals` may hold other events too. Aggregates follow, and quota is given back. To be called in the
    transaction in which `after_terminal` was.
    """
    ends = _ends(
        event
        for event in terminals
        if event.correlation_id and not event.corrects and document.metrics[event.metric].terminal
    )
    quota, differences, metrics = QuotaChanges(limits_of, now), Differences(), dict[str, Metric]()
    found = 0
    for page in _billable_after(session, ends):
        insert_rows(session, UsageClassificationRow, [_row(one, now, document) for one in page])
        metrics |= metrics_of(session, document, {one.row.metric for one in page} - metrics.keys())
        changes = [_change(one) for one in page]
        quota.add(session, changes, metrics)
        differences.add(changes)
        found += len(page)
    quota.apply(session)
    differences.apply(session, metrics, Occasion(now))
    return found


def _work(event: UsageEvent) -> Work:
    return event.tenant_id, event.correlation_id


def _ends(terminals: Iterable[UsageEvent]) -> dict[Work, datetime]:
    """When work ended first."""
    ends: dict[Work, datetime] = {}
    for event in terminals:
        work = _work(event)
        ends[work] = min(event.occurred_at, ends.get(work, event.occurred_at))
    return ends


def _stored_ends(session: Session, works: set[Work], terminal: set[str]) -> dict[Work, datetime]:
    if not works:
        return {}
    event = UsageEventRow
    query = (
        select(event.tenant_id, event.correlation_id, func.min(event.occurred_at))
        .where(
            among(session, event.tenant_id, {tenant_id for tenant_id, _ in works}),
            among(session, event.correlation_id, {correlation_id for _, correlation_id in works}),
            event.metric.in_(sorted(terminal)),
            event.corrects == "",
        )
        .group_by(event.tenant_id, event.correlation_id)
    )
    return {(tenant_id, correlation_id): end for tenant_id, correlation_id, end in session.execute(query)}


def _billable_after(session: Session, ends: Mapping[Work, datetime]) -> Iterator[list[Stored]]:
    """What happened later than the ends of its work and is billable, a page at a time."""
    for rows in pages_of(_stored_after(session, ends)):
        page = with_what_came_after(session, rows)
        if billable := [one for one in page if one.classification == Classification.BILLABLE]:
            yield billable


def _stored_after(session: Session, ends: Mapping[Work, datetime]) -> Iterator[UsageEventRow]:
    """What happened later than the ends of its work, whatever it counts as; a page in memory at a time."""
    event, works = UsageEventRow, sorted(ends.items())
    for first in range(0, len(works), AT_ONCE):
        after = (
            and_(
                event.tenant_id == tenant_id, event.correlation_id == correlation_id, event.occurred_at > end
            )
            for (tenant_id, correlation_id), end in works[first : first + AT_ONCE]
        )
        query = without_payload().where(or_(*after), event.corrects == "")
        yield from session.scalars(query, execution_options={"yield_per": PAGE})


def _row(one: Stored, now: datetime, document: CatalogueDocument) -> dict[str, object]:
    return {
        "tenant_id": one.row.tenant_id,
        "event_id": one.row.event_id,
        "classification": int(Classification.NON_BILLABLE),
        "rule": str(RuleName.TERMINAL),
        "registry_version": document.version,
        "reason": REASON,
        "recorded_at": now,
    }


def _change(one: Stored) -> FactChange:
    before = one.fact(one.corrections, one.classification)
    return FactChange(one.row, before, one.fact(one.corrections, Classification.NON_BILLABLE))
