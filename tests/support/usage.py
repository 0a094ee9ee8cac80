"""Usage events and outcomes in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from entitlement_sidecar.domain.catalogue import Classification
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.outbox import Batch, Consumption, Outbox, OutboxRecord

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


def event(
    id_: str, *, tenant_id: str = "acme", value: int = 1, actor_id: str = "", lease_id: str = ""
) -> UsageEvent:
    """A billable event of metric `exports`."""
    return UsageEvent(
        id=id_,
        tenant_id=tenant_id,
        metric="exports",
        value=value,
        unit="export",
        occurred_at=NOW,
        recorded_at=NOW,
        actor_id=actor_id,
        correlation_id=f"work-{id_}",
        classification=Classification.BILLABLE,
        lease_id=lease_id,
    )


def record(id_: str, *, value: int = 1, answer: bytes = b"") -> OutboxRecord:
    """An event to keep; with an answer it is a CONSUME."""
    return OutboxRecord(event(id_, value=value), Consumption(value, answer) if answer else None)


def records(*ids: str) -> list[OutboxRecord]:
    """Events to keep."""
    return [record(id_) for id_ in ids]


async def next_batch(outbox: Outbox, max_events: int, max_bytes: int) -> Batch | None:
    """The first batch of the oldest window, if there is one."""
    return next(iter(await outbox.next_batches(max_events, max_bytes)), None)


def ids(batch: Batch | None) -> list[str]:
    """Ids of a batch, in order; none of no batch."""
    return [] if batch is None else [one.event.id for one in batch.events]


def outcomes(results: Sequence[UsageResult]) -> list[str]:
    """Names of the outcomes."""
    return [result.outcome.name for result in results]


def settled(batch: Batch, outcome: UsageOutcome = UsageOutcome.ACCEPTED) -> list[UsageResult]:
    """One outcome for all events of a batch."""
    return [UsageResult(one.event.id, outcome, "because") for one in batch.events]
