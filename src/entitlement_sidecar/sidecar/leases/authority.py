"""Who says how much is left. One port; the root authority row, and the in-memory twin, stand behind it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from entitlement_sidecar.domain.evaluate import QuotaAsk, QuotaUsage


class QuotaAuthority(Protocol):
    """Admits usage inside every limit of a feature, all or nothing."""

    def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage | Awaitable[QuotaUsage]:
        """Admits `ask.quantity`, or only looks when it is 0.

        Synchronous when the answer is in memory, awaitable when it has to be fetched: may block for the
        adapter's own timeout. Safe to repeat with the same request id (which may be empty when only
        looking).

        Returns:
            The outcome; `unavailable` when no authority could be asked.

        Raises:
            IdempotencyConflictError: The request id came before with another feature or quantity.
            TenantUnknownError: On the plan store's own word.
        """
        ...
