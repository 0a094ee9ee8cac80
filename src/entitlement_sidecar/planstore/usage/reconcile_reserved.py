"""What reservations have of one counter, and where their events say something else (DESIGN 7)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.reservation import State
from entitlement_sidecar.domain.usage import RESERVED
from entitlement_sidecar.planstore.db import QuotaCounterRow, QuotaReservationRow
from entitlement_sidecar.planstore.usage.reservation_rows import shares_of


class Reserved(msgspec.Struct, frozen=True):
    """What reservations still hold of a counter.

    Of those that are settled, by event: what was admitted beyond their events of the window (below 0 where it
    is less), and what nobody had admitted, which the ledger has as admitted all the same.
    """

    held: int
    ahead: Mapping[str, int]
    unadmitted: Mapping[str, int]


def reserved(session: Session, counter: QuotaCounterRow, arrived: Mapping[str, int]) -> Reserved:
    """Looks at every reservation of the counter's feature; `arrived` is what events of its window name."""
    row, held = QuotaReservationRow, 0
    ahead: dict[str, int] = {}
    unadmitted: dict[str, int] = {}
    query = select(row).where(row.tenant_id == counter.tenant_id, row.feature == counter.feature)
    place = (counter.limit_key, counter.window_start)
    for one in session.scalars(query.order_by(row.event_id)):
        name = f"{RESERVED}{one.event_id}"
        share = next((share for share in shares_of(one) if share.place == place), None)
        if one.state == State.SETTLED:
            ahead[name] = (share.admitted if share else 0) - arrived.get(name, 0)
            unadmitted[name] = share.unadmitted if share else 0
        elif one.state == State.OPEN and share:
            held += share.held
    return Reserved(held, ahead, unadmitted)
