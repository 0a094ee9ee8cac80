"""Usage that comes over REST: who may say what, and what each event has to be before the ledger sees it.

An emitter speaks for itself: the name of its token is the emitter of what it sends. What only a sidecar can
know (that quota was admitted, that an event corrects another, when it was recorded before it came here) is
taken from tokens that may consume quota.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.planstore.usage.arrival import EARLIEST, LATEST, LONGEST, Arrival
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.wire.fields import (
    KEY_FORM,
    MAX_REQUEST_ID,
    TENANT_FORM,
    dimension_problems,
    expected,
    is_key,
    is_tenant,
    is_text,
)

AHEAD = timedelta(minutes=5)
"""How far a recording may lie ahead of the plan store's clock."""

_OF_SIDECARS = ("feature", "lease_id", "corrects", "consumption_id")
"""What only a sidecar can know."""


class Sender(msgspec.Struct, frozen=True):
    """Who sends usage.

    Attributes:
        emitter: What it emits as, whatever it says; empty: as it says.
        keeps_leases: It may say that quota was admitted, when usage was recorded, and correct.
    """

    emitter: str = ""
    keeps_leases: bool = False


def import_usage(
    session: Session, ledger: Ledger, events: Sequence[UsageEvent], sender: Sender, now: datetime
) -> list[UsageResult]:
    """Stores what is new, in the caller's transaction; one outcome per event, in order.

    Raises:
        SourceUnavailableError: No catalogue was applied yet, so that nothing can be judged.
    """
    read = [_read(event, sender, now) for event in events]
    arrivals = [one for one in read if isinstance(one, Arrival)]
    stored = iter(ledger.append(session, arrivals, now) if arrivals else ())
    return [one if isinstance(one, UsageResult) else next(stored) for one in read]


def _read(event: UsageEvent, sender: Sender, now: datetime) -> Arrival | UsageResult:
    if not sender.keeps_leases:
        # Lateness counts until then: who says it for himself could send usage of any age.
        event = msgspec.structs.replace(event, recorded_at=now)
    rule, problem = next(_problems(event, sender, now), (RuleName.MALFORMED, ""))
    if problem:
        return UsageResult(event.id, UsageOutcome.INVALID, problem, rule=rule)
    return Arrival(
        msgspec.structs.replace(
            event,
            emitter=event.emitter or sender.emitter,
            # A report of what was consumed before adds attributes to it and counts nothing.
            value=0 if event.consumption_id else event.value,
        )
    )


def _problems(event: UsageEvent, sender: Sender, now: datetime) -> Iterator[tuple[RuleName, str]]:
    if sender.emitter and event.emitter not in {"", sender.emitter}:
        what = f"emitter: this token is of {sender.emitter!r}, and may not speak for {event.emitter!r}"
        yield RuleName.EMITTER, what
    kept = [field for field in _OF_SIDECARS if getattr(event, field)]
    kept += ["count"] if event.count != 1 else []
    if kept and not sender.keeps_leases:
        yield RuleName.EMITTER, f"{kept[0]}: may be said by a sidecar or a billing administrator alone"
    for problem in _malformed(event, now):
        yield RuleName.MALFORMED, problem


def _malformed(event: UsageEvent, now: datetime) -> Iterator[str]:
    """What is wrong with an event: the field, and what would be right."""
    yield from _misnamed(event)
    if not 0 <= event.value <= MAX_QUANTITY:
        yield f"value: {expected(f'0 to {MAX_QUANTITY}', event.value)}"
    if not EARLIEST <= event.occurred_at < LATEST:
        yield f"occurred_at: expected an instant from {EARLIEST:%Y} to {LATEST:%Y}"
    if not EARLIEST <= event.recorded_at <= now + AHEAD:
        yield f"recorded_at: expected an instant from {EARLIEST:%Y} to now"
    yield from (f"{field}: {problem}" for field, problem in dimension_problems(event.dimensions))


def _misnamed(event: UsageEvent) -> Iterator[str]:
    if not (event.id and is_text(event.id, MAX_REQUEST_ID)):
        yield f"id: expected 1 to {MAX_REQUEST_ID} printable characters"
    if not is_tenant(event.tenant_id):
        yield f"tenant_id: {expected(TENANT_FORM, event.tenant_id)}"
    if not (is_key(event.metric) or (event.corrects and not event.metric)):
        yield f"metric: {expected(KEY_FORM, event.metric)}"
    for field, longest in LONGEST:
        text = getattr(event, field)
        if not is_text(text, longest):
            yield f"{field}: expected at most {longest} printable characters"
