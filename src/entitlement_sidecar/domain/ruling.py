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
from entitlement_sidecar.domain.registry import (
    DIMENSION,
    Emitter,
    Granularity,
    RuleCondition,
    RuleEffect,
    UsageRule,
)
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome


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
    RESERVATION = "usage:reservation"
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

_NOT_RESERVED = Ruling(
    UsageOutcome.QUARANTINED,
    rule=RuleName.RESERVATION,
    reason="lease_id: no such reservation was made here, or it is over since long; "
    "the settlement is kept for operators and does not count",
)


class Registry:
    """A catalogue document, made ready to judge by: the usual event costs a few look-ups."""

    def __init__(self, document: CatalogueDocument) -> None:
        self.document = document
        self.version = document.version
        self._judged = {key: _judged(metric, document) for key, metric in document.metrics.items()}

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
            if rule.is_about(event):
                # What was admitted has happened by a decision of ours: it is kept, and not billed.
                return rule.admitted if event.feature else rule.reported
        # A CONSUME is the sidecar's own word, whoever asked for it.
        if judged.emitters is None or event.emitter in judged.emitters or event.feature:
            return judged.usual
        return self._not_emitted(event.emitter, event.metric)

    def judges_alike(self, metric: str) -> bool:
        """Whether all that is consumed of a metric is judged alike: no rule looks at attributes."""
        judged = self._judged.get(metric)
        return judged is not None and not judged.rules

    def judge_correction(self, emitter: str, original: UsageEvent) -> Ruling:
        """Whether it may correct an event: who may not emit billable usage may not change it (S0.7)."""
        judged = self._judged.get(original.metric)
        if judged is None or judged.emitters is None or emitter in judged.emitters:
            return Ruling(UsageOutcome.ACCEPTED, original.classification)
        return self._not_emitted(emitter, original.metric)

    def _unknown(self, event: UsageEvent) -> Ruling:
        if event.settles and not event.metric:
            return _NOT_RESERVED
        known = ", ".join(sorted(self._judged)[:10]) or "none"
        reason = (
            f"metric: {event.metric!r} is not in catalogue version {self.version}, which has {known}; "
            "it is kept, and counts once a catalogue names it"
        )
        return Ruling(UsageOutcome.UNKNOWN_METRIC, rule=RuleName.METRIC, reason=reason)

    def _not_emitted(self, key: str, metric: str) -> Ruling:
        """Why billable usage may not come from where it says (S0.7)."""
        emitter = self.document.emitters.get(key)
        if emitter is None:
            problem = f"{key!r} is not registered" if key else "none is named"
        elif emitter.external:
            problem = f"{key!r} is external"
        else:
            problem = f"{key!r} may not emit {metric!r}"
        reason = f"emitter: {problem}, and the usage is billable; it is kept for operators and does not count"
        return Ruling(UsageOutcome.QUARANTINED, rule=RuleName.EMITTER, reason=reason)


class _Test(msgspec.Struct, frozen=True, gc=False):
    """A condition, made ready: whole texts and beginnings of an attribute or, else, a dimension."""

    attribute: str
    dimension: str
    texts: frozenset[str]
    beginnings: tuple[str, ...]

    def holds(self, event: UsageEvent) -> bool:
        """Whether it is true of an event."""
        dimension = self.dimension
        text = event.dimensions.get(dimension, "") if dimension else getattr(event, self.attribute)
        return text in self.texts or (text != "" and text.startswith(self.beginnings))


class _Rule(msgspec.Struct, frozen=True, gc=False):
    """A rule, made ready for one metric: what becomes of what is reported, and of what was admitted."""

    tests: tuple[_Test, ...]
    reported: Ruling
    admitted: Ruling

    def is_about(self, event: UsageEvent) -> bool:
        """Whether every condition is true of an event."""
        for test in self.tests:  # noqa: SIM110 - `all` makes a generator, which costs more than the tests
            if not test.holds(event):
                return False
        return True


class _Judged(msgspec.Struct, frozen=True, gc=False):
    """What is the same for all events of a metric. `emitters`: who may emit it; None: everyone."""

    metric: Metric
    correlated: bool
    max_age: timedelta
    max_future: timedelta
    rules: tuple[_Rule, ...]
    emitters: frozenset[str] | None
    usual: Ruling


def _judged(metric: Metric, document: CatalogueDocument) -> _Judged:
    billable = metric.classification is Classification.BILLABLE
    about = (
        rule
        for rule in document.rules
        if metric.key in rule.metrics or metric.domain in rule.domains or not (rule.metrics or rule.domains)
    )
    return _Judged(
        metric=metric,
        # A rollup stands for many calls, and has no correlation of its own.
        correlated=billable and metric.granularity is Granularity.EVENT,
        max_age=timedelta(seconds=metric.max_age),
        max_future=timedelta(seconds=metric.max_future),
        rules=tuple(_rule(rule, metric) for rule in about),
        emitters=_allowed(metric, document.emitters.values()) if billable and document.emitters else None,
        usual=Ruling(UsageOutcome.ACCEPTED, metric.classification),
    )


def _allowed(metric: Metric, emitters: Iterable[Emitter]) -> frozenset[str]:
    return frozenset(emitter.key for emitter in emitters if emitter.may_emit(metric.key))


def _rule(rule: UsageRule, metric: Metric) -> _Rule:
    said = rule.title or rule.key
    classification = max(metric.classification, Classification.NON_BILLABLE)
    kept = Ruling(UsageOutcome.ACCEPTED, classification, rule.key, f"not billable by rule {rule.key}: {said}")
    refused = Ruling(UsageOutcome.INVALID, rule=rule.key, reason=f"refused by rule {rule.key}: {said}")
    return _Rule(
        tests=tuple(map(_test, rule.conditions)),
        reported=refused if rule.effect is RuleEffect.REFUSE else kept,
        admitted=kept,
    )


def _test(condition: RuleCondition) -> _Test:
    name, values = condition.attribute, condition.values
    dimension = name.removeprefix(DIMENSION) if name.startswith(DIMENSION) else ""
    return _Test(
        attribute="" if dimension else name,
        dimension=dimension,
        texts=frozenset(values),
        beginnings=tuple(value[:-1] for value in values if value.endswith("*")),
    )


def _refused(event: UsageEvent, judged: _Judged) -> Ruling | None:
    if event.unit and event.unit != judged.metric.unit:
        return _wrong_unit(event, judged.metric)
    if judged.correlated and not (event.correlation_id or event.consumption_id):
        return _uncorrelated(judged.metric)
    return None if event.occurred_at is event.recorded_at else _out_of_time(event, judged)


def _wrong_unit(event: UsageEvent, metric: Metric) -> Ruling:
    reason = f"unit: expected {metric.unit!r}, the unit of {metric.key!r}, got {event.unit!r}"
    return Ruling(UsageOutcome.INVALID, rule=RuleName.UNIT, reason=reason)


def _uncorrelated(metric: Metric) -> Ruling:
    reason = f"correlation_id: required, because usage of {metric.key!r} is billable"
    return Ruling(UsageOutcome.INVALID, rule=RuleName.CORRELATION, reason=reason)


def _out_of_time(event: UsageEvent, judged: _Judged) -> Ruling | None:
    age = event.recorded_at - event.occurred_at
    if age > judged.max_age:
        reason = f"occurred_at: expected at most {judged.max_age} before it was recorded, got {_said(age)}"
        return Ruling(UsageOutcome.LATE_REFUSED, rule=RuleName.AGE, reason=reason)
    if -age > judged.max_future:
        reason = (
            f"occurred_at: expected at most {judged.max_future} ahead of the clock here, got {_said(-age)}"
        )
        return Ruling(UsageOutcome.INVALID, rule=RuleName.FUTURE, reason=reason)
    return None


def _said(length: timedelta) -> str:
    """A length of time, to the second."""
    return str(timedelta(seconds=int(length.total_seconds())))
