"""Leases of credits: each is of one grant, and they are used in the order in which grants burn (S1.8).

    lease of the first grant ──has too little──▶ asked for more ──nothing came──▶ burnt up
                                                                                    └─▶ a lease of the next

A use is of one lease, so of one grant. What is left of one that is burnt up waits for a use that is as small;
who wants more than that gives it back, and the authority takes from several grants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.quota import LimitUsage
from entitlement_sidecar.sidecar.leases.lease import Lease


class Burning:
    """The order of the grants of one feature, and what was taken of each that the view does not count."""

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self._buckets = {bucket.key: bucket for bucket in buckets}
        self._ranks = {bucket.key: rank for rank, bucket in enumerate(buckets)}
        self._pending: dict[str, int] = {}

    def knows(self, lease: Lease) -> bool:
        """Whether the grant that a lease is of is one of these."""
        return lease.credit_grant in self._ranks

    def sort(self, leases: list[Lease]) -> None:
        """Puts the ones that burn first in front."""
        leases.sort(key=lambda lease: self._ranks.get(lease.credit_grant, len(self._ranks)))

    def take(self, lease: Lease, quantity: int) -> None:
        """So much was taken of a lease; less than 0: it came back."""
        self._pending[lease.credit_grant] = self._pending.get(lease.credit_grant, 0) + quantity

    def learn(self, limits: Sequence[LimitUsage], leases: Sequence[Lease]) -> tuple[LimitUsage, ...]:
        """A new view, less what this sidecar itself stands for in it."""
        known = _by_grant((lease.credit_grant, lease.known) for lease in leases)
        self._pending = _by_grant((lease.credit_grant, lease.taken - lease.told) for lease in leases)
        return tuple(
            msgspec.structs.replace(limit, outstanding=max(0, limit.outstanding - known.get(key, 0)), taken=0)
            for limit, key in self._named(limits)
        )

    def as_used_here(self, limits: Sequence[LimitUsage], leases: Sequence[Lease]) -> tuple[LimitUsage, ...]:
        """An authority's own answer, with what was used of the leases here and not told yet."""
        known = _by_grant((lease.credit_grant, lease.known) for lease in leases)
        untold = _by_grant((lease.credit_grant, lease.taken - lease.told) for lease in leases)
        return tuple(
            msgspec.structs.replace(
                limit,
                used=limit.used + untold.get(key, 0),
                outstanding=max(0, limit.outstanding - known.get(key, 0)),
            )
            for limit, key in self._named(limits)
        )

    def learn_nothing(self, leases: Sequence[Lease]) -> None:
        """No view could be had: all that was taken of the leases counts as not seen."""
        self._pending = _by_grant((lease.credit_grant, lease.taken) for lease in leases)

    def burn(self, view: Sequence[LimitUsage], lease: Lease | None, quantity: int) -> tuple[LimitUsage, ...]:
        """A view with what was taken since, of which `quantity` was taken of a lease just now."""
        grant = "" if lease is None else lease.credit_grant
        return tuple(
            msgspec.structs.replace(
                limit,
                used=limit.used + self._pending.get(key, 0),
                taken=quantity if key and key == grant else 0,
            )
            for limit, key in self._named(view)
        )

    def _named(self, limits: Sequence[LimitUsage]) -> list[tuple[LimitUsage, str]]:
        """Each with the key of its bucket; '' where nobody here knows it."""
        keys: dict[object, list[str]] = {}
        for key, one in self._buckets.items():
            keys.setdefault((one.grant, one.since, one.until), []).append(key)
        found = (keys.get((one.key, one.window_start, one.reset_at)) for one in limits)
        return [(one, known.pop(0) if known else "") for one, known in zip(limits, found, strict=True)]


def _by_grant(amounts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """What comes together of each grant."""
    sums: Counter[str] = Counter()
    for grant, amount in amounts:
        sums[grant] += amount
    return sums
