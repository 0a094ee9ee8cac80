"""A root with several grants of credits in memory, which burn in order, for tests of lease books."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.lease import Account, Told
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage, bucket_usage, burn
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.sidecar.leases.asking import Means
from entitlement_sidecar.sidecar.leases.authority import NothingLeased
from entitlement_sidecar.sidecar.leases.book import LeaseBook
from entitlement_sidecar.sidecar.leases.grantor import Heard, Opening, Request
from entitlement_sidecar.testing.builders import metered
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.testing.memory_journal import MemoryJournal
from entitlement_sidecar.testing.memory_leases import MemoryRoot

TENANT = "acme"
TOKENS = msgspec.structs.replace(metered("tokens"), kind=FeatureKind.CREDITS)
DIRECT = "direct"


def grant_of(name: str, amount: int, since: datetime, days: int) -> Bucket:
    """Credits that last so many days."""
    return Bucket(f"sub/{name}", name, amount, since, since + timedelta(days=days))


class CreditRoot(NothingLeased):
    """Grants leases of one grant each, and takes single uses from several. Also the authority."""

    source = "root"

    def __init__(self, clock: FakeClock, buckets: Sequence[Bucket]) -> None:
        self.clock = clock
        self.buckets = tuple(buckets)
        self.roots = [self._root(bucket) for bucket in buckets]
        self.away = False
        self.consumed = 0
        self.viewed = 0

    @property
    def calls(self) -> int:
        """Calls about leases."""
        return sum(root.calls for root in self.roots)

    @property
    def used(self) -> list[int]:
        """What was used of each grant, as it was told."""
        return [root.used for root in self.roots]

    @property
    def free(self) -> list[int]:
        """What nobody has of each grant."""
        return [root.free for root in self.roots]

    async def ask(self, opening: Opening, lease_id: str, request: Request) -> Heard:
        """Grants of the lease's grant; a new lease is of the first one that has any left."""
        for bucket, root in zip(self.buckets, self.roots, strict=True):
            root.away = self.away
            mine = f"{bucket.key}/{opening.holder}#{opening.name}" in root.accounts
            if mine if lease_id else mine or root.free:
                heard = await root.ask(opening, lease_id, request)
                return msgspec.structs.replace(
                    heard, usage=self.usage(), ends_at=bucket.until, credit_grant=bucket.key
                )
        return Heard(usage=self.usage())

    async def end(self, opening: Opening, lease_id: str, used: int) -> bool:
        """Takes back what was not used."""
        (root,) = [one for one in self.roots if lease_id in one.accounts]
        root.away = self.away
        return await root.end(opening, lease_id, used)

    async def adopt(self, lease_id: str, told: Told) -> bool:
        """There are no blocks of credits."""
        raise AssertionError((lease_id, told))

    def view(self, tenant_id: str, ask: QuotaAsk, max_age: float | None) -> QuotaUsage:  # noqa: ARG002 - always now
        """Usage now."""
        self.viewed += 1
        return QuotaUsage(self.usage(), as_of=self.clock.now())

    def usage(self, taken: Sequence[int] | None = None) -> tuple[LimitUsage, ...]:
        """Of each grant."""
        shares = taken or [0] * len(self.buckets)
        return tuple(
            bucket_usage(bucket, root.used, share, root.held - root.used)
            for bucket, root, share in zip(self.buckets, self.roots, shares, strict=True)
        )

    async def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:  # noqa: ARG002 - each is new
        """Burns what is free, of several grants if need be."""
        self.consumed += 1
        if self.away:
            return QuotaUsage(unavailable=True)
        shares = burn(self.free, ask.quantity)
        for root, share in zip(self.roots, shares or (), strict=bool(shares)):
            direct = root.accounts[DIRECT]
            root.accounts[DIRECT] = msgspec.structs.replace(
                direct, granted=direct.granted + share, used=direct.used + share
            )
        return QuotaUsage(
            self.usage(shares), shares is not None, as_of=self.clock.now(), lease_id="admission"
        )

    async def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> tuple[bool, list[QuotaUsage]]:
        """One after the other."""
        answers = [await self.consume(tenant_id, ask, request_id) for ask, request_id in asks]
        return all(answer.admitted for answer in answers), answers

    def _root(self, bucket: Bucket) -> MemoryRoot:
        root = MemoryRoot(bucket.amount or 0, self.clock.monotonic)
        root.name = bucket.key
        root.accounts[DIRECT] = Account(expires_at=float("inf"))
        return root


class CreditSidecar:
    """One lease book of credits, and a caller."""

    def __init__(self, *amounts: int) -> None:
        self.clock = FakeClock()
        buckets = [
            grant_of(f"grant{number}", amount, self.clock.now(), 10 * number)
            for number, amount in enumerate(amounts, 1)
        ]
        self.root = CreditRoot(self.clock, buckets)
        self.resolution = Resolution(None, buckets=self.root.buckets)
        self.journal = MemoryJournal("one")
        self.book = LeaseBook(self.root, Means(self.root, None, self.journal, self.clock))
        self._requests = 0

    async def consume(self, quantity: int = 1, *, keep: bool = True) -> QuotaUsage:
        """One consumption, kept if it is admitted."""
        self._requests += 1
        ask = QuotaAsk(TOKENS, quantity, self.resolution)
        outcome = self.book.consume(TENANT, ask, f"request {self._requests}")
        usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
        if usage.admitted and keep:
            self.journal.use(usage.lease_id, quantity)
            self.book.kept(usage.lease_id, quantity)
        return usage
