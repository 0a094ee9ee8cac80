"""L1: what this sidecar holds of each tenant, in memory.

Bounded by bytes, as `footprint` counts them: the tenant that was looked at longest ago goes first. A snapshot
only ever gives way to a newer version. A feed entry raises a tenant's *floor*: what is older than
the floor is still served, but no longer confirmed by the feed, and a slow old read cannot land over it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.clock import SystemClock
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.resolve import Resolver
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.snapshots.footprint import footprint
from entitlement_sidecar.sidecar.snapshots.freezing import Freezing
from entitlement_sidecar.sidecar.snapshots.last_known import LastKnown, NothingKept
from entitlement_sidecar.sidecar.snapshots.watchers import Watchers
from entitlement_sidecar.telemetry import metrics

MAX_BYTES = 256 << 20
"""Bytes of held tenants at most, unless told otherwise."""

UNKNOWN_FOR = 2.0
"""Seconds that the plan store's "no such tenant" is remembered at most (DESIGN 6)."""

MAX_UNKNOWN = 10_000
"""Unknown tenants remembered at most: a flood of invented names must not take memory."""

NO_CATALOGUE = CatalogueDocument(version=0, features={}, metrics={})
"""What is held before any catalogue document was."""


class HeldTenant(msgspec.Struct, weakref=True):
    """One tenant as it is held.

    `followed`: the feed covers it since it was read, so that the feed's freshness is its own.
    `confirmed_at`: its source said so itself at that instant; None when it cannot know. `received`: no
    later, on this process' monotonic clock.
    `told`: what decisions were last told of it, good for one generation of freshness and of the catalogue.
    `size`: bytes of memory that it takes.
    """

    snapshot: Snapshot
    source: Source
    confirmed_at: datetime | None
    followed: bool
    received: float | None = None
    resolver: Resolver = None  # type: ignore[assignment]  # made from the snapshot
    told: Held | None = None
    told_generation: int = -1
    size: int = 0

    def __post_init__(self) -> None:
        """Everything held of a snapshot is forgotten with it."""
        self.resolver = Resolver(self.snapshot)
        self.size = footprint(self.snapshot)

    def confirmed_since(self, began: float) -> bool:
        """Whether its source has said so itself since a monotonic instant."""
        return self.received is not None and self.received >= began


class SnapshotStore:
    """Memory of snapshots, floors, unknown tenants, and the catalogue document."""

    def __init__(
        self,
        max_bytes: int = MAX_BYTES,
        last_known: LastKnown | None = None,
        freezing: Freezing | None = None,
    ) -> None:
        """`last_known` is told of what is held, and of tenants that do not exist."""
        self.catalogue = NO_CATALOGUE
        self.freezing = freezing or Freezing(SystemClock())
        self.watchers = Watchers()
        self.on_unfollowed: Callable[[str], None] = lambda _: None
        """Told of a held tenant that the feed does not confirm, when it comes to that."""
        self._catalogue_floor = 0
        self._catalogue_named = 0
        self._catalogue_doubted = False
        self._catalogue_as_of: datetime | None = None
        self._max_bytes = max_bytes
        self._bytes = 0
        self._last_known = last_known or NothingKept()
        self._tenants: OrderedDict[str, HeldTenant] = OrderedDict()
        self._floors: dict[str, int] = {}
        self._named: dict[str, int] = {}
        self._loading: Counter[str] = Counter()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._disowned: OrderedDict[str, float] = OrderedDict()
        metrics.snapshots_held.set_function(lambda: len(self._tenants))
        metrics.snapshot_bytes.set_function(lambda: self._bytes)

    def __len__(self) -> int:
        return len(self._tenants)

    def __contains__(self, tenant_id: object) -> bool:
        return tenant_id in self._tenants

    def get(self, tenant_id: str) -> HeldTenant | None:
        """What is held of a tenant, which counts as looked at."""
        held = self._tenants.get(tenant_id)
        if held is not None:
            self._tenants.move_to_end(tenant_id)
        return held

    @property
    def bytes_held(self) -> int:
        """Bytes of memory that held tenants take."""
        return self._bytes

    def tenants(self) -> list[str]:
        """Every tenant held, the one looked at longest ago first."""
        return list(self._tenants)

    def floor(self, tenant_id: str) -> int:
        """The newest version that this sidecar has heard of; 0 when none."""
        return self._floors.get(tenant_id, 0)

    def put(self, tenant: HeldTenant, envelope: bytes = b"") -> bool:
        """Holds a snapshot unless a newer one is held. Says whether it is held now.

        `envelope` is what was signed, where it is worth keeping.
        """
        tenant_id = tenant.snapshot.tenant_id
        held = self._tenants.get(tenant_id)
        if held is not None and held.snapshot.version > tenant.snapshot.version:
            return False
        if held is not None and self._is_held_back(held, tenant.snapshot):
            return False
        if tenant.snapshot.version < self.floor(tenant_id):
            # Better than nothing, and known to be old: it must not count as current.
            tenant.followed = False
            tenant.told = None
            if tenant.source is not Source.DISK:
                # Whoever says so now is mistaken; what was last known only says so of a time before.
                tenant.confirmed_at = tenant.received = None
        if held is not None and held.snapshot.version == tenant.snapshot.version:
            # Nobody has taken back what was known of this version.
            _confirm(tenant, held.confirmed_at, held.received)
            tenant.followed = tenant.followed or held.followed
        _count_unknown("grant", (grant.understood for grant in tenant.snapshot.grants))
        self._hold(tenant_id, tenant)
        self._unknown.pop(tenant_id, None)
        if tenant.confirmed_at is not None:
            self._disowned.pop(tenant_id, None)
        if envelope:
            current_at = tenant.confirmed_at or tenant.snapshot.compiled_at
            self._last_known.keep(envelope, tenant_id, tenant.snapshot.version, current_at)
        self.watchers.changed(tenant_id)
        if not tenant.followed:
            self.on_unfollowed(tenant_id)
        return True

    def _is_held_back(self, held: HeldTenant, newer: Snapshot) -> bool:
        """Whether an operator's freeze keeps what is held; then it is known that there is a newer one."""
        if held.snapshot.version == newer.version or not self.freezing.holds_back(newer):
            return False
        self._floors[newer.tenant_id] = max(newer.version, self.floor(newer.tenant_id))
        return True

    def _hold(self, tenant_id: str, tenant: HeldTenant) -> None:
        """Takes a tenant in; what was looked at longest ago makes room. One is held, however large."""
        self._let_go(tenant_id)
        self._tenants[tenant_id] = tenant
        self._bytes += tenant.size
        while self._bytes > self._max_bytes and len(self._tenants) > 1:
            longest_ago = next(iter(self._tenants))
            self._let_go(longest_ago)
            if longest_ago not in self._loading:
                self._forget_floor(longest_ago)
            metrics.snapshots_evicted.inc()

    def _let_go(self, tenant_id: str) -> bool:
        """Whether it was held."""
        held = self._tenants.pop(tenant_id, None)
        if held is not None:
            self._bytes -= held.size
        return held is not None

    def begin_load(self, tenant_id: str) -> None:
        """A load runs: floors that are set meanwhile are kept, also of a tenant that is not held yet."""
        self._loading[tenant_id] += 1

    def end_load(self, tenant_id: str) -> None:
        """The load is over."""
        self._loading[tenant_id] -= 1
        if self._loading[tenant_id]:
            return
        del self._loading[tenant_id]
        if tenant_id not in self._tenants:
            self._forget_floor(tenant_id)

    def _forget_floor(self, tenant_id: str) -> None:
        self._floors.pop(tenant_id, None)
        self._named.pop(tenant_id, None)
        self.freezing.forget(tenant_id)

    def raise_floor(
        self, tenant_id: str, version: int, as_of: datetime | None, received: float | None = None
    ) -> bool:
        """Notes that a version exists. Says whether what is held is older, and has to be read again.

        What is older was current as of `as_of`, the last that the feed confirmed (at `received` on the
        monotonic clock), and stays so.
        """
        self._unknown.pop(tenant_id, None)
        self._disowned.pop(tenant_id, None)
        self.watchers.changed(tenant_id)
        held = self._tenants.get(tenant_id)
        if held is None and tenant_id not in self._loading:
            return False
        self._floors[tenant_id] = max(version, self.floor(tenant_id))
        self._named[tenant_id] = max(version, self._named.get(tenant_id, 0))
        if held is None or held.snapshot.version >= version:
            return False
        _unfollow(held, as_of, received)
        self.on_unfollowed(tenant_id)
        return True

    def is_named(self, tenant_id: str, version: int) -> bool:
        """Whether the feed, since it began, has named a version, and none newer than this one."""
        return 0 < self._named.get(tenant_id, 0) <= version

    def is_settled(self, tenant_id: str) -> bool:
        """Whether there is nothing to read again: confirmed by the feed, kept by a freeze, or not held."""
        held = self._tenants.get(tenant_id)
        return held is None or held.followed or self.is_kept(tenant_id)

    def is_kept(self, tenant_id: str) -> bool:
        """Whether what is held is behind because a freeze keeps it."""
        return self.freezing.has_held_back(tenant_id, self.floor(tenant_id))

    def thaw(self) -> None:
        """What freezes have held back and hold back no longer is taken, or read again."""
        document = self.freezing.all_thawed()
        if document is not None:
            self.put_catalogue(document)
        self._thaw_tenants()

    def _thaw_tenants(self) -> None:
        for tenant_id in self.freezing.thawed():
            held = self._tenants.get(tenant_id)
            if held is not None and held.snapshot.version < self.floor(tenant_id):
                self.on_unfollowed(tenant_id)

    def followed(self) -> list[tuple[str, int]]:
        """Tenants that the feed confirms, with the version of each."""
        return [(tenant_id, one.snapshot.version) for tenant_id, one in self._tenants.items() if one.followed]

    def to_confirm(self, tenant_id: str) -> HeldTenant | None:
        """What is held, unless the feed confirms it, or has named a newer version: that has to be read."""
        held = self._tenants.get(tenant_id)
        if held is None or held.followed or held.snapshot.version < self.floor(tenant_id):
            return None
        return held

    def confirm(self, held: HeldTenant, at: datetime, received: float, *, followed: bool) -> None:
        """A source that knows said that what `to_confirm` gave was the newest at an instant.

        `received`: a monotonic instant at which it had not said so yet. `followed`: the feed covers it since
        before the source looked.
        """
        tenant_id = held.snapshot.tenant_id
        self._disowned.pop(tenant_id, None)
        held.told = None
        held.followed = followed
        if held.source is Source.DISK:
            # It is as good as if it had been read now.
            held.source = Source.MEMORY
        _confirm(held, at, received)
        self.watchers.changed(tenant_id)

    def unfollow_all(self, as_of: datetime | None, received: float | None = None) -> list[str]:
        """The feed may have missed something: nothing held is confirmed by it. Returns what to read again."""
        self._unknown.clear()
        self._named.clear()
        for held in self._tenants.values():
            _unfollow(held, as_of, received)
        return list(self._tenants)

    def note_unknown(self, tenant_id: str, now: float) -> None:
        """The plan store knows no such tenant: what is held of it is dropped; `now` is monotonic.

        That it is unknown is remembered briefly. That it was disowned is remembered until the feed names it
        or a source vouches for it, so that an orphan in a cache is not believed before the plan store was
        asked. It is believed, as STALE, while the plan store cannot be asked; and a tenant that is deleted
        without an entry in the feed is served until it is read again.
        """
        self._forget_floor(tenant_id)
        if self._let_go(tenant_id):
            self.watchers.changed(tenant_id)
        self._last_known.forget(tenant_id)
        _remember(self._unknown, tenant_id, now + UNKNOWN_FOR)
        _remember(self._disowned, tenant_id, now)

    def is_disowned(self, tenant_id: str) -> bool:
        """Whether the plan store said that there is no such tenant, and nobody has said otherwise since."""
        return tenant_id in self._disowned

    def is_unknown(self, tenant_id: str, now: float) -> bool:
        """Whether the plan store said so at most two seconds ago; `now` is monotonic."""
        until = self._unknown.get(tenant_id)
        return until is not None and now < until

    @property
    def catalogue_current(self) -> bool:
        """Whether the feed confirms the catalogue held; if not, answers are STALE, whatever `as_of`."""
        return self.catalogue_settled and self.freezing.document is None

    @property
    def catalogue_settled(self) -> bool:
        """Whether there is nothing to read again: the newest is held, or known and held back by a freeze."""
        return not self._catalogue_doubted and self.catalogue.version >= max(1, self._catalogue_floor)

    @property
    def catalogue_floor(self) -> int:
        """The newest version of the catalogue that this sidecar has heard of; 0 when none."""
        return self._catalogue_floor

    @property
    def catalogue_doubted(self) -> bool:
        """Whether the feed may have missed a newer one since what is held was confirmed."""
        return self._catalogue_doubted

    @property
    def catalogue_as_of(self) -> datetime | None:
        """The last instant of which the catalogue held was confirmed; None: as of now, or nobody knows."""
        return None if self.catalogue_current else self._catalogue_as_of

    def doubt_catalogue(self, as_of: datetime | None = None) -> None:
        """The feed may have missed a newer one: what is held counts as current when it was confirmed.

        `as_of`: the last instant that the feed confirmed.
        """
        self._catalogue_as_of = as_of if self.catalogue_current else self._catalogue_as_of
        self._catalogue_doubted = True
        self._catalogue_named = 0

    def trust_catalogue(self) -> None:
        """What is held was confirmed by a source since it was doubted."""
        self._catalogue_doubted = False

    def is_catalogue_named(self, version: int) -> bool:
        """Whether the feed, since it began, has named a version, and none newer than this one."""
        return 0 < self._catalogue_named <= version

    def raise_catalogue_floor(self, version: int, as_of: datetime | None = None) -> bool:
        """Notes that a version of the catalogue exists. Says whether what is held is older.

        It is current as of `as_of` then, the last instant that the feed confirmed.
        """
        if self.catalogue_current and version > self.catalogue.version:
            self._catalogue_as_of = as_of
        self._catalogue_floor = max(self._catalogue_floor, version)
        self._catalogue_named = max(self._catalogue_named, version)
        return self.catalogue.version < version

    def put_catalogue(self, document: CatalogueDocument) -> None:
        """Holds a catalogue document unless a newer one is held."""
        if document.version >= self.catalogue.version:
            _count_unknown("feature", (feature.understood for feature in document.features.values()))
            self.catalogue = self.freezing.kept(self.catalogue, document)
            self.watchers.all_changed()
            # The newest may have ended what the one before it froze.
            self._thaw_tenants()


def _remember(names: OrderedDict[str, float], tenant_id: str, until: float) -> None:
    names[tenant_id] = until
    names.move_to_end(tenant_id)
    while len(names) > MAX_UNKNOWN:
        names.popitem(last=False)


def _count_unknown(what: str, understood: Iterable[bool]) -> None:
    unknown = sum(not each for each in understood)
    if unknown:
        metrics.not_understood.labels(what).inc(unknown)


def _unfollow(held: HeldTenant, as_of: datetime | None, received: float | None) -> None:
    held.told = None
    if held.followed and as_of is not None:
        _confirm(held, as_of, received)
    held.followed = False


def _confirm(held: HeldTenant, at: datetime | None, received: float | None) -> None:
    """Keeps the later of two confirmations, each with when it was received."""
    if at is not None and (held.confirmed_at is None or at > held.confirmed_at):
        held.confirmed_at, held.received = at, received
