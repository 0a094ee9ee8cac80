"""What a tenant loses of a feature when something is about to change. Looked at backwards, what it gains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from entitlement_sidecar.domain import outage
from entitlement_sidecar.domain.catalogue import (
    AfterStale,
    Feature,
    Limit,
    WhenUnknown,
)
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.values import alike, any_allows

_OPENNESS = {WhenUnknown.DENY: 0, WhenUnknown.ALLOWANCE: 1, WhenUnknown.VALUE: 2, WhenUnknown.ALLOW: 3}


class Having(msgspec.Struct, frozen=True, gc=False):
    """A feature as some catalogue has it, and what a tenant has of it; None: there is no such feature."""

    feature: Feature | None = None
    resolution: Resolution | None = None

    @property
    def granted(self) -> bool:
        """Whether the tenant has it at all."""
        found = self.resolution
        return found is not None and found.denied is None and found.understood

    @property
    def values(self) -> tuple[Any, ...]:
        """Config values that are granted."""
        found = self.resolution
        return () if found is None else tuple(v for v in (found.value, *found.others) if v is not None)

    @property
    def limits(self) -> dict[str, Limit]:
        """Hard limits by their key."""
        found = self.resolution
        return {} if found is None else {limit.key: limit for limit in found.limits if not limit.soft}

    @property
    def credits(self) -> int | None:
        """All credits together; None is unlimited."""
        found = self.resolution
        amounts = [] if found is None else [bucket.amount for bucket in found.buckets]
        return sum(amount or 0 for amount in amounts) if amounts and None not in amounts else None


class Lost(msgspec.Struct, frozen=True, gc=False):
    """One thing that a tenant has and will not have, or will have less of.

    `what` is `feature`, `value`, `limit`, `credits` or `outage`; `limit` names a limit by its key.
    `before` and `after` are what can be written as JSON; None is unlimited for limits and credits.
    """

    what: str
    before: Any = None
    after: Any = None
    limit: str = ""

    def __str__(self) -> str:
        if self.what == "feature":
            return "all of it"
        name = f"limit {self.limit}" if self.limit else self.what
        return f"{name}: {_shown(self.before)} → {_shown(self.after)}"


def lost(before: Having, after: Having) -> tuple[Lost, ...]:
    """What of `before` is not there `after`; nothing where the tenant did not have the feature."""
    if not before.granted or before.feature is None:
        return ()
    if not after.granted or after.feature is None:
        return (Lost("feature"),)
    return (
        *_values(before, after),
        *_limits(before, after),
        *_credits(before, after),
        *_outage(before, after),
    )


def _shown(value: Any) -> str:  # noqa: ANN401 - JSON
    if value is None:
        return "unlimited"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _values(before: Having, after: Having) -> Iterator[Lost]:
    for value in before.values:
        if not any_allows(after.values, value):
            yield Lost("value", value, after.values[0] if after.values else "none")


def _limits(before: Having, after: Having) -> Iterator[Lost]:
    for key, limit in after.limits.items():
        had = before.limits.get(key)
        if less(limit.amount, None if had is None else had.amount):
            yield Lost("limit", None if had is None else had.amount, limit.amount, key)


def _credits(before: Having, after: Having) -> Iterator[Lost]:
    if less(after.credits, before.credits):
        yield Lost("credits", before.credits, after.credits)


def less(one: int | None, other: int | None) -> bool:
    """Whether an amount is smaller than another; None is unlimited."""
    return one is not None and (other is None or one < other)


def _outage(before: Having, after: Having) -> Iterator[Lost]:
    old, new = before.feature, after.feature
    if old is None or new is None or (alike(old.outage, new.outage) and old.placement == new.placement):
        return
    then = outage.when_unknown(old, hard=bool(before.limits))
    now = outage.when_unknown(new, hard=bool(after.limits))
    if _OPENNESS[now] < _OPENNESS[then]:
        yield Lost("outage", f"when_unknown {then.name.lower()}", f"when_unknown {now.name.lower()}")
    elif now is then:
        yield from _answers(old, new, now)
    if _stale_for(new) < _stale_for(old):
        yield Lost("outage", _stale_text(old), _stale_text(new))


def _answers(old: Feature, new: Feature, policy: WhenUnknown) -> Iterator[Lost]:
    if policy is WhenUnknown.ALLOWANCE and (
        new.outage.allowance < old.outage.allowance
        or new.outage.allowance_window != old.outage.allowance_window
    ):
        yield Lost("outage", _allowance_text(old), _allowance_text(new))
    if policy is WhenUnknown.VALUE and not any_allows([new.outage.value], old.outage.value):
        yield Lost("outage", old.outage.value, new.outage.value)


def _stale_for(feature: Feature) -> float:
    """For how many seconds what is held is answered from."""
    denies = feature.outage.after_stale is AfterStale.DENY
    return feature.outage.serve_stale_for if denies else float("inf")


def _stale_text(feature: Feature) -> str:
    seconds = _stale_for(feature)
    return "answered however stale" if seconds == float("inf") else f"denied after {seconds:g} s"


def _allowance_text(feature: Feature) -> str:
    window = feature.outage.allowance_window
    return f"allowance {feature.outage.allowance}" + (f" each {window.key}" if window else "")
