"""What is used of many features of a tenant, looked at with one query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.quota import LimitUsage, QuotaUsage, bucket_usage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.planstore.db import QuotaCounterRow
from entitlement_sidecar.planstore.usage.counters import Counters, usage_of

_Key = tuple[str, str, datetime]
_Found = dict[_Key, QuotaCounterRow]


def usage_views(
    session: Session, tenant_id: str, resolved: Mapping[str, Resolution], now: datetime
) -> dict[str, QuotaUsage]:
    """What is used of each feature as it resolves; seats are counted, and nobody's in particular."""
    keys = [key for feature, resolution in resolved.items() for key in _keys(feature, resolution, now)]
    found = _find(session, tenant_id, keys)
    return {
        feature: QuotaUsage(
            tuple(_buckets(feature, resolution.buckets, found))
            if resolution.buckets
            else tuple(_limits(session, Counters(tenant_id, feature), resolution, found, now)),
            as_of=now,
        )
        for feature, resolution in resolved.items()
    }


def _keys(feature: str, resolution: Resolution, now: datetime) -> list[_Key]:
    if resolution.buckets:
        return [(feature, bucket.key, bucket.since) for bucket in resolution.buckets]
    return [(feature, limit.key, window_at(limit.window, now).start) for limit in resolution.limits]


def _find(session: Session, tenant_id: str, keys: Sequence[_Key]) -> _Found:
    row = QuotaCounterRow
    if not keys:
        return {}
    wanted = tuple_(row.feature, row.limit_key, row.window_start).in_(keys)
    query = select(row).where(row.tenant_id == tenant_id, wanted)
    return {(one.feature, one.limit_key, one.window_start): one for one in session.scalars(query)}


def _limits(
    session: Session, counters: Counters, resolution: Resolution, found: _Found, now: datetime
) -> list[LimitUsage]:
    told = []
    for limit in sorted(resolution.limits, key=lambda one: one.key):
        window = window_at(limit.window, now)
        row = found.get((counters.feature, limit.key, window.start))
        fixed = row is not None and row.carried is not None
        told.append(
            usage_of(limit, window, row, 0 if fixed else counters.carried_into(session, limit, window))
        )
    return told


def _buckets(feature: str, buckets: Sequence[Bucket], found: _Found) -> list[LimitUsage]:
    rows = [(bucket, found.get((feature, bucket.key, bucket.since))) for bucket in buckets]
    return [
        bucket_usage(bucket, row.admitted + row.unadmitted if row else 0, 0, row.delegated if row else 0)
        for bucket, row in rows
    ]
