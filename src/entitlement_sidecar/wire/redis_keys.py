"""Names of what lies in Redis. Every key of a tenant shares one hash tag, so that one script can take all.

| key | type | holds |
|---|---|---|
| `ent:{tenant}:snapshot` | hash | `version`, `envelope` (a signed snapshot); no TTL |
| `ent:catalogue` | hash | `version`, `envelope` (the signed catalogue document) |
| `ent:feed:{n}` | stream | one entry per change, of shard n |
| `ent:feed:{n}:state` | hash | `epoch`, `sequence` of the last entry; in a cluster `servers`, by a digest |
| `ent:heartbeat:{n}` | stream | signed heartbeats of shard n, the last few |
| `ent:refill` | string | which plan store writes everything again after Redis was lost; with a TTL |
"""

from __future__ import annotations

from zlib import crc32

CATALOGUE_KEY = "ent:catalogue"
REFILL_KEY = "ent:refill"


def snapshot_key(tenant_id: str) -> str:
    """Where a tenant's newest snapshot lies."""
    return f"ent:{{{tenant_id}}}:snapshot"


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
