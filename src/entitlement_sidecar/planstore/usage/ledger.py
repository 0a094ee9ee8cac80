"""The usage ledger: every event once, and what they add up to (DESIGN 8, S0.2, S0.5).

    keys (identity, digest) ──new?──▶ usage_events (append-only) ──▶ quota_counters.unadmitted
                                                                └──▶ subscription_usage_ledger (derived)

All of it happens in the caller's transaction, so an event is either counted everywhere or nowhere. Two
replicas that get the same batch are told apart by the identity's primary key: one stores, the other finds.
Tables are written in the order of the picture and rows in the order of their keys, by everyone: so two
batches never wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification, Metric
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.planstore.catalogue.plans import current_document
from entitlement_sidecar.planstore.db import QuotaAdmissionRow, UsageEventKeyRow, UsageEventRow
from entitlement_sidecar.planstore.usage.aggregates import Counted, add_to_aggregates
from entitlement_sidecar.planstore.usage.bulk import among, insert_rows
from entitlement_sidecar.planstore.usage.unadmitted import add_all_unadmitted
from entitlement_sidecar.wire.codec import event_to_proto

TenantFeature = tuple[str, str]

LimitsOf = Callable[[Session, Collection[TenantFeature], datetime], Mapping[TenantFeature, Resolution]]
"""What usage counts against at an instant, of many (tenant, feature) at once; absent where it is nothing."""

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
        UNKNOWN_METRIC (no catalogue names it) or INVALID (it does not fit its metric); of the last three
        nothing is stored. The registry decides on unit and classification, whatever the sender believed.

        Raises:
            SourceUnavailableError: No catalogue was applied yet, so that nothing can be judged.
        """
        catalogue = current_document(session)
        if not catalogue.version:
            raise SourceUnavailableError("no catalogue has been applied yet: usage cannot be judged", 5.0)
        judged = [_judged(arrival, catalogue) for arrival in arrivals]
        identities = _claim(session, [item.event for item in judged if isinstance(item, Arrival)])
        results, stored = [], []
        for item in judged:
            result = item if isinstance(item, UsageResult) else identities.judge(item.event)
            results.append(result)
            if isinstance(item, Arrival) and result.outcome is UsageOutcome.ACCEPTED:
                stored.append(item)
        if stored:
            self._store(session, stored, catalogue, now)
        return results

    def _store(
        self, session: Session, stored: Sequence[Arrival], catalogue: CatalogueDocument, now: datetime
    ) -> None:
        rows = [_row(arrival, now) for arrival in stored]
        ids = insert_rows(session, UsageEventRow, rows, returning=[UsageEventRow.__table__.c.id])
        events = [arrival.event for arrival in stored]
        self._count_unadmitted(session, events, catalogue, now)
        add_to_aggregates(session, Counted(events, max(id_ for (id_,) in ids), now), catalogue)

    def _count_unadmitted(
        self, session: Session, events: Sequence[UsageEvent], catalogue: CatalogueDocument, now: datetime
    ) -> None:
        """Usage that no admission covered uses up quota too: the next check says so (S0.8).

        Nor did one whose admission its sender never heard of: it has the event's id.
        """
        using = [event for event in events if _uses_quota(event)]
        admitted = _admitted(session, using)
        charged = [
            (event, feature)
            for event in using
            if (event.tenant_id, event.id) not in admitted
            and (feature := event.feature or catalogue.metrics[event.metric].feature)
        ]
        if charged:
            add_all_unadmitted(session, self._resolved(session, charged, now))

    def _resolved(
        self, session: Session, charged: Sequence[tuple[UsageEvent, str]], now: datetime
    ) -> Iterator[tuple[UsageEvent, str, Resolution]]:
        """Each event with what it counts against: limits in force now, credits of when it happened."""
        found = self._limits_of(session, {(event.tenant_id, feature) for event, feature in charged}, now)
        for event, feature in charged:
            key = (event.tenant_id, feature)
            resolution = found.get(key)
            if resolution is not None and any(event.occurred_at < one.since for one in resolution.buckets):
                resolution = self._limits_of(session, {key}, event.occurred_at).get(key)
            if resolution is not None:
                yield event, feature, resolution


class _Identities:
    """What is known of the identities of a batch; judges each event of it once."""

    def __init__(self, claimed: set[_Identity], digests: dict[_Identity, bytes]) -> None:
        self._claimed = claimed
        self._digests = digests

    def judge(self, event: UsageEvent) -> UsageResult:
        """The first event of a claimed identity is new; every other is compared with what is stored."""
        identity = (event.tenant_id, event.id)
        if identity in self._claimed:
            self._claimed.discard(identity)
            return UsageResult(event.id, UsageOutcome.ACCEPTED)
        if self._digests[identity] == event.digest():
            return UsageResult(event.id, UsageOutcome.DUPLICATE, "counted before")
        reason = "an event with this id and other content was counted before; this one was refused"
        return UsageResult(event.id, UsageOutcome.CONFLICT, reason)


def _claim(session: Session, events: Sequence[UsageEvent]) -> _Identities:
    """Stores the identities that are new; whoever stores one owns its event."""
    digests: dict[_Identity, bytes] = {}
    for event in events:
        identity = (event.tenant_id, event.id)
        if identity not in digests:
            digests[identity] = event.digest()
    if not digests:
        return _Identities(set(), {})
    rows = [{"tenant_id": t, "event_id": e, "digest": digests[t, e]} for t, e in sorted(digests)]
    key = UsageEventKeyRow.__table__.c
    claimed = {
        (tenant, event_id)
        for tenant, event_id in insert_rows(
            session,
            UsageEventKeyRow,
            rows,
            lambda claiming: claiming.on_conflict_do_nothing(),
            returning=[key.tenant_id, key.event_id],
        )
    }
    if missing := digests.keys() - claimed:
        # A replica that claimed them a moment ago has committed by now: the insert waited for it.
        query = select(key.tenant_id, key.event_id, key.digest)
        found = session.execute(query.where(tuple_(key.tenant_id, key.event_id).in_(sorted(missing))))
        digests |= {(tenant, event_id): digest for tenant, event_id, digest in found}
    return _Identities(claimed, digests)


def _judged(arrival: Arrival, catalogue: CatalogueDocument) -> Arrival | UsageResult:
    """The event as the registry in force sees it (S0.4), or why it cannot be counted."""
    event = arrival.event
    metric = catalogue.metrics.get(event.metric)
    if metric is None:
        reason = f"metric {event.metric!r} is not in catalogue version {catalogue.version}"
        return UsageResult(event.id, UsageOutcome.UNKNOWN_METRIC, reason)
    if problem := _mismatch(event, metric):
        return UsageResult(event.id, UsageOutcome.INVALID, problem)
    if event.unit and event.classification is metric.classification:
        return arrival
    event = msgspec.structs.replace(event, unit=metric.unit, classification=metric.classification)
    return msgspec.structs.replace(arrival, event=event)


def _mismatch(event: UsageEvent, metric: Metric) -> str:
    """What a sidecar that held no catalogue, or an older one, could not know."""
    if event.unit and event.unit != metric.unit:
        return f"unit: expected {metric.unit!r}, the unit of {metric.key!r}, got {event.unit!r}"
    billable = metric.classification is Classification.BILLABLE
    if billable and not (event.correlation_id or event.consumption_id):
        return f"correlation_id: required, because usage of {metric.key!r} is billable"
    return ""


def _admitted(session: Session, events: Sequence[UsageEvent]) -> set[_Identity]:
    """Those that the authority has admitted, whatever their sender knows of it."""
    if not events:
        return set()
    row = QuotaAdmissionRow
    query = select(row.tenant_id, row.request_id).where(
        among(session, row.request_id, {event.id for event in events}),
        among(session, row.tenant_id, {event.tenant_id for event in events}),
    )
    return {(tenant_id, request_id) for tenant_id, request_id in session.execute(query)}


def _uses_quota(event: UsageEvent) -> bool:
    return event.classification is Classification.BILLABLE and event.value > 0 and not event.lease_id


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
