"""Billing periods, counted from an anchor: 31 January, 28 February, 31 March."""

from __future__ import annotations

from datetime import datetime

from entitlement_sidecar.domain.window import WindowSpec, WindowUnit, window_at

_MONTHS = {"month": 1, "year": 12}


def period_end(billing_period: str, anchor: datetime, instant: datetime) -> datetime | None:
    """When the period that holds `instant` ends; None for plans without a billing period."""
    months = _MONTHS.get(billing_period)
    if months is None:
        return None
    spec = WindowSpec(WindowUnit.BILLING_CYCLE, anchor=anchor)
    end = anchor
    while end <= instant:
        for _ in range(months):
            end = window_at(spec, end).end or end
    return end
