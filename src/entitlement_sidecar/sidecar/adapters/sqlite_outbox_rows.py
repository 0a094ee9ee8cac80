"""Events as the outbox's file holds them, and how calls are judged against what is held."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence

import msgspec

from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.usage.outbox import Consumption, not_kept

Held = dict[tuple[str, str], bytes]
"""Digests by tenant and event id."""


class Kept(msgspec.Struct, frozen=True):
    """An event as the file holds it. `recorded_at` is in microseconds since 1970."""

    tenant_id: str
    event_id: str
    digest: bytes
    recorded_at: int
    payload: bytes
    consumption: Consumption | None = None


class Call(msgspec.Struct, frozen=True):
    """Events of one call; `atomic`: one conflict keeps nothing of it."""

    rows: Sequence[Kept]
    atomic: bool = False


def judge(call: Call, held: Held) -> tuple[list[UsageResult], list[Kept]]:
    """Outcomes of a call, and what it adds to what is held."""
    seen = ChainMap[tuple[str, str], bytes]({}, held)
    results, fresh = [], []
    for row in call.rows:
        digest = seen.setdefault((row.tenant_id, row.event_id), row.digest)
        if digest is row.digest:
            fresh.append(row)
        results.append(_outcome(row, digest))
    if call.atomic and any(result.outcome is UsageOutcome.CONFLICT for result in results):
        return [not_kept(r.id) if r.outcome is UsageOutcome.ACCEPTED else r for r in results], []
    return results, fresh


def _outcome(row: Kept, held: bytes) -> UsageResult:
    if held is row.digest:
        return UsageResult(row.event_id, UsageOutcome.ACCEPTED)
    if held == row.digest:
        return UsageResult(row.event_id, UsageOutcome.DUPLICATE, "already held; counted once")
    reason = "the same id is held with other content; give other usage another id"
    return UsageResult(row.event_id, UsageOutcome.CONFLICT, reason)
