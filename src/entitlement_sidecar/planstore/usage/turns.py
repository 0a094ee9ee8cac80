"""Whose turn it is with what a tenant has in the ledger already, on PostgreSQL.

Most batches only add, and need none. Two things depend on what is there: whether work has ended (S0.9), and
what an event was corrected to last. Whoever may change that goes alone, whoever only looks goes with others
that do. SQLite has one writer anyway.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b

from sqlalchemy import text
from sqlalchemy.orm import Session

STRIPES = 256
"""Tenants share these locks: a batch of thousands of tenants takes no more than PostgreSQL has room for."""

_SPACE = 0x75736167
"""First key of the advisory locks: "usag" in ASCII."""

_ALONE = text("SELECT pg_advisory_xact_lock(:space, :stripe)")
_TOGETHER = text("SELECT pg_advisory_xact_lock_shared(:space, :stripe)")


def take_turns(session: Session, changing: Collection[str], looking: Collection[str] = ()) -> None:
    """Waits for its turn with tenants, until the transaction ends.

    In one order for everyone. Who looks first and changes later must say so at once: two that want more than
    they have would wait for each other.
    """
    if session.get_bind().dialect.name == "sqlite":
        return
    alone = {_stripe(tenant_id) for tenant_id in changing}
    for stripe in sorted(alone | {_stripe(tenant_id) for tenant_id in looking}):
        how = _ALONE if stripe in alone else _TOGETHER
        session.execute(how, {"space": _SPACE, "stripe": stripe})


def _stripe(tenant_id: str) -> int:
    return int.from_bytes(blake2b(tenant_id.encode(), digest_size=2).digest()) % STRIPES
