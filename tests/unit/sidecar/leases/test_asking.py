"""What a lease book asks its grantors for, and what it writes down before it uses anything of it."""

from __future__ import annotations

import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.sidecar.leases.asking import Means
from entitlement_sidecar.sidecar.leases.book import LeaseBook
from entitlement_sidecar.sidecar.leases.journal import LeaseAccount
from entitlement_sidecar.testing.memory_journal import MemoryJournal
from support.leased_books import CALLS, TENANT, Site, ask_for


class _Journal(MemoryJournal):
    """Remembers how it was asked to keep what."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Durability] = []

    async def open(self, account: LeaseAccount, durability: Durability = Durability.DURABLE) -> None:
        """Keeps it."""
        await super().open(account, durability)
        self.kept.append(durability)


@pytest.mark.parametrize("durability", Durability)
async def test_a_lease_is_journalled_as_its_usage_is_kept(durability: Durability) -> None:
    """Given how a feature's usage is kept, then the journal is asked to keep its leases in the same way."""
    site, journal = Site(100), _Journal()
    of = {CALLS.key: durability}
    means = Means(site.root, None, journal, site.clock, lambda feature: of[feature.key])

    outcome = LeaseBook(site, means).consume(TENANT, ask_for(1), "first")
    usage = outcome if isinstance(outcome, QuotaUsage) else await outcome

    assert usage.admitted
    assert journal.kept == [durability]
