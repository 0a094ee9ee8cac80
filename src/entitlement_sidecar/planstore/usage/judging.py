"""Judges the events of a batch by the registry in force, and by what only the plan store knows (S0.3-S0.9).

That is: whether the window of an event is over or closed, and the original of a correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Metric
from entitlement_sidecar.domain.registry import AfterClose
from entitlement_sidecar.domain.ruling import Registry, RuleName, Ruling
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome
from entitlement_sidecar.planstore.usage.arrival import COUNTING, Arrival, Identity, Judged
from entitlement_sidecar.planstore.usage.originals import Original, completed, originals_of
from entitlement_sidecar.planstore.usage.slots import Slot, is_closed, slots_of


class Judge:
    """Judges one batch, at one instant of the plan store's clock."""

    def __init__(self, session: Session, registry: Registry, now: datetime) -> None:
        self._session = session
        self._registry = registry
        self._metrics = registry.document.metrics
        self._now = now

    def judge(self, arrivals: Sequence[Arrival]) -> list[Judged]:
        """Each arrival as it would count, in order; nothing is stored."""
        plain = [one for one in arrivals if not one.event.corrects]
        rulings = [self._registry.judge(one.event) for one in plain]
        slots = iter(self._slots(plain, rulings))
        judged = [
            self._ruled(one, ruling, next(slots) if ruling.outcome is UsageOutcome.ACCEPTED else None)
            for one, ruling in zip(plain, rulings, strict=True)
        ]
        if len(plain) == len(arrivals):
            return judged
        originals, told = self._originals(arrivals, judged), iter(judged)
        return [self._correction(one, originals) if one.event.corrects else next(told) for one in arrivals]

    def _slots(self, arrivals: Sequence[Arrival], rulings: Sequence[Ruling]) -> list[Slot]:
        events = [
            one.event
            for one, ruling in zip(arrivals, rulings, strict=True)
            if ruling.outcome is UsageOutcome.ACCEPTED
        ]
        return slots_of(self._session, events, self._metrics, self._now) if events else []

    def _ruled(self, arrival: Arrival, ruling: Ruling, slot: Slot | None) -> Judged:
        version, event = self._registry.version, arrival.event
        metric = self._metrics.get(event.metric)
        counted = msgspec.structs.replace(
            event,
            unit=event.unit if metric is None else metric.unit,
            classification=ruling.classification,
            rule=ruling.rule,
            registry_version=version,
        )
        judged = arrival.having(counted)
        if slot is not None and slot.window_end is not None and metric is not None:
            ruling = self._timed(event, metric, ruling, slot.window_end)
        return Judged(judged, ruling, arrival.digest or event.digest(), version, slot)

    def _timed(self, event: UsageEvent, metric: Metric, ruling: Ruling, window_end: datetime) -> Ruling:
        """Whether its window was over when it was recorded, or is closed by now."""
        if window_end > self._now and window_end > event.recorded_at:
            return ruling
        refused = self._closed(metric, window_end)
        if refused is not None:
            return refused
        return _late(ruling, window_end) if window_end <= event.recorded_at else ruling

    def _closed(self, metric: Metric, window_end: datetime | None) -> Ruling | None:
        if metric.after_close is AfterClose.ADJUST or not is_closed(metric, window_end, self._now):
            return None
        reason = f"occurred_at: the window of {metric.key!r} that ended at {_instant(window_end)} is closed"
        return Ruling(UsageOutcome.LATE_REFUSED, rule=RuleName.CLOSED, reason=reason)

    def _originals(
        self, arrivals: Sequence[Arrival], judged: Sequence[Judged]
    ) -> Mapping[Identity, Original]:
        """Those that are stored, and those that came with their corrections."""
        together = {
            one.identity: Original(one.event, one.slot)
            for one in reversed(judged)
            if one.slot is not None and one.ruling.outcome in COUNTING
        }
        corrected = {(one.event.tenant_id, one.event.corrects) for one in arrivals if one.event.corrects}
        return together | originals_of(self._session, corrected)

    def _correction(self, arrival: Arrival, originals: Mapping[Identity, Original]) -> Judged:
        event, version = arrival.event, self._registry.version
        original = originals.get((event.tenant_id, event.corrects))
        ruling = self._of_original(arrival, original)
        if original is None or ruling.outcome is not UsageOutcome.ACCEPTED:
            return Judged(arrival, ruling, event.digest(), version)
        whole = arrival.having(completed(event, original.event))
        return Judged(whole, ruling, event.digest(), version, original.slot)

    def _of_original(self, arrival: Arrival, original: Original | None) -> Ruling:
        event = arrival.event
        if original is None:
            reason = (
                f"corrects: no event of this tenant has the id {event.corrects!r} here yet; "
                "the correction is kept for operators and does not count"
            )
            return Ruling(UsageOutcome.QUARANTINED, rule=RuleName.ORIGINAL, reason=reason)
        if original.event.corrects:
            reason = f"corrects: {event.corrects!r} is a correction itself; name the event that it corrects"
            return Ruling(UsageOutcome.INVALID, rule=RuleName.ORIGINAL, reason=reason)
        if event.consumption_id and not original.event.feature:
            reason = f"corrects: {event.corrects!r} is no CONSUME; correct it instead of releasing it"
            return Ruling(UsageOutcome.INVALID, rule=RuleName.ORIGINAL, reason=reason)
        metric = self._metrics.get(original.event.metric)
        refused = None if metric is None else self._closed(metric, original.slot.window_end)
        if refused is None and arrival.instance and not event.consumption_id:
            return self._registry.judge_correction(event.emitter, original.event)
        # Without a sidecar it is an operator's, who may; a CONSUME is released by the sidecar's own word.
        return refused or Ruling(UsageOutcome.ACCEPTED, original.event.classification)


def _late(ruling: Ruling, window_end: datetime) -> Ruling:
    reason = f"recorded after its window had ended at {_instant(window_end)}"
    if ruling.reason:
        reason = f"{ruling.reason}; {reason}"
    return Ruling(UsageOutcome.LATE_ACCEPTED, ruling.classification, RuleName.LATE, reason)


def _instant(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant:%Y-%m-%dT%H:%M:%SZ}"
