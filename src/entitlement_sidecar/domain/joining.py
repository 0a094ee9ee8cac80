"""What several grants of a feature are together: limits, credits, values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, Feature, FeatureKind, Limit
from entitlement_sidecar.domain.modes import said_loss, said_modes, strictest
from entitlement_sidecar.domain.snapshot import Grant
from entitlement_sidecar.domain.weighing import Lives
from entitlement_sidecar.domain.window import window_at

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """Credits of one grant that can be burnt during `[since, until)`.

    `key` names the authority's row together with `since`; `amount` None is unlimited.
    """

    key: str
    grant: str
    amount: int | None
    since: datetime
    until: datetime | None


def _since(grant: Grant, lives: Lives) -> datetime | None:
    life = lives.get(grant.subscription_id)
    begun = [instant for instant in (grant.since, life.since if life else None) if instant is not None]
    return max(begun, default=None)


def merge_limits(groups: Iterable[tuple[Limit, ...]]) -> tuple[Limit, ...]:
    """Limits of several grants together: equal keys add up, others all hold, unlimited ones limit nothing.

    A grant without limits is unlimited, and so is everything together with it.
    """
    merged: dict[str, Limit] = {}
    for limits in groups:
        if not limits:
            return ()
        for limit in limits:
            merged[limit.key] = _sum(merged[limit.key], limit) if limit.key in merged else limit
    limiting = [limit for limit in merged.values() if limit.amount is not None]
    return tuple(sorted(limiting, key=lambda limit: limit.key))


def _sum(one: Limit, other: Limit) -> Limit:
    unlimited = one.amount is None or other.amount is None
    return msgspec.structs.replace(
        one,
        amount=None if unlimited else min((one.amount or 0) + (other.amount or 0), MAX_QUANTITY),
        carry_over_cap=min(one.carry_over_cap + other.carry_over_cap, MAX_QUANTITY),
        overage_price=one.overage_price or other.overage_price,
        mode=strictest(said_modes((one, other))),
        on_holder_loss=said_loss((one, other)),
    )


def heirs(limits: tuple[Limit, ...], replaced: Iterable[Limit]) -> tuple[Limit, ...]:
    """Limits of an override: what they do not say, they have of the limits that they take the place of.

    These are all that are soft alike, whatever their windows: who raises an amount, or counts it by another
    window, does not mean to loosen how it is kept.
    """
    replaced = tuple(replaced)
    return tuple(_heir(limit, [one for one in replaced if one.soft == limit.soft]) for limit in limits)


def _heir(limit: Limit, replaced: Sequence[Limit]) -> Limit:
    return msgspec.structs.replace(
        limit,
        mode=limit.mode or strictest(said_modes(replaced)),
        on_holder_loss=limit.on_holder_loss or said_loss(replaced),
    )


_Rank = tuple[int, datetime, datetime, str]
"""Burn order: priority → expiry → oldest, and a name so that it is one order."""


def buckets_of(chosen: Sequence[Grant], lives: Lives, now: datetime) -> tuple[Bucket, ...]:
    """Credits in burn order; none when any grant is unlimited. What has one name is one bucket."""
    ranked: dict[str, tuple[_Rank, Bucket]] = {}
    for grant in chosen:
        if not grant.limits or any(limit.amount is None for limit in grant.limits):
            return ()
        for limit in grant.limits:
            rank, bucket = _bucket(grant, limit, lives, now)
            if bucket.key in ranked:
                first, same = ranked[bucket.key]
                amount = min((same.amount or 0) + (bucket.amount or 0), MAX_QUANTITY)
                rank, bucket = min(first, rank), msgspec.structs.replace(same, amount=amount)
            ranked[bucket.key] = (rank, bucket)
    return tuple(bucket for _, bucket in sorted(ranked.values(), key=lambda pair: pair[0]))


def _bucket(grant: Grant, limit: Limit, lives: Lives, now: datetime) -> tuple[_Rank, Bucket]:
    window = window_at(limit.window, now)
    life = lives.get(grant.subscription_id)
    until = min(grant.until or _NEVER, window.end or _NEVER, (life.until if life else None) or _NEVER)
    name = "/".join(filter(None, (grant.subscription_id, grant.provenance.id, limit.key)))
    ends = None if until == _NEVER else until
    bucket = Bucket(name, grant.provenance.id, limit.amount, window.start, ends)
    return (grant.priority, until, _since(grant, lives) or _BEGINNING, name), bucket


def values_of(feature: Feature, chosen: Sequence[Grant]) -> list[Any]:
    """What is granted of a config feature, the value that is told first.

    Numbers join to the largest and lists to their union, so that more grants never allow less; of the rest
    each is granted, in the order of priority.
    """
    values = [grant.value for grant in chosen if grant.value is not None]
    if feature.kind is not FeatureKind.CONFIG or not values:
        return []
    joined: dict[str, Any] = {}
    for value in values:
        if isinstance(value, list):
            joined["list"] = _union(joined.get("list", ()), value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            joined["number"] = max(joined.get("number", value), value)
        else:
            joined.setdefault(f"={json.dumps(value)}", value)
    return list(joined.values())


def _union(one: Iterable[Any], other: Iterable[Any]) -> list[Any]:
    return list({json.dumps(item): item for items in (one, other) for item in items}.values())
