"""A grantor in memory: the twin of the root's accounts and of the block in Redis."""

from __future__ import annotations

from collections.abc import Callable

from entitlement_sidecar.domain import lease
from entitlement_sidecar.domain.lease import Account, OnHolderLoss, Outcome, Told
from entitlement_sidecar.domain.quota import is_strict

FIRST = Told(sequence=1, used=0, returned=0)


class MemoryGrantor:
    """Grants up to `size` tokens in all. Times are seconds of the clock that it is given."""

    def __init__(
        self, size: int, clock: Callable[[], float], on_loss: OnHolderLoss = OnHolderLoss.FORFEIT
    ) -> None:
        self.accounts: dict[str, Account] = {}
        self._orphans: dict[str, dict[str, Account]] = {}
        self._size = size
        self._overdrawn = 0
        self._clock = clock
        self._on_loss = on_loss

    @property
    def strict(self) -> bool:
        """So much was lost with its holders that nothing is granted any more."""
        lost = sum(account.outstanding for account in self.accounts.values() if account.closed)
        return is_strict(self._size, lost)

    @property
    def free(self) -> int:
        """What nobody has; below 0 where more was used than granted."""
        return self._size - sum(account.held for account in self.accounts.values()) - self._overdrawn

    def open(self, account_id: str, wants: int) -> Outcome | None:
        """Opens an account; None where nothing is left. The same again changes nothing."""
        if (known := self.accounts.get(account_id)) is not None:
            return lease.absorb(known, FIRST)
        if self.free <= 0 or self.strict:
            return None
        self.accounts[account_id] = Account()
        return self.grant(account_id, FIRST, wants)

    def grant(self, account_id: str, told: Told, wants: int) -> Outcome:
        """Takes over what a holder says and grants up to `wants` more.

        Raises:
            KeyError: There is no such account.
        """
        expires_at = self._clock() + lease.TTL
        account = self.accounts[account_id]
        wants = 0 if self.strict else wants
        return self._keep(account_id, lease.grant(account, told, wants, self.free, expires_at))

    def settle(self, account_id: str, told: Told) -> Outcome:
        """Takes over what a holder says.

        Raises:
            KeyError: There is no such account.
        """
        return self._keep(account_id, lease.absorb(self.accounts[account_id], told))

    def end(self, account_id: str, used: int) -> Outcome:
        """Closes the account of a holder that has finished.

        Raises:
            KeyError: There is no such account.
        """
        return self._keep(account_id, lease.end(self.accounts[account_id], used))

    def adopt(self, block_id: str, holder: str, told: Told) -> Outcome:
        """Takes over what a holder of a lost block says.

        Raises:
            KeyError: There is no such block.
        """
        orphans = self._orphans.setdefault(block_id, {})
        orphan = orphans.get(holder, Account())
        others = sum(one.used for one in orphans.values()) - orphan.used
        outcome, orphans[holder] = lease.adopt(self.accounts[block_id], orphan, told, others)
        return self._keep(block_id, outcome)

    def lose(self, account_id: str, *, known: bool = False) -> Outcome:
        """Closes the account of a lost holder; before its time is over, only where that is `known`.

        Raises:
            KeyError: There is no such account.
        """
        now = float("inf") if known else self._clock()
        return self._keep(account_id, lease.lose(self.accounts[account_id], now, self._on_loss))

    def release(self, account_id: str) -> Outcome:
        """Takes back what a closed account still has.

        Raises:
            KeyError: There is no such account.
        """
        return self._keep(account_id, lease.release(self.accounts[account_id]))

    def account_for(self, account_id: str, used: int) -> Outcome:
        """Takes back what a lost holder did not use by its events.

        Raises:
            KeyError: There is no such account.
        """
        return self._keep(account_id, lease.account_for(self.accounts[account_id], used))

    def read(self, account_id: str) -> Account | None:
        """An account as it is; None where there is none."""
        return self.accounts.get(account_id)

    def _keep(self, account_id: str, outcome: Outcome) -> Outcome:
        self.accounts[account_id] = outcome.account
        self._overdrawn += outcome.overdrawn
        return outcome
