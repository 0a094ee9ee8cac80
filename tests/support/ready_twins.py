"""Two sidecars that are told and asked the same: one answers CONSUMEs that are ready, the other one never."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Durability
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import EntitlementsError
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.domain.usage import UsageEvent, UsageResult
from entitlement_sidecar.sidecar.decisions.atomic import AtomicBatches
from entitlement_sidecar.sidecar.decisions.basis import Knowledge
from entitlement_sidecar.sidecar.decisions.check import Decisions
from entitlement_sidecar.sidecar.decisions.consumption import Consumptions
from entitlement_sidecar.sidecar.decisions.knowing import Knowing
from entitlement_sidecar.sidecar.decisions.watching import Watching
from entitlement_sidecar.sidecar.leases.asking import Means
from entitlement_sidecar.sidecar.leases.book import LeaseBook
from entitlement_sidecar.sidecar.rpc.entitlements import EntitlementServicer
from entitlement_sidecar.sidecar.rpc.permit import Permit
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.sidecar.usage.outbox import OutboxRecord, PreparedRecord
from entitlement_sidecar.sidecar.usage.pseudonyms import PseudonymousReporter, Pseudonyms
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_journal import MemoryJournal
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from entitlement_sidecar.wire.v1 import decision_pb2
from support.deciding import PlanStore
from support.leased_books import DIRECT, Site

_TURNS = 4
"""Turns of the event loop that a commit takes."""

TENANT, FEATURE = "acme", "calls"
PSEUDONYMS = Pseudonyms(b"k" * 32)


class Outbox(MemoryOutbox):
    """Commits after a while, and once it may be `committing`; fails as it is told.

    `refusing` is raised at once, `breaking` in the place of a commit.
    """

    def __init__(self, journal: MemoryJournal) -> None:
        super().__init__(journal=journal)
        self.refusing: Exception | None = None
        self.breaking: Exception | None = None
        self.committing = asyncio.Event()
        self.committing.set()
        self.appends = 0

    def append(
        self, records: Sequence[OutboxRecord], durability: Durability, *, atomic: bool = False
    ) -> Awaitable[list[UsageResult]]:
        """Keeps records, or fails."""
        return self._later(lambda: super(Outbox, self).append(records, durability, atomic=atomic))

    def append_prepared(
        self, records: Sequence[PreparedRecord], durability: Durability, *, billable: bool
    ) -> asyncio.Future[list[UsageResult]]:
        """Keeps records, or fails."""
        self.appends += 1
        return self._later(
            lambda: super(Outbox, self).append_prepared(records, durability, billable=billable)
        )

    def _later(self, keep: Callable[[], Awaitable[list[UsageResult]]]) -> asyncio.Future[list[UsageResult]]:
        if self.refusing is not None:
            raise self.refusing
        breaking = self.breaking
        kept = None if breaking else keep()

        async def commit() -> list[UsageResult]:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            await self.committing.wait()
            if kept is None:
                raise breaking or AssertionError
            return await kept

        return asyncio.ensure_future(commit())

    def events(self) -> list[UsageEvent]:
        """Everything that was accepted, in order."""
        return list(self._queued.values())


class RootOf(Site):
    """A root that also carries over what was left, as far as a limit says."""

    def usage(self, ask: QuotaAsk) -> tuple[LimitUsage, ...]:
        """As the root tells it."""
        carried = [min(one.carry_over_cap, one.before or 0) for one in ask.resolution.limits]
        return tuple(
            msgspec.structs.replace(one, carried=more)
            for one, more in zip(super().usage(ask), carried, strict=True)
        )


class Twin:
    """One sidecar in memory, from its servicer to its root."""

    def __init__(self, document: CatalogueDocument, size: int, *, ready: bool, hidden: bool = False) -> None:
        self.site = RootOf(size)
        self.clock: FakeClock = self.site.clock
        self.journal = MemoryJournal()
        self.outbox = Outbox(self.journal)
        self.book = LeaseBook(self.site, Means(self.site.root, None, self.journal, self.clock))
        self.store, self.planstore = SnapshotStore(), PlanStore(self.clock)
        self.freshness = Freshness(self.clock)
        knowledge = Knowledge(self.store, self.freshness, self.clock)
        self.knowing = Knowing(knowledge, Loader(self.store, [self.planstore], self.clock), within=0.05)
        means = (self.outbox, lambda: self.store.catalogue, self.clock, "test")
        reporter = PseudonymousReporter(PSEUDONYMS, *means) if hidden else UsageReporter(*means)
        consumptions = Consumptions(self.outbox, reporter, self.book)
        self.decisions = Decisions(self.knowing, self.book, consumptions)
        atomic = AtomicBatches(self.decisions, self.knowing, self.book, consumptions)
        self.permit = Permit("app", None)
        self.servicer = EntitlementServicer(
            self.decisions, atomic, Watching(self.decisions, self.knowing), self.permit
        )
        # How many were answered from what was ready.
        self.taken = 0
        take = self.decisions.ready.take
        self.decisions.ready.take = self._counting(take) if ready else _never  # type: ignore[method-assign]
        self.freshness.begin(1)
        self.beat()
        self.catalogue(document)

    def _counting(self, take: Callable[..., Any]) -> Callable[..., Any]:
        def counted(message: decision_pb2.CheckEntitlementRequest) -> Any:
            promise = take(message)
            self.taken += promise is not None
            return promise

        return counted

    def beat(self) -> None:
        """The feed confirms everything now."""
        self.freshness.beat(0, self.clock.now())

    def catalogue(self, document: CatalogueDocument) -> None:
        """A catalogue arrives."""
        self.planstore.document = document
        self.store.put_catalogue(document)

    def hold(self, snapshot: Snapshot) -> None:
        """A snapshot arrives by the feed; the source has it too."""
        self.planstore.snapshots[snapshot.tenant_id] = snapshot
        self.store.put(HeldTenant(snapshot, Source.PLAN_STORE, None, followed=True))

    def others_use(self, quantity: int) -> None:
        """Somebody else uses some of what is free."""
        direct = self.site.root.accounts[DIRECT]
        quantity = min(quantity, self.site.root.free)
        self.site.root.accounts[DIRECT] = msgspec.structs.replace(
            direct, granted=direct.granted + quantity, used=direct.used + quantity
        )

    async def settled(self) -> None:
        """Lets what is under way end."""
        for _ in range(20):
            await asyncio.sleep(0)
        self.book.tick()
        for _ in range(20):
            await asyncio.sleep(0)

    async def ask(self, message: decision_pb2.CheckEntitlementRequest) -> decision_pb2.Decision | str:
        """The answer to one call, or what it failed with."""
        try:
            answer = self.servicer.check(message.SerializeToString())
            payload = answer if isinstance(answer, bytes) else await answer
        except EntitlementsError as error:
            return f"{type(error).__name__}: {error}"
        return decision_pb2.CheckEntitlementResponse.FromString(payload).decision

    def accounts(self) -> tuple[list[tuple[int, int, int]], list[int], int]:
        """What was used of all leases, for the book and the journal, and what the root could still grant.

        What grantors were told of it is a matter of instants.
        """
        slot: Any = self.book.grip(TENANT, FEATURE)
        leases = [] if slot is None else [(one.left, one.taken, one.kept) for one in slot.leases]
        journalled = [account.used for account in self.journal.accounts.values()]
        return leases, journalled, self.site.root.free


def _never(_message: decision_pb2.CheckEntitlementRequest) -> None:
    return None


def counted() -> Counter[tuple[str, ...]]:
    """Decisions so far, by their labels."""
    samples = [sample for family in metrics.decisions.collect() for sample in family.samples]
    return Counter(
        {
            tuple(sample.labels.values()): int(sample.value)
            for sample in samples
            if sample.name.endswith("_total")
        }
    )


def without_ids(decision: decision_pb2.Decision | str) -> object:
    """An answer, but for what may differ: its identity, how young it is, what a refusing root was told."""
    if isinstance(decision, str):
        return decision
    bare = decision_pb2.Decision()
    bare.CopyFrom(decision)
    bare.ClearField("consumption_id")
    bare.ClearField("as_of")
    if not bare.allowed:
        bare.ClearField("used")
    return bare


def of_no_identity(event: UsageEvent) -> UsageEvent:
    """An event, but for its identity, and that in the place of a correlation."""
    correlation = "itself" if event.correlation_id == event.id else event.correlation_id
    return msgspec.structs.replace(event, id="", correlation_id=correlation)
