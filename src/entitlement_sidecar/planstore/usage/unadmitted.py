"""Counts a batch's usage that no admission covered, in one statement (DESIGN 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import case
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.domain.window import Window, window_at
from entitlement_sidecar.planstore.db import QuotaCounterRow
from entitlement_sidecar.planstore.usage.bulk import insert_rows

_MOST = 2**61
"""Where a counter stays: sums of a row's three counters have to fit into 64 bits."""

_Key = tuple[str, str, str, datetime]
_KEY_COLUMNS = ("tenant_id", "feature", "limit_key", "window_start")


def add_all_unadmitted(
    session: Session,
    charged: Iterable[tuple[tuple[str, str], UsageEvent]],
    limits: Mapping[tuple[str, str], tuple[Limit, ...]],
) -> None:
    """Adds each event to every limit in force of the (tenant, feature) that it is charged to.

    It may pass the limit: what happened is observed, not refused, and counts as overage.
    """
    amounts: dict[_Key, int] = {}
    windows: dict[_Key, Window] = {}
    for (tenant_id, feature), event in charged:
        for limit in limits.get((tenant_id, feature), ()):
            window = window_at(limit.window, event.occurred_at)
            key = (tenant_id, feature, limit.key, window.start)
            amounts[key] = min(amounts.get(key, 0) + event.value, _MOST)
            windows[key] = window
    if amounts:
        _add(session, [_row(key, windows[key], amounts[key]) for key in sorted(amounts)])


def _row(key: _Key, window: Window, amount: int) -> dict[str, object]:
    row: dict[str, object] = dict(zip(_KEY_COLUMNS, key, strict=True))
    return row | {"window_end": window.end, "admitted": 0, "unadmitted": amount, "delegated": 0}


def _add(session: Session, rows: list[dict[str, object]]) -> None:
    def adding(insert: Any) -> Any:  # noqa: ANN401 - either dialect's insert
        old, new = QuotaCounterRow.unadmitted, insert.excluded.unadmitted
        total = case((old > _MOST - new, _MOST), else_=old + new)
        return insert.on_conflict_do_update(index_elements=_KEY_COLUMNS, set_={"unadmitted": total})

    insert_rows(session, QuotaCounterRow, rows, adding)
