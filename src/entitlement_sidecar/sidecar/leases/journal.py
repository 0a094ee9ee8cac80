"""The port of the journal: what a sidecar used of its leases, so that its next start can settle for it.

    open ──▶ account ──events that name it are kept──▶ used grows, in the same commit ──close──▶ (forgotten)
                └─ the process ends ─▶ former, at the next start ──settled for──▶ close

An account is kept before the first token of it is used. What the journal says was used is then never less
than what was really used and answered, wherever it says that this is `proved`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from entitlement_sidecar.domain.catalogue import Durability


class LeaseAccount(msgspec.Struct, frozen=True):
    """A lease as its holder has to know it to settle for it.

    `holder` is who it was granted to, as `instance:epoch`; `ends_at` when its window ends (None: never);
    `block` the id of the block in Redis that granted it, '' where the root did. `used` is in tokens, in
    total. Where it is not `proved`, more may have been used: nothing of it may be given back.
    """

    lease_id: str
    tenant_id: str
    feature: str
    holder: str
    ends_at: datetime | None = None
    block: str = ""
    used: int = 0
    proved: bool = True


class LeaseJournal(Protocol):
    """Keeps accounts across starts. All methods may wait for the disk."""

    @property
    def holder(self) -> str:
        """Who this start is to those who grant: `instance:epoch`. No other start ever has the same name."""
        ...

    async def open(self, account: LeaseAccount, durability: Durability = Durability.DURABLE) -> None:
        """Keeps an account; nothing of it may be used before. The same one again changes nothing.

        Args:
            account: The account; of `used` and `proved` nothing is taken over.
            durability: That of the metric whose events will name it. Others may name it all the same.

        Raises:
            OutboxFullError: It could not be kept.
            SourceUnavailableError: It could not be kept now.
            DrainingError: The journal is closed.
        """
        ...

    async def close(self, lease_ids: Sequence[str]) -> None:
        """Forgets accounts, once who granted them has confirmed that they are settled.

        Raises:
            OutboxFullError: It could not be written.
            SourceUnavailableError: It could not be written now.
            DrainingError: The journal is closed.
        """
        ...

    async def former(self) -> Sequence[LeaseAccount]:
        """Accounts of earlier starts that were not closed, with what they used.

        Raises:
            SourceUnavailableError: They cannot be read now.
            DrainingError: The journal is closed.
        """
        ...
