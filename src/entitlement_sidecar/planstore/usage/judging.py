"""Judges the events of a batch by the registry in force, and by what only the plan store knows (S0.3-S0.9).

That is: whether the window of an event is over or closed, and the original of a correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Metric
from entitlement_sidecar.domain.registry import AfterClose
from entitlement_sidecar.domain.ruling import Registry, RuleName, Ruling
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome
from entitlement_sidecar.planstore.usage.arrival import COUNTING, Arrival, Identity, Judged
from entitlement_sidecar.planstore.usage.originals import completed, originals_of
from entitlement_sidecar.planstore.usage.windows import UsageWindows

_HELD = (
    "{reason}: no event of this tenant has this id here yet; the correction is kept for operators and does "
    "not count"
)


class Judge:
    """Judges one batch, at one instant of the plan store's clock."""

    def __init__(self, session: Session, registry: Registry, now: datetime) -> None:
        self._session = session
        self._registry = registry
        self._now = now
        self._windows = UsageWindows(session)

    def judge(self, arrivals: Sequence[Arrival]) -> list[Judged]:
        """Each arrival as it would count, in order; nothing is stored."""
        judged = [self._judged(one) for one in arrivals if not one.event.corrects]
        if len(judged) == len(arrivals):
            return judged
        plain = iter(judged)
        originals = self._originals(arrivals, judged)
        return [self._correction(one, originals) if one.event.corrects else next(plain) for one in arrivals]

    def _judged(self, arrival: Arrival) -> Judged:
        event = arrival.event
        ruling = self._registry.judge(event)
        metric = self._registry.document.metrics.get(event.metric)
        if metric is None:
            return Judged(arrival, ruling, event.digest(), self._registry.version)
        return self._ruled(arrival, ruling, self._timed(event, metric, ruling), metric.unit)

    def _ruled(self, arrival: Arrival, decided: Ruling, told: Ruling, unit: str) -> Judged:
        version, event = self._registry.version, arrival.event
        counted = msgspec.structs.replace(
            event,
            unit=unit,
            classification=decided.classification,
            rule=decided.rule,
            registry_version=version,
        )
        arrival = Arrival(counted, arrival.instance, arrival.epoch, arrival.sequence)
        return Judged(arrival, told, event.digest(), version)

    def _timed(self, event: UsageEvent, metric: Metric, ruling: Ruling) -> Ruling:
        """Whether its window was over when it was recorded, or is closed by now.

        Both are rare, so that windows are looked at only where one of them can be.
        """
        if ruling.outcome is not UsageOutcome.ACCEPTED:
            return ruling
        may_be_closed = (self._now - event.occurred_at).total_seconds() >= metric.close_after
        if event.recorded_at <= event.occurred_at and not may_be_closed:
            return ruling
        end = self._windows.at(event, metric).end
        if end is None:
            return ruling
        if may_be_closed and (refused := self._closed(metric, end)):
            return refused
        return _late(ruling, end) if end <= event.recorded_at else ruling

    def _closed(self, metric: Metric, end: datetime) -> Ruling | None:
        if metric.after_close is AfterClose.ADJUST or end + timedelta(seconds=metric.close_after) > self._now:
            return None
        reason = f"occurred_at: the window of {metric.key!r} that ended at {end:%Y-%m-%dT%H:%M:%SZ} is closed"
        return Ruling(UsageOutcome.LATE_REFUSED, rule=RuleName.CLOSED, reason=reason)

    def _originals(
        self, arrivals: Sequence[Arrival], judged: Sequence[Judged]
    ) -> Mapping[Identity, UsageEvent]:
        """Those that are stored, and those that came with their corrections."""
        together = {one.identity: one.event for one in reversed(judged) if one.ruling.outcome in COUNTING}
        corrected = {(one.event.tenant_id, one.event.corrects) for one in arrivals if one.event.corrects}
        return together | originals_of(self._session, corrected)

    def _correction(self, arrival: Arrival, originals: Mapping[Identity, UsageEvent]) -> Judged:
        event, version = arrival.event, self._registry.version
        original = originals.get((event.tenant_id, event.corrects))
        if original is None:
            reason = _HELD.format(reason=f"corrects: {event.corrects!r}")
            ruling = Ruling(UsageOutcome.QUARANTINED, rule=RuleName.ORIGINAL, reason=reason)
            return Judged(arrival, ruling, event.digest(), version)
        if original.corrects:
            reason = f"corrects: {event.corrects!r} is a correction itself; name the event that it corrects"
            ruling = Ruling(UsageOutcome.INVALID, rule=RuleName.ORIGINAL, reason=reason)
            return Judged(arrival, ruling, event.digest(), version)
        arrival = Arrival(completed(event, original), arrival.instance, arrival.epoch, arrival.sequence)
        return Judged(arrival, self._of_original(original), event.digest(), version)

    def _of_original(self, original: UsageEvent) -> Ruling:
        metric = self._registry.document.metrics.get(original.metric)
        if metric is None:
            return msgspec.structs.replace(
                self._registry.judge(original), outcome=UsageOutcome.QUARANTINED, classification=None
            )
        end = self._windows.at(original, metric).end
        refused = None if end is None else self._closed(metric, end)
        return refused or Ruling(UsageOutcome.ACCEPTED, original.classification)


def _late(ruling: Ruling, end: datetime) -> Ruling:
    reason = f"recorded after its window had ended at {end:%Y-%m-%dT%H:%M:%SZ}"
    if ruling.reason:
        reason = f"{ruling.reason}; {reason}"
    return Ruling(UsageOutcome.LATE_ACCEPTED, ruling.classification, RuleName.LATE, reason)
