"""What a feature has in the windows of an instant, and how much of it nobody has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.errors import InvalidInputError, TenantUnknownError
from entitlement_sidecar.planstore.db import QuotaCounterRow
from entitlement_sidecar.planstore.snapshots import in_force
from entitlement_sidecar.planstore.usage.allowances import Allowance, Part
from entitlement_sidecar.wire.redis_keys import BlockPlace

LEAD = timedelta(hours=1)
"""How long before a window begins its block is laid; of short windows, half of the window."""


class Standing(msgspec.Struct, frozen=True):
    """The limits of a feature in one set of windows: `rest` nobody has, of `whole` in all.

    Both are the smallest of any limit; `rest` is below 0 where more is out than there is. `strict`: so much
    of one is forfeited that the root grants no leases of it any more.
    """

    allowance: Allowance
    parts: tuple[Part, ...]
    rest: int
    whole: int
    strict: bool

    @property
    def starts_at(self) -> datetime:
        """When the last of the windows began."""
        return max(part.place[1] for part in self.parts)

    @property
    def ends_at(self) -> datetime | None:
        """When the first of them ends; None: never."""
        return min((part.end for part in self.parts if part.end is not None), default=None)

    @property
    def place(self) -> BlockPlace:
        """Where its block belongs."""
        return BlockPlace(self.allowance.tenant_id, self.allowance.feature, self.ends_at)

    def is_of(self, places: Sequence[tuple[str, datetime]]) -> bool:
        """Whether these counters are the ones."""
        return {part.place for part in self.parts} == set(places)


def standing_of(session: Session, tenant_id: str, feature: str, at: datetime) -> Standing | None:
    """The standing at an instant; None for what has no blocks.

    These are metered features with limits whose mode is leased. Seats are never leased, and a lease of
    credits is of one grant, which the root chooses.
    """
    allowance = _allowance(session, tenant_id, feature, at)
    if allowance is None:
        return None
    parts = next(allowance.choices(at))
    found = allowance.counters.find(session, [part.place for part in parts])
    amounts = [_amounts(part, found.get(part.place)) for part in parts if part.amount is not None]
    rest, whole = min(amounts, default=(0, 0))
    strict = any(part.is_strict(found[part.place]) for part in parts if part.place in found)
    return Standing(allowance, parts, rest, whole, strict)


def next_window(standing: Standing, now: datetime) -> datetime | None:
    """When the next window begins, if its block is to be laid already."""
    ends_at = standing.ends_at
    if ends_at is None or ends_at - now > min(LEAD, (ends_at - standing.starts_at) / 2):
        return None
    return ends_at


def _allowance(session: Session, tenant_id: str, feature: str, at: datetime) -> Allowance | None:
    try:
        held = in_force(session, tenant_id, feature, at)
    except (TenantUnknownError, InvalidInputError):
        return None
    if held.feature is None or held.resolution is None or held.feature.kind is not FeatureKind.METERED:
        return None
    allowance = Allowance(tenant_id, feature, held.resolution.limits)
    return allowance if allowance.limits and allowance.is_leased else None


def _amounts(part: Part, row: QuotaCounterRow | None) -> tuple[int, int]:
    """What nobody has of one limit, and what it has in all. A soft one is not delegated past its amount."""
    amount = part.amount or 0
    if row is None:
        return amount, amount
    whole = amount + (row.carried or 0)
    rest = whole - row.admitted - row.unadmitted - row.delegated
    return (max(0, rest) if part.soft else rest), whole
