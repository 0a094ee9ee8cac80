"""What lies in blocks, and nobody holds: called back before the root refuses, and left out of views."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.quota import LimitUsage, QuotaUsage
from entitlement_sidecar.planstore.usage.counters import Place

Recall = Callable[[str, str, int], int]
"""Has the blocks of a tenant's feature give up to a quantity back to the root; says how much came."""

Free = Callable[[Session, str, str], Mapping[Place, int]]
"""How much lies free in the blocks of a tenant's feature, of each counter that they take from."""


def no_blocks(tenant_id: str, feature: str, quantity: int) -> int:  # noqa: ARG001 - what every recall is given
    """Where no Redis is used nothing lies anywhere else."""
    return 0


def nothing_free(session: Session, tenant_id: str, feature: str) -> Mapping[Place, int]:  # noqa: ARG001 - what each is given
    """Where no Redis is used nothing lies in blocks."""
    return {}


class InBlocks(msgspec.Struct, frozen=True):
    """What is asked of blocks in Redis, where there are any."""

    recall: Recall = no_blocks
    free: Free = nothing_free


def without_free(usage: QuotaUsage, free: Callable[[], Mapping[Place, int]]) -> QuotaUsage:
    """A view in which only what holders have is outstanding: what lies free in blocks is anybody's.

    Asks for it only where anything is outstanding at all.
    """
    if not any(limit.outstanding for limit in usage.limits):
        return usage
    lying = free()
    limits = tuple(_without(limit, lying.get((limit.key, limit.window_start), 0)) for limit in usage.limits)
    return msgspec.structs.replace(usage, limits=limits)


def _without(limit: LimitUsage, free: int) -> LimitUsage:
    return msgspec.structs.replace(limit, outstanding=max(0, limit.outstanding - free))
