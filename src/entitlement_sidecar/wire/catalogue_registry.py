"""The metric registry as a catalogue file has it: metrics, emitters, rules, tasks, retention."""

from __future__ import annotations

from typing import Any

from entitlement_sidecar.domain.catalogue import Aggregation, Catalogue, Classification, Durability, Metric
from entitlement_sidecar.domain.registry import (
    DEFAULT_CLOSE_AFTER,
    DEFAULT_MAX_AGE,
    DEFAULT_MAX_FUTURE,
    AfterClose,
    Emitter,
    Granularity,
    Retention,
    RuleCondition,
    RuleEffect,
    TaskMetrics,
    UsageRule,
    WhenFull,
)
from entitlement_sidecar.wire.catalogue_windows import build_window, plain_window
from entitlement_sidecar.wire.durations import parse_duration, write_duration

Plain = dict[str, Any]

_CHOICES = {
    "aggregation": Aggregation.SUM,
    "classification": Classification.BILLABLE,
    "durability": Durability.DURABLE,
    "granularity": Granularity.EVENT,
    "when_full": WhenFull.REFUSE,
    "after_close": AfterClose.ADJUST,
}
"""Fields of a metric that are one of some names, with their defaults."""

_DURATIONS = {
    "max_age": DEFAULT_MAX_AGE,
    "max_future": DEFAULT_MAX_FUTURE,
    "close_after": DEFAULT_CLOSE_AFTER,
}
"""Fields of a metric that are durations, with their defaults in seconds."""

METRIC_DEFAULTS: Plain = {
    "window": "month",
    "feature": "",
    "terminal": False,
    "counts_to_quota": False,
    **{name: default.name.lower() for name, default in _CHOICES.items()},
    **{name: write_duration(default) for name, default in _DURATIONS.items()},
}
"""What a metric is where its file says nothing, in the form of the file."""


def build_metric(key: str, raw: Plain) -> Metric:
    """A metric of a document in which nothing is wrong."""
    choices: Plain = {
        name: type(default)[raw[name].upper()] for name, default in _CHOICES.items() if name in raw
    }
    durations: Plain = {name: parse_duration(raw[name]) for name in _DURATIONS if name in raw}
    return Metric(
        key=key,
        domain=raw["domain"],
        unit=raw["unit"],
        window=build_window(raw.get("window", "month")),
        feature=raw.get("feature", ""),
        terminal=raw.get("terminal", False),
        counts_to_quota=raw.get("counts_to_quota", False),
        **choices,
        **durations,
    )


def plain_metric(metric: Metric, *, complete: bool = False) -> Plain:
    """A metric in the form of a file; `complete` says defaults too."""
    found: Plain = {"domain": metric.domain, "unit": metric.unit}
    for name in METRIC_ORDER:
        value = getattr(metric, name)
        if name in _CHOICES:
            value = value.name.lower()
        elif name in _DURATIONS:
            value = write_duration(value)
        elif name == "window":
            value = plain_window(value)
        if complete or value != METRIC_DEFAULTS[name]:
            found[name] = value
    return found


METRIC_ORDER = (
    "aggregation",
    "window",
    "classification",
    "feature",
    "durability",
    "granularity",
    "terminal",
    "counts_to_quota",
    "when_full",
    "max_age",
    "max_future",
    "close_after",
    "after_close",
)
"""In which order a file says what a metric is."""


def build_registry(data: Plain) -> Plain:
    """What a catalogue says of usage beside its metrics, by the names of `Catalogue`."""
    retention: Plain = data.get("retention", {})
    return {
        "emitters": {key: _emitter(key, raw) for key, raw in data.get("emitters", {}).items()},
        "rules": tuple(_rule(key, raw) for key, raw in data.get("rules", {}).items()),
        "task_metrics": TaskMetrics(**data.get("task_metrics", {})),
        "retention": Retention(**{name: parse_duration(text) for name, text in retention.items()}),
    }


def plain_registry(catalogue: Catalogue) -> Plain:
    """What a catalogue says of usage beside its metrics, in the form of a file; what is empty is left out."""
    found: Plain = {
        "emitters": {key: plain_emitter(one) for key, one in catalogue.emitters.items()},
        "rules": {one.key: plain_rule(one) for one in catalogue.rules},
        "task_metrics": plain_tasks(catalogue.task_metrics),
        "retention": plain_retention(catalogue.retention),
    }
    return {name: part for name, part in found.items() if part}


def _emitter(key: str, raw: Plain) -> Emitter:
    return Emitter(key, tuple(raw.get("metrics", ())), raw.get("external", False))


def plain_emitter(emitter: Emitter, *, complete: bool = False) -> Plain:
    """An emitter in the form of a file; `complete` says defaults too."""
    found: Plain = {"metrics": list(emitter.metrics), "external": emitter.external}
    return found if complete else {name: value for name, value in found.items() if value}


def _rule(key: str, raw: Plain) -> UsageRule:
    return UsageRule(
        key=key,
        conditions=tuple(RuleCondition(name, tuple(values)) for name, values in raw["when"].items()),
        effect=RuleEffect[raw.get("then", "non_billable").upper()],
        metrics=tuple(raw.get("metrics", ())),
        domains=tuple(raw.get("domains", ())),
        title=raw.get("title", ""),
    )


def plain_rule(rule: UsageRule, *, complete: bool = False) -> Plain:
    """A rule in the form of a file; `complete` says defaults too."""
    found: Plain = {"title": rule.title, "metrics": list(rule.metrics), "domains": list(rule.domains)}
    if not complete:
        found = {name: value for name, value in found.items() if value}
    found["when"] = {one.attribute: list(one.values) for one in rule.conditions}
    if complete or rule.effect is not RuleEffect.NON_BILLABLE:
        found["then"] = rule.effect.name.lower()
    return found


def plain_tasks(tasks: TaskMetrics) -> dict[str, str]:
    """What tasks are recorded as, in the form of a file."""
    return {name: metric for name in tasks.__struct_fields__ if (metric := getattr(tasks, name))}


def plain_retention(retention: Retention) -> dict[str, str]:
    """How long raw events are kept, in the form of a file."""
    kept = {name: getattr(retention, name) for name in retention.__struct_fields__}
    return {name: write_duration(seconds) for name, seconds in kept.items() if seconds is not None}
