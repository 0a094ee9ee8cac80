"""The usage ledger: every event once, and what they add up to (DESIGN 8, S0.2, S0.5).

    keys (identity, digest) ──new?──▶ usage_events (append-only) ──▶ subscription_usage_ledger (derived)
                                                                └──▶ quota_counters.unadmitted

All of it happens in the caller's transaction, so an event is either counted everywhere or nowhere. Two
replicas that get the same batch are told apart by the identity's primary key: one stores, the other finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import insert, select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification, Limit, Metric
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.planstore.catalogue.plans import current_document
from entitlement_sidecar.planstore.db import UsageEventKeyRow, UsageEventRow
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.planstore.usage.aggregates import add_to_aggregates
from entitlement_sidecar.planstore.usage.authority import add_unadmitted
from entitlement_sidecar.wire.codec import event_to_proto

LimitsOf = Callable[[Session, str, str, datetime], tuple[Limit, ...]]
"""The limits in force of (tenant, feature) at an instant; none for an unlimited or unknown feature."""

_Identity = tuple[str, str]


class Arrival(msgspec.Struct, frozen=True):
    """An event as it arrived: who kept it, and where it stood in that sidecar's outbox."""

    event: UsageEvent
    instance: str = ""
    epoch: int = 0
    sequence: int = 0


class Ledger:
    """Stores events once and keeps what is derived from them."""

    def __init__(self, limits_of: LimitsOf) -> None:
        self._limits_of = limits_of

    def append(self, session: Session, arrivals: Sequence[Arrival], now: datetime) -> list[UsageResult]:
        """Stores what is new. One outcome per arrival, in order.

        ACCEPTED, DUPLICATE (same identity, same content), CONFLICT (same identity, other content),
        UNKNOWN_METRIC (no catalogue names it; nothing is stored).
        """
        catalogue = current_document(session)
        results: list[UsageResult | None] = [_unknown(arrival.event, catalogue) for arrival in arrivals]
        known = [index for index, result in enumerate(results) if result is None]
        digests = _claim(session, [arrivals[index].event for index in known])
        stored = []
        for index in known:
            event = arrivals[index].event
            results[index] = digests.judge(event)
            if results[index].outcome is UsageOutcome.ACCEPTED:  # type: ignore[union-attr]  # just set
                stored.append(arrivals[index])
        if stored:
            self._store(session, stored, catalogue, now)
        return [result for result in results if result is not None]

    def _store(
        self, session: Session, stored: Sequence[Arrival], catalogue: CatalogueDocument, now: datetime
    ) -> None:
        session.execute(insert(UsageEventRow), [_row(arrival, now) for arrival in stored])
        events = [arrival.event for arrival in stored]
        add_to_aggregates(session, events, catalogue)
        self._count_unadmitted(session, events, catalogue)

    def _count_unadmitted(
        self, session: Session, events: Sequence[UsageEvent], catalogue: CatalogueDocument
    ) -> None:
        """Usage that no admission covered uses up quota too: the next check says so (S0.8)."""
        totals: dict[tuple[object, ...], _Unadmitted] = {}
        for event in events:
            metric = catalogue.metrics[event.metric]
            feature = event.feature or metric.feature
            if not feature or not _counts_to_quota(event, metric):
                continue
            limits = self._limits_of(session, event.tenant_id, feature, event.occurred_at)
            starts = tuple(window_at(limit.window, event.occurred_at).start for limit in limits)
            total = totals.setdefault(
                (event.tenant_id, feature, starts),
                _Unadmitted(event.tenant_id, feature, event.occurred_at, limits),
            )
            total.quantity += event.value
        # One order for everyone, so that two batches never wait for each other in a circle.
        for _, total in sorted(totals.items(), key=lambda item: item[0]):  # type: ignore[arg-type, return-value]  # strings and instants
            if total.limits and total.quantity:
                add_unadmitted(
                    session, total.tenant_id, total.feature, total.quantity, total.occurred_at, total.limits
                )


class _Unadmitted(msgspec.Struct):
    tenant_id: str
    feature: str
    occurred_at: datetime
    limits: tuple[Limit, ...]
    quantity: int = 0


class _Digests:
    """What is known of the identities of a batch; judges each event of it once."""

    def __init__(self, claimed: set[_Identity], stored: dict[_Identity, bytes]) -> None:
        self._claimed = claimed
        self._stored = stored

    def judge(self, event: UsageEvent) -> UsageResult:
        """The first event of a claimed identity is new; every other is compared with what is stored."""
        identity = (event.tenant_id, event.id)
        if identity in self._claimed:
            self._claimed.discard(identity)
            return UsageResult(event.id, UsageOutcome.ACCEPTED)
        if self._stored[identity] == event.digest():
            return UsageResult(event.id, UsageOutcome.DUPLICATE, "counted before")
        reason = "an event with this id and other content was counted before; this one was refused"
        return UsageResult(event.id, UsageOutcome.CONFLICT, reason)


def _claim(session: Session, events: Sequence[UsageEvent]) -> _Digests:
    """Stores the identities that are new; whoever stores one owns its event."""
    first: dict[_Identity, bytes] = {}
    for event in events:
        first.setdefault((event.tenant_id, event.id), event.digest())
    if not first:
        return _Digests(set(), {})
    rows = [{"tenant_id": t, "event_id": e, "digest": first[t, e]} for t, e in sorted(first)]
    key = UsageEventKeyRow
    claiming = insert_for(session, key).on_conflict_do_nothing().returning(key.tenant_id, key.event_id)
    claimed = {(tenant, event_id) for tenant, event_id in session.execute(claiming, rows)}
    missing = first.keys() - claimed
    if missing:
        query = select(key.tenant_id, key.event_id, key.digest)
        found = session.execute(query.where(tuple_(key.tenant_id, key.event_id).in_(sorted(missing))))
        first |= {(tenant, event_id): digest for tenant, event_id, digest in found}
    return _Digests(claimed, first)


def _unknown(event: UsageEvent, catalogue: CatalogueDocument) -> UsageResult | None:
    if event.metric in catalogue.metrics:
        return None
    reason = f"metric {event.metric!r} is not in catalogue version {catalogue.version}"
    return UsageResult(event.id, UsageOutcome.UNKNOWN_METRIC, reason)


def _counts_to_quota(event: UsageEvent, metric: Metric) -> bool:
    return metric.classification is Classification.BILLABLE and not event.lease_id


def _row(arrival: Arrival, now: datetime) -> dict[str, object]:
    event = arrival.event
    return {
        "tenant_id": event.tenant_id,
        "event_id": event.id,
        "metric": event.metric,
        "feature": event.feature,
        "value": event.value,
        "unit": event.unit,
        "occurred_at": event.occurred_at,
        "recorded_at": event.recorded_at,
        "received_at": now,
        "subject": event.subject,
        "actor_id": event.actor_id,
        "correlation_id": event.correlation_id,
        "emitter": event.emitter,
        "classification": int(event.classification or 0),
        "lease_id": event.lease_id,
        "instance": arrival.instance,
        "epoch": arrival.epoch,
        "sequence": arrival.sequence,
        "payload": event_to_proto(event).SerializeToString(),
    }
