"""Names of what lies in Redis. Every key of a tenant shares one hash tag, so that one script can take all.

| key | type | holds |
|---|---|---|
| `ent:{tenant}:snapshot` | hash | `version`, `envelope` (a signed snapshot); no TTL |
| `ent:catalogue` | hash | `version`, `envelope` (the signed catalogue document) |
| `ent:feed:{n}` | stream | one entry per change, of shard n |
| `ent:feed:{n}:state` | hash | `epoch`, `sequence` of the last entry; in a cluster `servers`, by a digest |
| `ent:heartbeat:{n}` | stream | signed heartbeats of shard n, the last few |
| `ent:{tenant}:block:<end>:<feature>` | hash | a block of quota with the accounts of its holders, see below |
| `ent:wanted` | set | blocks that sidecars miss, or that run low: JSON lists of tenant and feature |
| `ent:tending` | string | a plan store has just looked after all blocks; with a TTL |
| `ent:refill` | string | which plan store writes everything again after Redis was lost; with a TTL |

A block is one feature's share of what its limits have left, in the window that ends first; `<end>` is that
end in microseconds since 1970, 0 for a window that never ends. Its hash holds `id`, `run_id` (the run of the
server that it belongs to, with that of its data), `starts_at`, `ends_at`, `closing`, `holders`, `sequence`,
and the totals `granted` and `returned` (between the database and the block), `given`, `back` and `used`
(between the block and its holders). What is free is granted - returned - given + back. `a:<holder>` is the
account of a holder: granted, used, returned, number of the last request that was granted anything, expiry in
microseconds, whether it is closed, reclaimed. `t:<holder>`: of its accounts `<holder>#<n>`, the highest n
that is settled and forgotten, and when it was, in microseconds.
"""

from __future__ import annotations

from datetime import datetime
from zlib import crc32

import msgspec

from entitlement_sidecar.wire.codec import microseconds

CATALOGUE_KEY = "ent:catalogue"
REFILL_KEY = "ent:refill"
WANTED_KEY = "ent:wanted"
TENDING_KEY = "ent:tending"

BLOCKS = "ent:{*}:block:*"
"""What the keys of all blocks match."""


def snapshot_key(tenant_id: str) -> str:
    """Where a tenant's newest snapshot lies."""
    return f"ent:{{{tenant_id}}}:snapshot"


def micros(instant: datetime | None) -> int:
    """Microseconds since 1970, exactly; 0 for a window that never ends."""
    return 0 if instant is None else microseconds(instant)


class BlockPlace(msgspec.Struct, frozen=True):
    """Where a block belongs: a feature, in its window that ends first (None: never)."""

    tenant_id: str
    feature: str
    ends_at: datetime | None

    @property
    def key(self) -> str:
        """Its key in Redis."""
        return f"ent:{{{self.tenant_id}}}:block:{micros(self.ends_at)}:{self.feature}"


def feed_key(shard: int) -> str:
    """The stream of changes of one shard."""
    return f"ent:feed:{{{shard}}}"


def feed_state_key(shard: int) -> str:
    """Epoch and sequence of one shard."""
    return f"ent:feed:{{{shard}}}:state"


def heartbeat_key(shard: int) -> str:
    """The stream of heartbeats of one shard."""
    return f"ent:heartbeat:{{{shard}}}"


def shard_of(tenant_id: str, shards: int) -> int:
    """The shard that a tenant's changes go to."""
    return crc32(tenant_id.encode()) % shards
