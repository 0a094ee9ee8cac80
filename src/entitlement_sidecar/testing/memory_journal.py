"""The journal's twin: in memory, for tests. `MemoryOutbox` tells it what was used."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.sidecar.leases.journal import LeaseAccount


class MemoryJournal:
    """Implements `LeaseJournal`. `accounts` are all that are open, by lease."""

    def __init__(self, instance: str = "memory", epoch: int = 1) -> None:
        self.accounts: dict[str, LeaseAccount] = {}
        self._instance, self._epoch = instance, epoch
        self._former: frozenset[str] = frozenset()

    @property
    def holder(self) -> str:
        """Who this start is to those who grant."""
        return f"{self._instance}:{self._epoch}"

    async def open(self, account: LeaseAccount, durability: Durability = Durability.DURABLE) -> None:
        """Keeps an account. The same one again changes nothing."""
        del durability  # memory is as durable as it gets here
        self.accounts.setdefault(account.lease_id, msgspec.structs.replace(account, used=0, proved=True))

    async def close(self, lease_ids: Sequence[str]) -> None:
        """Forgets accounts."""
        for lease_id in lease_ids:
            self.accounts.pop(lease_id, None)

    async def former(self) -> Sequence[LeaseAccount]:
        """Accounts of earlier starts that were not closed."""
        return [account for lease_id, account in self.accounts.items() if lease_id in self._former]

    def use(self, lease_id: str, quantity: int) -> None:
        """An event that names a lease was kept. Only of accounts of this start it counts."""
        account = self.accounts.get(lease_id)
        if account is not None and lease_id not in self._former:
            self.accounts[lease_id] = msgspec.structs.replace(account, used=account.used + quantity)

    def restarted(self, *, proved: bool = True) -> MemoryJournal:
        """The journal as the next start finds it; not `proved`: as after the machine was lost."""
        after = MemoryJournal(self._instance, self._epoch + 1)
        after.accounts = {
            lease_id: msgspec.structs.replace(account, proved=account.proved and proved)
            for lease_id, account in self.accounts.items()
        }
        after._former = frozenset(after.accounts)
        return after
