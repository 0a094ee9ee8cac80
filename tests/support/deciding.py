"""A sidecar's decisions in memory: a store, a source and an authority that a test scripts, an outbox."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import CheckRequest, Decision, Source
from entitlement_sidecar.domain.errors import SourceUnavailableError, TenantUnknownError
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.decisions.atomic import AtomicBatches
from entitlement_sidecar.sidecar.decisions.basis import Knowledge
from entitlement_sidecar.sidecar.decisions.check import Decisions
from entitlement_sidecar.sidecar.decisions.consumption import Consumptions
from entitlement_sidecar.sidecar.decisions.knowing import Knowing
from entitlement_sidecar.sidecar.leases.authority import NothingLeased
from entitlement_sidecar.sidecar.leases.local_authority import LocalAuthority
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import Fetched
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox


class PlanStore:
    """The source: what it holds, and whether it answers."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.snapshots: dict[str, Snapshot] = {}
        self.document: CatalogueDocument | None = None
        self.away = False
        self.asked = 0

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """A tenant's snapshot, confirmed now."""
        self.asked += 1
        if self.away:
            raise SourceUnavailableError("away")
        found = self.snapshots.get(tenant_id)
        if found is None:
            raise TenantUnknownError(tenant_id)
        if found.version < min_version:
            return None
        return Fetched(found, Source.PLAN_STORE, self._clock.now())

    async def catalogue(self) -> CatalogueDocument | None:
        """The catalogue document."""
        if self.away:
            raise SourceUnavailableError("away")
        return self.document


class Authority(NothingLeased):
    """The local authority, which may be away, and may wait for a test before it answers."""

    def __init__(self, clock: FakeClock) -> None:
        self.counting = LocalAuthority(clock)
        self.away = False
        self.consumed = 0

    def view(self, tenant_id: str, ask: QuotaAsk, max_age: float | None) -> QuotaUsage:
        """Usage now, or nobody can say."""
        return QuotaUsage(unavailable=True) if self.away else self.counting.view(tenant_id, ask, max_age)

    def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage | Awaitable[QuotaUsage]:
        """Admits, or nobody can."""
        self.consumed += 1
        return (
            QuotaUsage(unavailable=True) if self.away else self.counting.consume(tenant_id, ask, request_id)
        )

    def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> tuple[bool, list[QuotaUsage]]:
        """Admits all or nothing, or nobody can."""
        if self.away:
            return False, [QuotaUsage(unavailable=True) for _ in asks]
        return self.counting.consume_all(tenant_id, asks)


class Deciding:
    """Decisions with everything around them."""

    def __init__(self, document: CatalogueDocument | None = None, *, within: float = 0.2) -> None:
        self.clock = FakeClock()
        self.store = SnapshotStore()
        self.freshness = Freshness(self.clock)
        self.planstore = PlanStore(self.clock)
        self.authority = Authority(self.clock)
        self.outbox = MemoryOutbox()
        self.loader = Loader(self.store, [self.planstore], self.clock)
        knowledge = Knowledge(self.store, self.freshness, self.clock)
        self.knowing = Knowing(knowledge, self.loader, within=within)
        reporter = UsageReporter(self.outbox, lambda: self.store.catalogue, self.clock, "test")
        consumptions = Consumptions(self.outbox, reporter, self.authority)
        self.decisions = Decisions(self.knowing, self.authority, consumptions)
        self.atomic = AtomicBatches(self.decisions, self.knowing, self.authority, consumptions)
        self.freshness.begin(1)
        self.beat()
        if document is not None:
            self.planstore.document = document
            self.store.put_catalogue(document)

    def beat(self) -> None:
        """The feed confirms everything now."""
        self.freshness.beat(0, self.clock.now())

    def hold(self, snapshot: Snapshot) -> None:
        """A snapshot arrives by the feed; the source has it too."""
        self.planstore.snapshots[snapshot.tenant_id] = snapshot
        self.store.put(HeldTenant(snapshot, Source.PLAN_STORE, None, followed=True))

    async def decide(self, request: CheckRequest) -> Decision:
        """One decision, waited for where it has to be."""
        outcome = self.decisions.check(request)
        return outcome if isinstance(outcome, Decision) else await outcome()
