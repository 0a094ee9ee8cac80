"""Which counters a lease of a feature takes from, and what each of them has in all (DESIGN 7).

A lease of n tokens holds n of every limit of the feature at once. Of credits it holds n of one grant, the
first in burn order that has any left: its tokens are then burnt, and the next lease is of the next grant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.catalogue import Limit, LimitMode
from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.lease import OnHolderLoss
from entitlement_sidecar.domain.modes import mode_of, on_loss_of
from entitlement_sidecar.domain.quota import is_strict
from entitlement_sidecar.domain.window import Window, window_at
from entitlement_sidecar.planstore.db import QuotaCounterRow
from entitlement_sidecar.planstore.usage.counters import Counters, Place


class Part(msgspec.Struct, frozen=True):
    """One counter. `amount` None: as much as is wanted; `limit` None: a credit grant."""

    place: Place
    end: datetime | None
    amount: int | None
    soft: bool = False
    limit: Limit | None = None

    @classmethod
    def of_limit(cls, limit: Limit, at: datetime) -> Part:
        """The limit's window that holds an instant."""
        window = window_at(limit.window, at)
        return cls((limit.key, window.start), window.end, limit.amount, limit.soft, limit)

    @classmethod
    def of_bucket(cls, bucket: Bucket) -> Part:
        """A credit grant, for as long as it lives."""
        return cls((bucket.key, bucket.since), bucket.until, bucket.amount)

    @property
    def window(self) -> Window:
        """When what is here may be used."""
        return Window(self.place[1], self.end)

    def whole(self, row: QuotaCounterRow) -> int | None:
        """All that there is, with what was carried over; None: as much as is wanted."""
        return None if self.soft or self.amount is None else self.amount + (row.carried or 0)

    def free(self, row: QuotaCounterRow) -> int | None:
        """What nobody has; below 0 where the limit was lowered since. None: as much as is wanted."""
        whole = self.whole(row)
        return None if whole is None else whole - row.admitted - row.unadmitted - row.delegated

    def is_strict(self, row: QuotaCounterRow) -> bool:
        """So much of it is forfeited that it grants no leases any more."""
        return is_strict(self.whole(row), row.forfeited)


class Allowance(msgspec.Struct, frozen=True):
    """The limits in force, or the credits, of a counted feature of one tenant."""

    tenant_id: str
    feature: str
    limits: tuple[Limit, ...] = ()
    buckets: tuple[Bucket, ...] = ()

    @property
    def counters(self) -> Counters:
        """Where it is counted."""
        return Counters(self.tenant_id, self.feature)

    @property
    def on_loss(self) -> OnHolderLoss:
        """What becomes of what a lost holder had, as the limits say; of credits it stays spent."""
        return on_loss_of(self.limits)

    @property
    def is_leased(self) -> bool:
        """Whether anybody gets tokens of it beforehand: in other modes each use is the authority's matter."""
        return mode_of(self.limits) is LimitMode.LEASED

    def choices(self, at: datetime) -> Iterator[tuple[Part, ...]]:
        """What a lease may take from, the first choice first: each is taken from whole or not at all."""
        if self.buckets:
            yield from ((Part.of_bucket(one),) for one in self.buckets)
        elif self.limits:
            yield in_order([Part.of_limit(limit, at) for limit in self.limits])

    def matching(self, places: Sequence[Place], at: datetime) -> tuple[Part, ...] | None:
        """The choice that takes from exactly these; None: it is not there any more, or is another."""
        wanted = set(places)
        found = (parts for parts in self.choices(at) if {part.place for part in parts} == wanted)
        return next(found, None)


def in_order(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The order in which everyone takes counters."""
    return tuple(sorted(parts, key=lambda part: part.place))
