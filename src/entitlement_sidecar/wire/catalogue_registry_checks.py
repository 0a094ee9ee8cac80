"""Says what is wrong with the meaning of the metric registry: what refers to what, and what means nothing.

Reads plain data that may be wrong in shape too, as `catalogue_checks` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from entitlement_sidecar.domain.registry import DEFAULT_MAX_AGE
from entitlement_sidecar.wire.catalogue_schema import unknown
from entitlement_sidecar.wire.durations import parse_duration, write_duration
from entitlement_sidecar.wire.yaml_source import Path

_DAY = 86400.0

_LONGEST = {"max_age": 3650 * _DAY, "max_future": _DAY, "close_after": 3650 * _DAY}
"""Most seconds of each duration of a metric: beyond them it is a slip of the unit."""

_RETENTION = (_DAY, 36500 * _DAY)
"""Least and most seconds for which raw events may be kept."""

_ROLLED_UP = ("sum", "unique_count")
"""Aggregations that a sum of events of one second, one subject and equal dimensions does not change."""

_DURATION = re.compile(r"[0-9]{1,9}[smhd]")

Problems = Iterator[tuple[Path, str]]


def registry_problems(data: dict[str, Any]) -> Problems:
    """Every reference to something that is not there, and every combination that means nothing."""
    metrics = _members(data.get("metrics"))
    for key, raw in metrics.items():
        yield from _metric(_members(raw), ("metrics", key))
    yield from _emitters(_members(data.get("emitters")), metrics)
    yield from _rules(_members(data.get("rules")), metrics)
    for name, metric in _members(data.get("task_metrics")).items():
        yield from _known([metric], metrics, ("task_metrics", name))
    yield from _tasks(_members(data.get("task_metrics")), metrics)
    yield from _retention(_members(data.get("retention")), metrics)


def _members(value: Any) -> dict[str, Any]:  # noqa: ANN401 - plain data of unknown shape
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[str]:  # noqa: ANN401
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _metric(metric: dict[str, Any], path: Path) -> Problems:
    rollup = metric.get("granularity") == "rollup"
    aggregation = metric.get("aggregation", "sum")
    if rollup and metric.get("terminal") is True:
        yield (
            (*path, "terminal"),
            "a rollup has no correlation id to end: make the granularity event, or remove it",
        )
    if rollup and isinstance(aggregation, str) and aggregation not in _ROLLED_UP:
        yield (
            (*path, "granularity"),
            f"a rollup holds only sums, of which no {aggregation} can be told: use granularity: event",
        )
    classification = metric.get("classification", "billable")
    if metric.get("counts_to_quota") is True and classification != "non_billable":
        why = f"{classification} usage {'always' if classification == 'billable' else 'never'} counts"
        yield (*path, "counts_to_quota"), f"only for a non_billable metric: {why}"
    for name, most in _LONGEST.items():
        seconds = _seconds(metric.get(name))
        if seconds is not None and seconds > most:
            yield (*path, name), f"{metric[name]} is too long: at most {write_duration(most)}"


def _seconds(value: Any) -> float | None:  # noqa: ANN401
    """Seconds of a duration; None where it is not there or wrong in shape."""
    return parse_duration(value) if isinstance(value, str) and _DURATION.fullmatch(value) else None


def _emitters(emitters: dict[str, Any], metrics: dict[str, Any]) -> Problems:
    for key, raw in emitters.items():
        emitter, path = _members(raw), ("emitters", key)
        yield from _known(emitter.get("metrics"), metrics, (*path, "metrics"))
        if emitter.get("external") is True and "metrics" in emitter:
            yield (*path, "metrics"), "an external emitter may report no billable usage: remove its metrics"


def _known(named: Any, allowed: Any, path: Path, what: str = "metric") -> Problems:  # noqa: ANN401
    for name in _texts(named):
        if name not in allowed:
            yield path, f"{what} {unknown(name, allowed)}"


def _rules(rules: dict[str, Any], metrics: dict[str, Any]) -> Problems:
    domains = {domain for raw in metrics.values() if isinstance(domain := _members(raw).get("domain"), str)}
    for key, raw in rules.items():
        rule, path = _members(raw), ("rules", key)
        yield from _known(rule.get("metrics"), metrics, (*path, "metrics"))
        yield from _known(rule.get("domains"), domains, (*path, "domains"), "domain")


def _tasks(tasks: dict[str, Any], metrics: dict[str, Any]) -> Problems:
    seen: dict[str, str] = {}
    for name, metric in tasks.items():
        if isinstance(metric, str) and _members(metrics.get(metric)).get("granularity") == "rollup":
            yield ("task_metrics", name), f"{metric} is a rollup, and a task is one fact: use another metric"
        if isinstance(metric, str) and metric in seen:
            yield ("task_metrics", name), f"{metric} is that of {seen[metric]} already: each part has its own"
        seen[str(metric)] = name


def _retention(retention: dict[str, Any], metrics: dict[str, Any]) -> Problems:
    least, most = _RETENTION
    for name, text in retention.items():
        seconds, path = _seconds(text), ("retention", name)
        if seconds is None:
            continue
        if not least <= seconds <= most:
            yield path, f"expected {write_duration(least)} to {write_duration(most)}, got {text}"
        for key, raw in metrics.items():
            metric = _members(raw)
            age = _seconds(metric.get("max_age", write_duration(DEFAULT_MAX_AGE))) or 0.0
            if metric.get("classification", "billable") == name and seconds < age:
                yield (
                    path,
                    f"shorter than the max_age of metric {key}, which is {write_duration(age)}",
                )
