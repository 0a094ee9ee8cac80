"""The usage ledger: every event once, and what they add up to (DESIGN 8, S0.2, S0.5).

    registry ──counts──▶ keys (identity, digest) ──new?──▶ usage_events ──▶ quota_counters.unadmitted
        └──held──▶ usage_quarantine                                   └──▶ subscription_usage_ledger (derived)

All of it happens in the caller's transaction, so an event is either counted everywhere or nowhere. Two
replicas that get the same batch are told apart by the identity's primary key: one stores, the other finds.
Tables are written in the order of the picture and rows in the order of their keys, by everyone: so two
batches never wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification, Metric
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.ruling import Registry, RuleName
from entitlement_sidecar.domain.usage import UsageEvent, UsageResult
from entitlement_sidecar.planstore.catalogue.plans import current_document
from entitlement_sidecar.planstore.db import QuotaAdmissionRow, UsageEventRow
from entitlement_sidecar.planstore.usage.aggregates import Counted, add_to_aggregates
from entitlement_sidecar.planstore.usage.arrival import COUNTING, Arrival, Identity, Judged
from entitlement_sidecar.planstore.usage.bulk import among, insert_rows
from entitlement_sidecar.planstore.usage.corrections import apply_corrections
from entitlement_sidecar.planstore.usage.giving_back import LimitsOf
from entitlement_sidecar.planstore.usage.holding import HELD, hold
from entitlement_sidecar.planstore.usage.identities import claim
from entitlement_sidecar.planstore.usage.judging import Judge
from entitlement_sidecar.planstore.usage.settlements import complete, settle_all
from entitlement_sidecar.planstore.usage.terminal import REASON, after_terminal, reclassify_after
from entitlement_sidecar.planstore.usage.unadmitted import add_all_unadmitted


class Ledger:
    """Stores events once and keeps what is derived from them."""

    def __init__(self, limits_of: LimitsOf) -> None:
        self._limits_of = limits_of
        self._registry: Registry | None = None

    def append(self, session: Session, arrivals: Sequence[Arrival], now: datetime) -> list[UsageResult]:
        """Stores what is new. One outcome per arrival, in order; each names its rule and the registry.

        ACCEPTED or LATE_ACCEPTED, DUPLICATE (same identity, same content), CONFLICT (same identity, other
        content), QUARANTINED (kept, and does not count), LATE_REFUSED or INVALID; of those nothing is
        stored. The registry decides on unit and classification, whatever the sender believed.

        Raises:
            SourceUnavailableError: No catalogue was applied yet, so that nothing can be judged.
        """
        registry = self._in_force(session)
        judged = Judge(session, registry, now).judge(complete(session, arrivals))
        identities = claim(session, judged)
        results = [identities.seen(one) for one in judged]
        new = [one for one, result in zip(judged, results, strict=True) if result is None]
        told = iter(self._settle(session, new, registry.document, now))
        return [next(told) if result is None else result for result in results]

    def _in_force(self, session: Session) -> Registry:
        """The registry of the catalogue in force, made ready once."""
        document = current_document(session)
        if not document.version:
            raise SourceUnavailableError("no catalogue has been applied yet: usage cannot be judged", 5.0)
        held = self._registry
        # Documents of one stored catalogue share their metrics, which are held here: so no other has them.
        if held is None or held.version != document.version or held.document.metrics is not document.metrics:
            held = self._registry = Registry(document)
        return held

    def _settle(
        self, session: Session, new: Sequence[Judged], document: CatalogueDocument, now: datetime
    ) -> list[UsageResult]:
        """Keeps events that were never seen, as they were judged; one outcome for each, in order."""
        held = [one for one in new if one.ruling.outcome in HELD]
        kept = iter(hold(session, held, now) if held else ())
        new = _ended(session, new, document)
        counting = [one for one in new if one.ruling.outcome in COUNTING]
        if counting:
            self._store(session, counting, document, now)
        return [next(kept) if one.ruling.outcome in HELD else one.told() for one in new]

    def _store(
        self, session: Session, stored: Sequence[Judged], catalogue: CatalogueDocument, now: datetime
    ) -> None:
        if new := [one for one in stored if one.slot is not None and not one.event.corrects]:
            ids = _insert(session, [_row(one, now) for one in new])
            events, slots = [one.event for one in new], [one.slot for one in new if one.slot is not None]
            self._count_unadmitted(session, events, catalogue, now)
            settle_all(session, events, catalogue, self._limits_of, now)
            add_to_aggregates(session, Counted(events, slots, ids, now), catalogue)
            reclassify_after(session, events, now, catalogue, self._limits_of)
        # Afterwards: an end of work in the same batch must not see what does not count yet.
        if corrections := [one for one in stored if one.event.corrects]:
            _insert(session, [_row(one, now) for one in corrections])
            corrected = [one.event for one in corrections]
            apply_corrections(session, corrected, catalogue, now, self._limits_of)

    def _count_unadmitted(
        self, session: Session, events: Sequence[UsageEvent], catalogue: CatalogueDocument, now: datetime
    ) -> None:
        """Usage that no admission covered uses up quota too: the next check says so (S0.8).

        Nor did one whose admission its sender never heard of: it has the event's id.
        """
        using = [event for event in events if _uses_quota(event, catalogue.metrics[event.metric])]
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


def _ended(session: Session, new: Sequence[Judged], document: CatalogueDocument) -> Sequence[Judged]:
    """The same, but what happened after the end of its work is not billable."""
    storing = [one.event for one in new if one.ruling.outcome in COUNTING]
    after = after_terminal(session, storing, document)
    return [_not_billable(one) if one.identity in after else one for one in new] if after else new


def _not_billable(judged: Judged) -> Judged:
    changed = {"classification": Classification.NON_BILLABLE, "rule": str(RuleName.TERMINAL)}
    event = msgspec.structs.replace(judged.event, **changed)
    return msgspec.structs.replace(
        judged,
        arrival=judged.arrival.having(event),
        ruling=msgspec.structs.replace(judged.ruling, reason=REASON, **changed),
    )


def _admitted(session: Session, events: Sequence[UsageEvent]) -> set[Identity]:
    """Those that the authority has admitted, whatever their sender knows of it."""
    if not events:
        return set()
    row = QuotaAdmissionRow
    query = select(row.tenant_id, row.request_id).where(
        among(session, row.request_id, {event.id for event in events}),
        among(session, row.tenant_id, {event.tenant_id for event in events}),
    )
    return {(tenant_id, request_id) for tenant_id, request_id in session.execute(query)}


def _uses_quota(event: UsageEvent, metric: Metric) -> bool:
    counts = event.classification is Classification.BILLABLE or metric.counts_to_quota
    return counts and event.value > 0 and not event.lease_id


def _insert(session: Session, rows: Sequence[Mapping[str, object]]) -> list[int]:
    """Stores events; the id of each one's row, in order: ids grow in the order of rows."""
    id_ = UsageEventRow.__table__.c.id
    return sorted(number for (number,) in insert_rows(session, UsageEventRow, rows, returning=[id_]))


def _row(judged: Judged, now: datetime) -> dict[str, object]:
    event, arrival = judged.event, judged.arrival
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
        "payload": arrival.payload(),
        "rule": event.rule,
        "registry_version": event.registry_version,
        "count": event.count,
        "corrects": event.corrects,
        "voids": event.voids,
        "dimensions": event.dimensions,
        **({} if judged.slot is None else judged.slot.columns()),
    }
