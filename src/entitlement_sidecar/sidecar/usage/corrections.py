"""Corrections: an event is voided or its value amended, by an event of its own.

A correction names its original and nothing else of it: the plan store, which has the original, completes the
rest, and says what became of it. It is kept and shipped as every event is, in order behind what came before.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Durability
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.usage import UsageEvent, UsageResult, correction_event_id
from entitlement_sidecar.sidecar.usage.outbox import Outbox, OutboxRecord
from entitlement_sidecar.telemetry import metrics


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """What an event should have been: `value` in its metric's smallest unit; None: it should not have been.

    `reason` and `actor_id` are for the audit log. `emitter` is the service that corrects. `request_id` makes
    it safe to send again. `releases`: the original is a CONSUME, which is undone; whose usage it is does not
    matter then.
    """

    tenant_id: str
    original_id: str
    reason: str
    request_id: str
    value: int | None = None
    actor_id: str = ""
    emitter: str = ""
    releases: bool = False


class Corrections:
    """Keeps corrections.

    Args:
        outbox: Keeps their events.
        catalogue: The catalogue document in force.
        clock: The wall clock.
        instance: This sidecar's instance.
    """

    def __init__(
        self, outbox: Outbox, catalogue: Callable[[], CatalogueDocument], clock: Clock, instance: str
    ) -> None:
        self._outbox = outbox
        self._catalogue = catalogue
        self._clock = clock
        self._instance = instance

    async def correct(self, correction: Correction) -> UsageResult:
        """Keeps the correcting event, after a sync of the disk; the awaitable ends after the commit.

        ACCEPTED says that it is on its way: whether there is such an original is for the plan store to say.

        Raises:
            OutboxFullError: It could not be kept.
        """
        version = self._catalogue().version
        records = [OutboxRecord(self._event(correction, version))]
        (result,) = await self._outbox.append(records, Durability.DURABLE)
        metrics.usage_reported.labels(result.outcome.name).inc()
        return msgspec.structs.replace(result, registry_version=version)

    def _event(self, correction: Correction, version: int) -> UsageEvent:
        now = self._clock.now()
        return UsageEvent(
            id=correction_event_id(correction.tenant_id, correction.original_id, correction.request_id),
            tenant_id=correction.tenant_id,
            metric="",
            value=correction.value or 0,
            unit="",
            occurred_at=now,
            recorded_at=now,
            actor_id=correction.actor_id,
            emitter=correction.emitter,
            registry_version=version,
            recorded_by=self._instance,
            corrects=correction.original_id,
            voids=correction.value is None,
            reason=correction.reason,
            consumption_id=correction.original_id if correction.releases else "",
        )
