"""Whose turn it is with what a tenant has in the ledger, on PostgreSQL.

Batches that only add go together. Two kinds go alone, because they depend on what is there: an end of work,
which classifies what came before it anew, and a correction. Everybody takes their turn before they touch
counters and aggregates, so that the two kinds may touch these in any order, and nobody waits in a circle.
SQLite has one writer anyway.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b

from sqlalchemy import text
from sqlalchemy.orm import Session

STRIPES = 64
"""Tenants share these locks: a batch of thousands of tenants takes no more than PostgreSQL has room for."""

_SPACE = 0x75736167
"""First key of the advisory locks: "usag" in ASCII."""

_TAKE = text(
    "SELECT CASE WHEN alone THEN pg_advisory_xact_lock(:space, stripe)::text "
    "ELSE pg_advisory_xact_lock_shared(:space, stripe)::text END "
    "FROM unnest(CAST(:stripes AS integer[]), CAST(:alone AS boolean[])) AS turn (stripe, alone)"
)


def take_turns(session: Session, changing: Collection[str], adding: Collection[str] = ()) -> None:
    """Waits for its turn with tenants, until the transaction ends: alone where it changes what is there.

    In one order for everyone, and once in a transaction: two that add, and then want to change as well, would
    wait for each other.
    """
    if session.get_bind().dialect.name == "sqlite":
        return
    alone = {_stripe(tenant_id) for tenant_id in changing}
    stripes = sorted(alone | {_stripe(tenant_id) for tenant_id in adding})
    kinds = [stripe in alone for stripe in stripes]
    session.execute(_TAKE, {"space": _SPACE, "stripes": stripes, "alone": kinds})


def _stripe(tenant_id: str) -> int:
    return blake2b(tenant_id.encode(), digest_size=1).digest()[0] % STRIPES
