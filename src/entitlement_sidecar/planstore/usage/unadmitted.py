"""Counts a batch's usage that no admission covered, in one statement (DESIGN 7)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import case
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.domain.window import Window, window_at
from entitlement_sidecar.planstore.db import QuotaCounterRow
from entitlement_sidecar.planstore.usage.bulk import insert_rows
from entitlement_sidecar.planstore.usage.counters import Counters

_MOST = 2**61
"""Where a counter stays: sums of a row's three counters have to fit into 64 bits."""

UNADMITTED = "unadmitted"
"""Stands for the name of an admission where usage was reported that none covered."""

_Key = tuple[str, str, str, datetime]
_KEY_COLUMNS = ("tenant_id", "feature", "limit_key", "window_start")


def add_all_unadmitted(session: Session, charged: Iterable[tuple[UsageEvent, str, Resolution]]) -> None:
    """Adds each event to every limit of the feature that it is charged to, as that resolves for it.

    It may pass the limit: what happened is observed, not refused, and counts as overage. Of credits it burns
    what is left in their order, and the last grant takes what is beyond them.
    """
    amounts: dict[_Key, int] = {}
    windows: dict[_Key, Window] = {}
    burnt: dict[tuple[str, str], dict[tuple[Bucket, ...], int]] = defaultdict(lambda: defaultdict(int))
    for event, feature, resolution in charged:
        if resolution.buckets:
            of_feature = burnt[event.tenant_id, feature]
            of_feature[resolution.buckets] = min(of_feature[resolution.buckets] + event.value, _MOST)
        for limit in resolution.limits:
            window = window_at(limit.window, event.occurred_at)
            key = (event.tenant_id, feature, limit.key, window.start)
            amounts[key] = min(amounts.get(key, 0) + event.value, _MOST)
            windows[key] = window
    rows = {key: _row(key, windows[key], amounts[key]) for key in sorted(amounts)}
    for (tenant_id, feature), of_buckets in sorted(burnt.items(), key=lambda pair: pair[0]):
        # Features are held in one order for everyone, so that nobody waits in a circle: what comes before
        # these credits is added before they are held.
        _add(session, [rows.pop(key) for key in list(rows) if key[:2] < (tenant_id, feature)])
        for buckets, quantity in of_buckets.items():
            for bucket, share in _shares(session, Counters(tenant_id, feature), buckets, quantity):
                key = (tenant_id, feature, bucket.key, bucket.since)
                _add(session, [_row(key, Window(bucket.since, bucket.until), share)])
    _add(session, list(rows.values()))


def _shares(
    session: Session, counters: Counters, buckets: tuple[Bucket, ...], quantity: int
) -> Iterator[tuple[Bucket, int]]:
    rows = counters.hold(session, {(bucket.key, bucket.since): bucket.until for bucket in buckets})
    for bucket in buckets:
        row = rows[bucket.key, bucket.since]
        left = max(0, (bucket.amount or 0) - row.admitted - row.unadmitted - row.delegated)
        share = quantity if bucket is buckets[-1] else min(left, quantity)
        quantity -= share
        if share:
            yield bucket, share


def _row(key: _Key, window: Window, amount: int) -> dict[str, object]:
    row: dict[str, object] = dict(zip(_KEY_COLUMNS, key, strict=True))
    return row | {"window_end": window.end, "admitted": 0, "unadmitted": amount, "delegated": 0}


def _add(session: Session, rows: list[dict[str, object]]) -> None:
    if rows:
        insert_rows(session, QuotaCounterRow, rows, _adding)


def _adding(insert: Any) -> Any:  # noqa: ANN401 - either dialect's insert
    old, new = QuotaCounterRow.unadmitted, insert.excluded.unadmitted
    total = case((old > _MOST - new, _MOST), else_=old + new)
    return insert.on_conflict_do_update(index_elements=_KEY_COLUMNS, set_={"unadmitted": total})
