"""Between the contract and the domain: the metric registry, with its emitters, rules and tasks."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from entitlement_sidecar.domain.catalogue import Aggregation, Classification, Durability, Metric
from entitlement_sidecar.domain.registry import (
    DEFAULT_CLOSE_AFTER,
    DEFAULT_MAX_AGE,
    DEFAULT_MAX_FUTURE,
    AfterClose,
    Emitter,
    Granularity,
    RuleCondition,
    RuleEffect,
    TaskMetrics,
    UsageRule,
    WhenFull,
    is_attribute,
)
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.wire.codec import from_duration, to_duration, window_to_proto
from entitlement_sidecar.wire.newer import is_whole, known_window, named
from entitlement_sidecar.wire.v1 import types_pb2


def metric_to_proto(metric: Metric) -> types_pb2.Metric:
    """Translates a metric."""
    return types_pb2.Metric(
        key=metric.key,
        domain=metric.domain,
        unit=metric.unit,
        aggregation=int(metric.aggregation),
        window=window_to_proto(metric.window),
        classification=int(metric.classification),
        feature=metric.feature,
        durability=int(metric.durability),
        granularity=int(metric.granularity),
        terminal=metric.terminal,
        counts_to_quota=metric.counts_to_quota,
        when_full=int(metric.when_full),
        max_age=to_duration(metric.max_age),
        max_future=to_duration(metric.max_future),
        close_after=to_duration(metric.close_after),
        after_close=int(metric.after_close),
    )


def metric_from_proto(message: types_pb2.Metric) -> Metric:
    """Translates a metric; a choice that is not known here is the default.

    A sidecar only keeps events of it: what they add up to is the plan store's business.
    """

    def seconds(name: str, default: float) -> float:
        duration: Duration = getattr(message, name)
        return from_duration(duration) if message.HasField(name) else default

    return Metric(
        key=message.key,
        domain=message.domain,
        unit=message.unit,
        aggregation=named(Aggregation, message.aggregation) or Aggregation.SUM,
        window=known_window(message.window) or WindowSpec(WindowUnit.MONTH),
        classification=named(Classification, message.classification) or Classification.BILLABLE,
        feature=message.feature,
        durability=named(Durability, message.durability) or Durability.DURABLE,
        granularity=named(Granularity, message.granularity) or Granularity.EVENT,
        terminal=message.terminal,
        counts_to_quota=message.counts_to_quota,
        when_full=named(WhenFull, message.when_full) or WhenFull.REFUSE,
        max_age=seconds("max_age", DEFAULT_MAX_AGE),
        max_future=seconds("max_future", DEFAULT_MAX_FUTURE),
        close_after=seconds("close_after", DEFAULT_CLOSE_AFTER),
        after_close=named(AfterClose, message.after_close) or AfterClose.ADJUST,
    )


def emitter_to_proto(emitter: Emitter) -> types_pb2.Emitter:
    """Translates an emitter."""
    return types_pb2.Emitter(key=emitter.key, metrics=emitter.metrics, external=emitter.external)


def emitter_from_proto(message: types_pb2.Emitter) -> Emitter:
    """Translates an emitter."""
    return Emitter(message.key, tuple(message.metrics), message.external)


def rule_to_proto(rule: UsageRule) -> types_pb2.UsageRule:
    """Translates a rule."""
    return types_pb2.UsageRule(
        key=rule.key,
        metrics=rule.metrics,
        domains=rule.domains,
        conditions=[
            types_pb2.RuleCondition(attribute=one.attribute, values=one.values) for one in rule.conditions
        ],
        effect=int(rule.effect),
        title=rule.title,
    )


def rule_from_proto(message: types_pb2.UsageRule) -> UsageRule | None:
    """Translates a rule; None where something of it is not known here, or it has no condition."""
    effect = named(RuleEffect, message.effect or int(RuleEffect.NON_BILLABLE))
    known = bool(message.conditions) and all(is_attribute(one.attribute) for one in message.conditions)
    if effect is None or not known or not is_whole(message):
        return None
    return UsageRule(
        key=message.key,
        conditions=tuple(RuleCondition(one.attribute, tuple(one.values)) for one in message.conditions),
        effect=effect,
        metrics=tuple(message.metrics),
        domains=tuple(message.domains),
        title=message.title,
    )


def task_metrics_to_proto(tasks: TaskMetrics) -> types_pb2.TaskMetrics:
    """Translates what tasks are recorded as."""
    return types_pb2.TaskMetrics(
        task=tasks.task,
        input_tokens=tasks.input_tokens,
        output_tokens=tasks.output_tokens,
        compute_ms=tasks.compute_ms,
    )


def task_metrics_from_proto(message: types_pb2.TaskMetrics) -> TaskMetrics:
    """Translates what tasks are recorded as."""
    return TaskMetrics(message.task, message.input_tokens, message.output_tokens, message.compute_ms)
