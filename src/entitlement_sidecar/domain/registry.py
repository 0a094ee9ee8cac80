"""The rest of the metric registry: who may emit, what may not be billed, what becomes of late usage (S0.3).

What a metric is stands in `catalogue`; how an event is judged by all of it, in `ruling`.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

DEFAULT_MAX_AGE = 35 * 86400.0
"""Seconds between an event and its recording, past which it is refused as late."""

DEFAULT_MAX_FUTURE = 300.0
"""Seconds that an event may happen after its recording: clocks differ."""

DEFAULT_CLOSE_AFTER = 3 * 86400.0
"""Seconds after its end in which a window stays open for late events."""


class Granularity(IntEnum):
    """What a record in the outbox stands for. Values are those of the contract.

    ROLLUP is one record for all events of a second that are alike but for their value: far cheaper for very
    hot metrics, and what is reported has no identity and no correlation of its own.
    """

    EVENT = 1
    ROLLUP = 2


class WhenFull(IntEnum):
    """What happens to usage where the outbox has no room for it (DESIGN 8)."""

    REFUSE = 1
    BLOCK = 2
    ALLOW_UNMETERED = 3


class AfterClose(IntEnum):
    """What happens to events and corrections of a window that is closed."""

    ADJUST = 1
    REFUSE = 2


class RuleEffect(IntEnum):
    """What a rule does to the events that it is about (S0.6)."""

    NON_BILLABLE = 1
    REFUSE = 2


ATTRIBUTES = ("emitter", "subject", "actor_id")
"""Attributes of an event that rules may look at, beside its dimensions."""

DIMENSION = "dimensions."
"""What the name of a dimension begins with where rules look at it."""


def is_attribute(name: str) -> bool:
    """Whether rules can look at what goes by this name."""
    return name in ATTRIBUTES or (name.startswith(DIMENSION) and len(name) > len(DIMENSION))


class Emitter(msgspec.Struct, frozen=True, gc=False):
    """Who reports usage (S0.7). No `metrics`: it may emit every one. `external`: never what is billable."""

    key: str
    metrics: tuple[str, ...] = ()
    external: bool = False

    def may_emit(self, metric: str) -> bool:
        """Whether billable usage of a metric may come from it."""
        return not self.external and (not self.metrics or metric in self.metrics)


class RuleCondition(msgspec.Struct, frozen=True, gc=False):
    """That an attribute is one of some texts; one that ends in `*` stands for all that begin like it.

    `attribute` is `emitter`, `subject`, `actor_id` or `dimensions.NAME`. One that is absent is the empty
    text, which only the empty text stands for.
    """

    attribute: str
    values: tuple[str, ...]


class UsageRule(msgspec.Struct, frozen=True, gc=False):
    """A case in which billing is forbidden: usage that every condition is true of (S0.6).

    Without `metrics` and `domains` it is about every metric; with both, about those of either.
    """

    key: str
    conditions: tuple[RuleCondition, ...]
    effect: RuleEffect = RuleEffect.NON_BILLABLE
    metrics: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    title: str = ""


class TaskMetrics(msgspec.Struct, frozen=True, gc=False):
    """Which metrics the parts of a task are recorded as (S3.5); an empty one is not recorded."""

    task: str = ""
    input_tokens: str = ""
    output_tokens: str = ""
    compute_ms: str = ""


class Retention(msgspec.Struct, frozen=True, gc=False):
    """How long raw events are kept, in seconds per classification; None: for good. Aggregates always are."""

    billable: float | None = None
    non_billable: float | None = None
    informational: float | None = None
