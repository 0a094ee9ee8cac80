"""Judges events by the metric registry (S0.3-S0.9): where a sidecar can, and again at ingest, which decides.

What needs more than the event and the registry (its identity, the terminal event of its work, whether its
window is closed, the original of a correction) is judged where that is known, by names that stand here too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification, Metric
from entitlement_sidecar.domain.registry import RuleEffect, UsageRule
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome

_DIMENSION = "dimensions."


class RuleName(StrEnum):
    """What may decide on an event in every registry; the rules that a registry declares have other names.

    These contain a colon, which no key of a catalogue does.
    """

    MALFORMED = "usage:malformed"
    TENANT = "usage:tenant"
    METRIC = "usage:metric"
    UNIT = "usage:unit"
    CORRELATION = "usage:correlation"
    FUTURE = "usage:future"
    AGE = "usage:age"
    EMITTER = "usage:emitter"
    IDENTITY = "usage:identity"
    TERMINAL = "usage:terminal"
    LATE = "usage:late"
    CLOSED = "usage:closed"
    ORIGINAL = "usage:original"
    ATOMIC = "usage:atomic"


class Ruling(msgspec.Struct, frozen=True, gc=False):
    """What the registry makes of an event. `classification` None: it does not count.

    `rule` is a `RuleName`, the key of a declared rule, or empty where nothing stood against it.
    """

    outcome: UsageOutcome
    classification: Classification | None = None
    rule: str = ""
    reason: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the event is kept: to count, or for operators."""
        return self.outcome in KEPT


KEPT = frozenset(
    {
        UsageOutcome.ACCEPTED,
        UsageOutcome.LATE_ACCEPTED,
        UsageOutcome.QUARANTINED,
        UsageOutcome.UNKNOWN_METRIC,
    }
)
"""Outcomes of events that are kept though the registry may not let them count yet."""

_CORRECTION = Ruling(UsageOutcome.ACCEPTED)


class _Judged(msgspec.Struct, frozen=True, gc=False):
    """What is the same for all events of a metric."""

    metric: Metric
    rules: tuple[UsageRule, ...]
    max_age: timedelta
    max_future: timedelta
    usual: Ruling


class Registry:
    """A catalogue document, made ready to judge by."""

    def __init__(self, document: CatalogueDocument) -> None:
        self.document = document
        self.version = document.version
        self._judged = {key: _judged(metric, document.rules) for key, metric in document.metrics.items()}

    def judge(self, event: UsageEvent) -> Ruling:
        """What becomes of an event. Its `unit` may be empty, and stands then for the metric's.

        A correction is not judged here: it is what its original is.
        """
        if event.corrects:
            return _CORRECTION
        judged = self._judged.get(event.metric)
        if judged is None:
            return self._unknown(event)
        refusal = _refused(event, judged)
        if refusal is not None:
            return refusal
        for rule in judged.rules:
            if all(one.holds(_attribute(event, one.attribute)) for one in rule.conditions):
                return _by_rule(event, judged.metric, rule)
        if judged.metric.classification is Classification.BILLABLE and self.document.emitters:
            return self._emitted(event, judged.usual)
        return judged.usual

    def _unknown(self, event: UsageEvent) -> Ruling:
        known = ", ".join(sorted(self._judged)[:10]) or "none"
        reason = (
            f"metric: {event.metric!r} is not in catalogue version {self.version}, which has {known}; "
            "it is kept, and counts once a catalogue names it"
        )
        return Ruling(UsageOutcome.UNKNOWN_METRIC, rule=RuleName.METRIC, reason=reason)

    def _emitted(self, event: UsageEvent, usual: Ruling) -> Ruling:
        """Whether it may come from where it says (S0.7). A CONSUME is the sidecar's own word."""
        if event.feature:
            return usual
        emitter = self.document.emitters.get(event.emitter)
        if emitter is not None and emitter.may_emit(event.metric):
            return usual
        if emitter is None:
            problem = f"{event.emitter!r} is not registered"
        elif emitter.external:
            problem = f"{event.emitter!r} is external"
        else:
            problem = f"{event.emitter!r} may not emit {event.metric!r}"
        reason = f"emitter: {problem}, and the usage is billable; it is kept for operators and does not count"
        return Ruling(UsageOutcome.QUARANTINED, rule=RuleName.EMITTER, reason=reason)


def _judged(metric: Metric, rules: Iterable[UsageRule]) -> _Judged:
    about = tuple(
        rule
        for rule in rules
        if metric.key in rule.metrics or metric.domain in rule.domains or not (rule.metrics or rule.domains)
    )
    usual = Ruling(UsageOutcome.ACCEPTED, metric.classification)
    return _Judged(
        metric, about, timedelta(seconds=metric.max_age), timedelta(seconds=metric.max_future), usual
    )


def _refused(event: UsageEvent, judged: _Judged) -> Ruling | None:
    metric = judged.metric
    if event.unit and event.unit != metric.unit:
        reason = f"unit: expected {metric.unit!r}, the unit of {metric.key!r}, got {event.unit!r}"
        return Ruling(UsageOutcome.INVALID, rule=RuleName.UNIT, reason=reason)
    if (
        metric.classification is Classification.BILLABLE
        and not event.correlation_id
        and not event.consumption_id
        and event.count == 1
    ):
        reason = f"correlation_id: required, because usage of {metric.key!r} is billable"
        return Ruling(UsageOutcome.INVALID, rule=RuleName.CORRELATION, reason=reason)
    age = event.recorded_at - event.occurred_at
    if age > judged.max_age:
        reason = f"occurred_at: it happened more than {judged.max_age} before it was recorded"
        return Ruling(UsageOutcome.LATE_REFUSED, rule=RuleName.AGE, reason=reason)
    if -age > judged.max_future:
        reason = f"occurred_at: it happens more than {judged.max_future} after it was recorded"
        return Ruling(UsageOutcome.INVALID, rule=RuleName.FUTURE, reason=reason)
    return None


def _attribute(event: UsageEvent, name: str) -> str:
    if name.startswith(_DIMENSION):
        return event.dimensions.get(name[len(_DIMENSION) :], "")
    return str(getattr(event, name))


def _by_rule(event: UsageEvent, metric: Metric, rule: UsageRule) -> Ruling:
    said = rule.title or rule.key
    # What was admitted has happened by a decision of ours: it is kept, and not billed.
    if rule.effect is RuleEffect.REFUSE and not event.feature:
        return Ruling(UsageOutcome.INVALID, rule=rule.key, reason=f"refused by rule {rule.key}: {said}")
    classification = max(metric.classification, Classification.NON_BILLABLE)
    return Ruling(UsageOutcome.ACCEPTED, classification, rule.key, f"not billable by rule {rule.key}: {said}")
