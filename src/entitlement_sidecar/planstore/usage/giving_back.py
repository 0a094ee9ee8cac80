"""Quota of usage that counts less than it did, or more, than when it was stored (DESIGN 7).

What is given back comes from what no admission covered first. Where an admission covered the event, the rest
comes from what was admitted. Credits go back to the grants that paid, as far as these are known, else in the
reverse order of burning. No counter gets
below zero: what has been given back otherwise, for example with a lease, is not given back twice.

Limits are those in force now, in the window in which the event happened. What a window carried over is fixed
at the first grant of the next one, and does not change any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import case, select, update
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Classification, Metric
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.planstore.db import QuotaAdmissionRow, QuotaCounterRow
from entitlement_sidecar.planstore.usage.bulk import named
from entitlement_sidecar.planstore.usage.changing import FactChange
from entitlement_sidecar.planstore.usage.counters import Counters
from entitlement_sidecar.planstore.usage.facts import Fact, Identity, pages_of
from entitlement_sidecar.planstore.usage.paid_by import paid_by
from entitlement_sidecar.planstore.usage.unadmitted import UNADMITTED, add_all_unadmitted

TenantFeature = tuple[str, str]

LimitsOf = Callable[[Session, Collection[TenantFeature], datetime], Mapping[TenantFeature, Resolution]]
"""What usage counts against at an instant, of many (tenant, feature) at once; absent where it is nothing."""

_Place = tuple[str, str, str, datetime]


class _Share(msgspec.Struct, frozen=True):
    """What one event uses less than before, below 0 where it is more."""

    change: FactChange
    feature: str
    quantity: int
    is_covered: bool

    @property
    def key(self) -> TenantFeature:
        return self.change.row.tenant_id, self.feature


class _Amounts(msgspec.Struct):
    """What one counter gives back: of usage that an admission covered, and of other usage."""

    covered: int = 0
    other: int = 0


class QuotaChanges:
    """What counters give back, and count more: as large as these are many, however many events change."""

    def __init__(self, limits_of: LimitsOf, now: datetime) -> None:
        self._limits_of = limits_of
        self._now = now
        self._amounts: dict[_Place, _Amounts] = defaultdict(_Amounts)
        self._more: list[tuple[UsageEvent, str, Resolution]] = []

    def add(self, session: Session, changes: Sequence[FactChange], metrics: Mapping[str, Metric]) -> None:
        """A page of changes, in the transaction in which `apply` follows; credits are given back at once."""
        shares = _shares(session, changes, metrics)
        found = self._limits_of(session, {share.key for share in shares}, self._now) if shares else {}
        for share in sorted(shares, key=lambda one: one.key):
            resolution = self._resolution(session, share, found)
            if resolution is None:
                continue
            if share.quantity < 0:
                self._more.append((_used_more(share), share.feature, resolution))
            elif resolution.buckets:
                _return_credits(session, share, resolution)
            else:
                _add_up(self._amounts, share, resolution)

    def _resolution(
        self, session: Session, share: _Share, found: Mapping[TenantFeature, Resolution]
    ) -> Resolution | None:
        """Limits in force now, credits of when it happened."""
        at = share.change.row.occurred_at
        resolution = found.get(share.key)
        if resolution is not None and any(at < bucket.since for bucket in resolution.buckets):
            return self._limits_of(session, {share.key}, at).get(share.key)
        return resolution

    def apply(self, session: Session) -> None:
        """Gives back what events use less than before, and counts what they use more."""
        for place in sorted(self._amounts):
            _give_back(session, place, self._amounts[place])
        if self._more:
            add_all_unadmitted(session, self._more)


def _shares(session: Session, changes: Sequence[FactChange], metrics: Mapping[str, Metric]) -> list[_Share]:
    found = []
    covered = _covered(session, changes)
    for change in changes:
        row, metric = change.row, metrics[change.row.metric]
        quantity = _used(change.before, metric) - _used(change.after, metric)
        feature = row.feature or metric.feature
        if quantity and feature:
            found.append(_Share(change, feature, quantity, (row.tenant_id, row.event_id) in covered))
    return found


def _used(fact: Fact | None, metric: Metric) -> int:
    if fact is None:
        return 0
    counts = fact.key.classification == Classification.BILLABLE or metric.counts_to_quota
    return fact.value if counts else 0


def _covered(session: Session, changes: Sequence[FactChange]) -> set[Identity]:
    """Events that a lease or an admission paid for."""
    rows = [change.row for change in changes]
    admission = QuotaAdmissionRow
    asked = sorted((row.tenant_id, row.event_id) for row in rows if not row.lease_id)
    query = select(admission.tenant_id, admission.request_id).where(admission.lease_id != UNADMITTED)
    covered = {(row.tenant_id, row.event_id) for row in rows if row.lease_id}
    for page in pages_of(asked):
        found = session.execute(query.where(named(session, admission.tenant_id, admission.request_id, page)))
        covered |= {(tenant_id, request_id) for tenant_id, request_id in found}
    return covered


def _used_more(share: _Share) -> UsageEvent:
    row = share.change.row
    return UsageEvent(
        id=row.event_id,
        tenant_id=row.tenant_id,
        metric=row.metric,
        value=-share.quantity,
        unit=row.unit,
        occurred_at=row.occurred_at,
        recorded_at=row.recorded_at,
    )


def _add_up(amounts: dict[_Place, _Amounts], share: _Share, resolution: Resolution) -> None:
    for limit in resolution.limits:
        start = window_at(limit.window, share.change.row.occurred_at).start
        amount = amounts[*share.key, limit.key, start]
        if share.is_covered:
            amount.covered += share.quantity
        else:
            amount.other += share.quantity


def _give_back(session: Session, place: _Place, amounts: _Amounts) -> None:
    counter = QuotaCounterRow
    tenant_id, feature, limit_key, start = place
    quantity = amounts.covered + amounts.other
    rest = case((counter.unadmitted >= quantity, 0), else_=quantity - counter.unadmitted)
    of_admitted = case((rest > amounts.covered, amounts.covered), else_=rest)
    session.execute(
        update(counter)
        .where(
            counter.tenant_id == tenant_id,
            counter.feature == feature,
            counter.limit_key == limit_key,
            counter.window_start == start,
        )
        .values(
            unadmitted=case((counter.unadmitted > quantity, counter.unadmitted - quantity), else_=0),
            admitted=case((counter.admitted > of_admitted, counter.admitted - of_admitted), else_=0),
        )
        .execution_options(synchronize_session=False)
    )


def _return_credits(session: Session, share: _Share, resolution: Resolution) -> None:
    left = share.quantity
    counters, buckets = Counters(*share.key), resolution.buckets
    rows = counters.hold(session, {(bucket.key, bucket.since): bucket.until for bucket in buckets})
    for bucket, most in paid_by(session, share.change.row, buckets):
        row = rows[bucket.key, bucket.since]
        admitted = min(left, most, row.admitted)
        row.admitted -= admitted
        left -= admitted
    for bucket in reversed(buckets):
        row = rows[bucket.key, bucket.since]
        unadmitted = min(left, row.unadmitted)
        admitted = min(left - unadmitted, row.admitted) if share.is_covered else 0
        row.unadmitted -= unadmitted
        row.admitted -= admitted
        left -= unadmitted + admitted
    session.flush()
