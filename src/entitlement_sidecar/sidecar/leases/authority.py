"""Who says how much is left. One port; the root authority row and the local twin stand behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Protocol

from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage


class Grip(Protocol):
    """A hold on one tenant's feature: admits from memory, as `QuotaAuthority.consume` would, and says less.

    `left` and `pending` are `held` and `pending` of a `QuotaUsage`.
    """

    @property
    def view(self) -> Sequence[LimitUsage]:
        """Usage without what is pending; another object once anything else is seen, or at another instant."""
        ...

    @property
    def left(self) -> int:
        """Tokens left."""
        ...

    @property
    def pending(self) -> int:
        """Tokens taken that the view does not count."""
        ...

    def take(self, quantity: int, wall: datetime) -> str:
        """Takes all or nothing. The name of the admission, as `QuotaUsage.lease_id`; empty: nothing."""
        ...


class QuotaAuthority(Protocol):
    """Admits usage inside every limit of a feature, all or nothing.

    Its methods are synchronous when the answer is in memory and awaitable when it has to be fetched; then
    they may block for the adapter's own timeout. Where no authority can be asked, the answer says
    `unavailable`; it is no error.
    """

    def view(
        self, tenant_id: str, ask: QuotaAsk, max_age: float | None
    ) -> QuotaUsage | Awaitable[QuotaUsage]:
        """Usage of every limit, at most about `max_age` seconds old (None: the implementation's choice).

        Raises:
            TenantUnknownError: On the plan store's own word.
        """
        ...

    def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage | Awaitable[QuotaUsage]:
        """Admits `ask.quantity` or nothing. Safe to repeat with the same request id.

        Raises:
            IdempotencyConflictError: The request id came before with another feature or quantity.
            TenantUnknownError: On the plan store's own word.
        """
        ...

    def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> tuple[bool, list[QuotaUsage]] | Awaitable[tuple[bool, list[QuotaUsage]]]:
        """Admits every ask, each with its request id, or none of them.

        Where not all were admitted, `admitted` of an answer says whether it would have been, after those
        before it.

        Raises:
            IdempotencyConflictError: A request id came before with another feature or quantity.
            TenantUnknownError: On the plan store's own word.
        """
        ...

    def grip(self, tenant_id: str, feature: str) -> Grip | None:
        """A hold on what was consumed last; None where each consumption has to be asked for."""
        ...

    def kept(self, lease_id: str, quantity: int) -> None:
        """What was admitted under this name is committed to the outbox. Cheap; other names are no error."""
        ...

    def void(self, tenant_id: str, lease_id: str, quantity: int) -> None:
        """What was admitted under this name could not be kept, and nobody was told yes. Cheap."""
        ...


class NothingLeased:
    """The part of the port that says nothing to an authority which leases nothing."""

    def grip(self, tenant_id: str, feature: str) -> Grip | None:  # noqa: ARG002 - nothing is held
        """Each consumption is asked for."""
        return None

    def kept(self, lease_id: str, quantity: int) -> None:
        """Nothing hangs on it."""

    def void(self, tenant_id: str, lease_id: str, quantity: int) -> None:
        """What was admitted stays admitted."""
