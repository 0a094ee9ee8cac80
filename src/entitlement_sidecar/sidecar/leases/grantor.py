"""Who grants leases: a block in Redis, or the root. One port; `testing.memory_leases` is the twin of both."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import msgspec

from entitlement_sidecar.domain.lease import Terms, Told
from entitlement_sidecar.domain.quota import LimitUsage


class Opening(msgspec.Struct, frozen=True):
    """What a lease is of: a feature, in its window that ends first (None: never).

    `holder` is `instance:epoch` of the sidecar's start, `name` its own name for the lease, never used twice:
    the same one again is the same lease.
    """

    tenant_id: str
    feature: str
    ends_at: datetime | None
    holder: str
    name: str


class Request(msgspec.Struct, frozen=True):
    """What a holder says of itself, and how much more it would have.

    `needs` is the part of `wants` that is granted beyond a fair share too.
    """

    told: Told
    wants: int
    needs: int = 0


class Heard(msgspec.Struct, frozen=True):
    """What a grantor answered.

    `lease_id` names the lease to everybody else, '' where there is none: nothing was granted. `gone`: the
    grantor is not the one any more that granted it; from now on the root is told of it (`Root.adopt`).
    `usage` is a view of the limits, where one came along. `credit_grant`: of credits, the key of the bucket
    that all of it is of.
    """

    lease_id: str = ""
    terms: Terms | None = None
    ends_at: datetime | None = None
    usage: tuple[LimitUsage, ...] = ()
    gone: bool = False
    credit_grant: str = ""


class Grantor(Protocol):
    """Grants leases. Both methods may be repeated, and may wait for the adapter's own timeout.

    They raise SourceUnavailableError when it is not known whether it heard.
    """

    source: str
    """What metrics call it."""

    async def ask(self, opening: Opening, lease_id: str, request: Request) -> Heard:
        """Takes over what the holder says and grants more; opens the lease where `lease_id` is ''."""
        ...

    async def end(self, opening: Opening, lease_id: str, used: int) -> bool:
        """Closes a lease: all of it that was not used comes back. False: `gone`, as in `Heard`."""
        ...


class Root(Grantor, Protocol):
    """The root also hears the holders of blocks that are lost."""

    async def adopt(self, lease_id: str, told: Told) -> bool:
        """Takes over what a holder of a lost block says. False: the root does not know yet that it is lost.

        Raises:
            SourceUnavailableError: It is not known whether it heard.
        """
        ...
