"""What facts add up to: the one rule by which aggregates are kept, counted again and rebuilt (S0.2).

It does not depend on the order of facts. Where two happened at the same instant, the later arrival is last.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import Aggregation
from entitlement_sidecar.planstore.usage.facts import Fact, Key

LARGEST = 2**63 - 1
"""A sum that would leave 64 bits stays here, rather than that its batch can never be stored."""

DERIVED = ("unit", "window_end", "value", "event_count", "first_event_at", "last_event_at", "watermark")
"""Columns of an aggregate that follow from its facts alone, bit for bit; the key does too.

Not `state`, which says whether it was told to anybody, and not `version`, which counts how often it changed.
"""


class Total:
    """What the facts of one aggregate add up to."""

    __slots__ = ("_last", "_subjects", "_value", "aggregation", "count", "first", "watermark", "window_end")

    def __init__(self, aggregation: Aggregation, fact: Fact) -> None:
        self.aggregation = aggregation
        self.count = fact.count
        self.first = fact.occurred_at
        self.watermark = fact.id
        self.window_end = fact.window_end
        self._value = fact.value
        self._last = fact
        self._subjects = {fact.subject} if aggregation is Aggregation.UNIQUE_COUNT else set[str]()

    def add(self, fact: Fact) -> None:
        """One more fact."""
        match self.aggregation:
            case Aggregation.SUM:
                self._value += fact.value
            case Aggregation.MAX:
                self._value = max(self._value, fact.value)
            case Aggregation.UNIQUE_COUNT:
                self._subjects.add(fact.subject)
        self.count += fact.count
        self.first = min(self.first, fact.occurred_at)
        self.watermark = max(self.watermark, fact.id)
        if (fact.occurred_at, fact.id) > (self._last.occurred_at, self._last.id):
            self._last = fact

    @property
    def value(self) -> int:
        """What they add up to; subjects without a name are nobody."""
        match self.aggregation:
            case Aggregation.LAST:
                return self._last.value
            case Aggregation.UNIQUE_COUNT:
                return len(self._subjects - {""})
            case _:
                return min(self._value, LARGEST)

    def derived(self) -> dict[str, Any]:
        """The columns that follow from facts."""
        return {
            "unit": self._last.unit,
            "window_end": self.window_end,
            "value": self.value,
            "event_count": min(self.count, LARGEST),
            "first_event_at": self.first,
            "last_event_at": self._last.occurred_at,
            "watermark": self.watermark,
        }


def nothing(key: Key, unit: str, window_end: datetime | None) -> dict[str, Any]:
    """The same columns of an aggregate whose facts have all left: it stays, as zeros."""
    return {
        "unit": unit,
        "window_end": window_end,
        "value": 0,
        "event_count": 0,
        "first_event_at": key.window_start,
        "last_event_at": key.window_start,
        "watermark": 0,
    }


def add_up(facts: Iterable[Fact], aggregation: Aggregation) -> Total | None:
    """The total of facts of one aggregate; None of none."""
    total: Total | None = None
    for fact in facts:
        if total is None:
            total = Total(aggregation, fact)
        else:
            total.add(fact)
    return total


def key_columns(key: Key) -> dict[str, Any]:
    """A key as columns of `subscription_usage_ledger`."""
    return msgspec.structs.asdict(key)
