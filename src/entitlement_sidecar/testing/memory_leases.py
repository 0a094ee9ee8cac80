"""Grantors of leases in memory, for several holders: the twins of the root and of a block in Redis."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from entitlement_sidecar.domain import lease
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.lease import TTL, Account, Outcome, Told
from entitlement_sidecar.domain.quota import LimitUsage
from entitlement_sidecar.sidecar.leases.grantor import Heard, Opening, Request

SHARE = 2
"""One holder is granted at most one part in so many of what is free, and needs."""


class MemoryLeases:
    """Grants leases of one feature. `granted` is what it may grant of in all; that may grow and shrink."""

    source = "memory"

    def __init__(self, granted: int, clock: Callable[[], float], name: str = "") -> None:
        self.granted = granted
        self.name = name
        self.accounts: dict[str, Account] = {}
        self.ends_at: datetime | None = None
        self.usage: tuple[LimitUsage, ...] = ()
        # Calls since the beginning, and what happens to the next ones: refused, or heard and not answered.
        self.calls = 0
        self.away = False
        self.deaf = False
        self.gone = False
        self._clock = clock

    @property
    def held(self) -> int:
        """What nobody else may have."""
        return sum(account.held for account in self.accounts.values())

    @property
    def used(self) -> int:
        """What it was told as used."""
        return sum(account.used for account in self.accounts.values())

    @property
    def free(self) -> int:
        """What may be granted still."""
        return max(0, self.granted - self.held)

    async def ask(self, opening: Opening, lease_id: str, request: Request) -> Heard:
        """Grants a fair share, or what is needed."""
        self._hear()
        name = lease_id or self._name(opening)
        account = self.accounts.get(name)
        if self.gone or not name.startswith(self._prefix):
            return Heard(gone=True)
        if account is None and (lease_id or not self.free):
            return Heard(usage=self.usage)
        open_holders = sum(not one.closed for one in self.accounts.values()) + (account is None)
        share = max(1, self.free // (SHARE * max(1, open_holders)), request.needs)
        wants = min(request.wants, share)
        account = account or Account()
        outcome = lease.grant(account, request.told, wants, self.free, self._clock() + TTL)
        self._keep(name, outcome)
        self._answer()
        return Heard(name, outcome.terms, self.ends_at, self.usage)

    async def end(self, opening: Opening, lease_id: str, used: int) -> bool:  # noqa: ARG002 - the port's
        """Takes back what was not used."""
        self._hear()
        if self.gone or not lease_id.startswith(self._prefix):
            return False
        if lease_id in self.accounts:
            self._keep(lease_id, lease.end(self.accounts[lease_id], used))
        self._answer()
        return True

    def shrink(self, wanted: int) -> int:
        """Gives up to so much of what is free back to who delegated it; says how much."""
        back = min(wanted, self.free)
        self.granted -= back
        return back

    def forget(self) -> None:
        """Loses everything, as a server that is flushed."""
        self.lay("", 0)
        self.gone = True

    def lay(self, name: str, granted: int) -> None:
        """Begins anew, as another one."""
        self.name, self.granted, self.accounts, self.gone = name, granted, {}, False

    def lose(self) -> None:
        """Closes the accounts whose time is over, as a limit that forfeits does."""
        for name, account in self.accounts.items():
            self.accounts[name] = lease.lose(account, self._clock(), lease.OnHolderLoss.FORFEIT).account

    def _name(self, opening: Opening) -> str:
        return f"{self._prefix}{opening.holder}#{opening.name}"

    @property
    def _prefix(self) -> str:
        return f"{self.name}/" if self.name else ""

    def _keep(self, name: str, outcome: Outcome) -> None:
        self.accounts[name] = outcome.account

    def _hear(self) -> None:
        self.calls += 1
        if self.away:
            raise SourceUnavailableError("away")

    def _answer(self) -> None:
        if self.deaf:
            raise SourceUnavailableError("the answer is lost")


class MemoryRoot(MemoryLeases):
    """A root that also hears the holders of lost blocks, each of which it was the grantor of."""

    source = "root"

    def __init__(self, granted: int, clock: Callable[[], float]) -> None:
        super().__init__(granted, clock)
        self.orphans: dict[str, Account] = {}

    async def adopt(self, lease_id: str, told: Told) -> bool:
        """Takes over what a holder of a lost block says."""
        self._hear()
        block = lease_id.partition("/")[0]
        account = self.accounts[block]
        if not account.closed:
            return False
        others = sum(
            one.used
            for name, one in self.orphans.items()
            if name != lease_id and name.startswith(f"{block}/")
        )
        orphan = self.orphans.get(lease_id, Account())
        outcome, self.orphans[lease_id] = lease.adopt(account, orphan, told, others)
        self._keep(block, outcome)
        self._answer()
        return True
