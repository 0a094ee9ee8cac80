"""Reservations live at the plan store; a settlement is kept here while it is away.

reserve   asks the plan store; while it is away nothing can be held, and the caller is told to try again
settle    the plan store stores the event; while it is away the outbox keeps it, and it settles the
          reservation when it arrives, whoever made that and whenever this sidecar was restarted
release   asks the plan store; a reservation that nobody releases is given back in time
"""

from __future__ import annotations

from typing import Protocol

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import RetryableError, UnsupportedError
from entitlement_sidecar.domain.reservation import Reserved, Reserving, Settled, Settlement
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.sidecar.usage.corrections import Correction, Corrections
from entitlement_sidecar.sidecar.usage.outbox import Consumption, Outbox, OutboxRecord
from entitlement_sidecar.telemetry import metrics

RELEASED = "released"
"""Request id of what undoes a CONSUME: there is one, ever."""


class ReservationRoot(Protocol):
    """Where reservations live. May block for its own timeouts; every call is safe to repeat.

    All raise RetryableError where it cannot be asked.
    """

    async def reserve(self, asked: Reserving) -> Reserved:
        """Holds an amount, or says why not.

        Raises:
            InvalidInputError: Of this feature nothing can be held.
            IdempotencyConflictError: The reservation's id came before with other content.
        """
        ...

    async def settle(self, settlement: Settlement) -> Settled:
        """Stores what was used.

        Raises:
            NotFoundError: There is no such reservation.
            IdempotencyConflictError: It was settled with other content.
        """
        ...

    async def release(self, tenant_id: str, reservation_id: str) -> int:
        """Gives back what is held; how much that was.

        Raises:
            NotFoundError: There is no such reservation.
            ConflictError: It was settled.
        """
        ...


class Reservations:
    """What a sidecar does with reservations.

    Args:
        root: Where they live.
        outbox: Keeps settlements while the root is away.
        corrections: Voids consumptions; None: there is no plan store that could give anything back.
        clock: The wall clock.
        instance: This sidecar's instance.
    """

    def __init__(
        self,
        root: ReservationRoot,
        outbox: Outbox,
        corrections: Corrections | None,
        clock: Clock,
        instance: str,
    ) -> None:
        self._root = root
        self._outbox = outbox
        self._corrections = corrections
        self._clock = clock
        self._instance = instance

    async def reserve(self, asked: Reserving) -> Reserved:
        """Holds an amount, or says why not; raises as `ReservationRoot.reserve`."""
        return await self._root.reserve(asked)

    async def settle(self, settlement: Settlement) -> Settled:
        """Stores what was used, or keeps it until the plan store is there; the event is safe when this ends.

        Raises:
            NotFoundError: There is no such reservation.
            IdempotencyConflictError: It was settled with other content.
            OutboxFullError: The plan store is away, and the event could not be kept.
        """
        kept = await self._outbox.consumption(settlement.tenant_id, settlement.event_id)
        if kept is not None:
            # Kept while the plan store was away: what it will say of another amount is known here already.
            return await self._keep(settlement)
        try:
            settled = await self._root.settle(settlement)
        except RetryableError:
            return await self._keep(settlement)
        metrics.usage_reported.labels(settled.result.outcome.name).inc()
        return settled

    async def release(self, tenant_id: str, reservation_id: str) -> int:
        """Gives back what is held; raises as `ReservationRoot.release`."""
        return await self._root.release(tenant_id, reservation_id)

    async def release_consumption(self, tenant_id: str, consumption_id: str) -> int:
        """Voids an allowed CONSUME; what comes back when that arrives, 0 where it is not known here any more.

        Raises:
            OutboxFullError: It could not be kept.
            UnsupportedError: This sidecar has no plan store.
        """
        if self._corrections is None:
            raise _no_plan_store()
        first = await self._outbox.consumption(tenant_id, consumption_id)
        await self._corrections.correct(
            Correction(
                tenant_id=tenant_id,
                original_id=consumption_id,
                reason="released by its caller",
                request_id=RELEASED,
                releases=True,
            )
        )
        return 0 if first is None else first.quantity

    async def _keep(self, settlement: Settlement) -> Settled:
        event = settlement.event(self._clock.now(), self._instance)
        record = OutboxRecord(event, Consumption(settlement.quantity, b""))
        (result,) = await self._outbox.append([record], Durability.DURABLE)
        if result.outcome is UsageOutcome.CONFLICT:
            raise settlement.conflict()
        metrics.usage_reported.labels(result.outcome.name).inc()
        return Settled(result, pending=True)


class NoReservations:
    """Stands where no plan store is configured."""

    async def reserve(self, asked: Reserving) -> Reserved:  # noqa: ARG002 - of every root
        """Nothing can be held."""
        raise _no_plan_store()

    async def settle(self, settlement: Settlement) -> Settled:  # noqa: ARG002 - of every root
        """Nothing was ever held."""
        raise _no_plan_store()

    async def release(self, tenant_id: str, reservation_id: str) -> int:  # noqa: ARG002 - of every root
        """Nothing was ever held."""
        raise _no_plan_store()


def _no_plan_store() -> UnsupportedError:
    return UnsupportedError(
        "what is used is given back by a plan store, and this sidecar has none: start it with --planstore"
    )
