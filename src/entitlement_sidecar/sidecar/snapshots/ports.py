"""Where snapshots come from. Adapters verify signatures: what passes these ports is trusted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.snapshot import Snapshot


class Fetched(msgspec.Struct, frozen=True):
    """A snapshot and what its source says of it.

    `true_at` is an instant at which the source knew it to be the newest; None when the source cannot
    know (a cache: the feed says). `envelope` is what was signed, to be kept; empty where nothing was.
    """

    snapshot: Snapshot
    source: Source
    true_at: datetime | None = None
    envelope: bytes = b""


class SnapshotSource(Protocol):
    """Answers for one tenant at a time: Redis, the plan store, or a file."""

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """The newest snapshot it has, or None when it has none so new. A cache may answer with an older one.

        May block for the adapter's own timeout. Safe to repeat.

        Raises:
            TenantUnknownError: On the plan store's own word only.
            SourceUnavailableError: It is away, slow, or what it answered failed verification.
        """
        ...

    async def catalogue(self) -> CatalogueDocument | None:
        """The newest catalogue document, or None when it has none.

        Raises:
            SourceUnavailableError: As above.
        """
        ...


class Confirmed(msgspec.Struct, frozen=True):
    """What became of versions that were held. Those of all other tenants were the newest at `true_at`."""

    true_at: datetime
    outdated: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()

    def outcome(self, tenant_id: str) -> str:
        """What became of one tenant's: confirmed, outdated or unknown."""
        if tenant_id in self.unknown:
            return "unknown"
        return "outdated" if tenant_id in self.outdated else "confirmed"


class Confirmer(Protocol):
    """Knows which versions are the newest, of many tenants at once: the plan store."""

    async def confirm(self, versions: Mapping[str, int]) -> Confirmed:
        """What became of versions, by tenant; a few hundred at most.

        May block for the adapter's own timeout. Safe to repeat.

        Raises:
            UnsupportedError: It cannot say of many at once (an older plan store): ask for one at a time.
            SourceUnavailableError: It is away, slow, or refuses.
        """
        ...


class Position(msgspec.Struct, frozen=True):
    """A place in one shard of the feed."""

    shard: int
    epoch: str
    sequence: int


class Changed(msgspec.Struct, frozen=True):
    """A tenant has a new version. Where the feed carries it: `snapshot`, and the signed `envelope` of it."""

    position: Position
    tenant_id: str
    version: int
    snapshot: Snapshot | None = None
    envelope: bytes = b""


class Gone(msgspec.Struct, frozen=True):
    """A tenant exists no longer, by the word of a source that knows."""

    position: Position
    tenant_id: str


class CatalogueChanged(msgspec.Struct, frozen=True):
    """There is a new catalogue document. `document` is given where the feed carries it."""

    position: Position
    version: int
    document: CatalogueDocument | None = None


class Beat(msgspec.Struct, frozen=True):
    """Everything committed before `true_at` is published in this shard, up to the position."""

    position: Position
    true_at: datetime


class Began(msgspec.Struct, frozen=True):
    """The feed (re)starts at this position, and what came before it may have been missed.

    `shards` is how many shards the feed has. What is held from earlier has to be revalidated.
    """

    position: Position
    shards: int


FeedEvent = Changed | Gone | CatalogueChanged | Beat | Began


class Feed(Protocol):
    """Tells of changes, in order per shard, without gaps: where one could be, it says `Began` again."""

    def events(self) -> AsyncIterator[FeedEvent]:
        """Events from now on, until cancelled. Resumes from its own cursor when iterated again.

        Raises:
            SourceUnavailableError: The connection was lost: iterate again, after a pause.
        """
        ...
