"""The window of its metric in which an event happened."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Metric
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.domain.window import Window, WindowUnit, window_at
from entitlement_sidecar.planstore.db import SubscriptionRow


class UsageWindows:
    """Windows of events; billing cycles are those of the subscription of the time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._anchors: dict[str, list[tuple[datetime, datetime | None]]] = {}

    def at(self, event: UsageEvent, metric: Metric) -> Window:
        """The window that an event counts in."""
        spec = metric.window
        if spec.unit is WindowUnit.BILLING_CYCLE and spec.anchor is None:
            spec = msgspec.structs.replace(spec, anchor=self._anchor(event.tenant_id, event.occurred_at))
        return window_at(spec, event.occurred_at)

    def _anchor(self, tenant_id: str, instant: datetime) -> datetime | None:
        """As the ledger has it: what happened before the first subscription was made belongs to it."""
        held = self._anchors.get(tenant_id)
        if held is None:
            row = SubscriptionRow
            query = select(row.created_at, row.anchor).where(row.tenant_id == tenant_id)
            found = self._session.execute(query.order_by(row.created_at, row.id))
            held = self._anchors[tenant_id] = [(created, anchor) for created, anchor in found]
        made = [anchor for created, anchor in held if created <= instant]
        return made[-1] if made else held[0][1] if held else None
