"""About how many bytes of memory a held tenant takes, told without walking its objects one by one.

The constants are what CPython takes for each part, with what is remembered of it once it was asked for; a
test compares the sum with what the interpreter allocates.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.snapshot import Grant, Snapshot, Subscription

_TENANT = 700
"""What holds a snapshot, its places in the store, and what decisions were last told of it."""

_STRING = 49
"""A string without its characters: those of names are one byte each."""

_INSTANT = 48
_SUBSCRIPTION, _PHASE = 104, 64
_GRANT, _LIMIT = 198, 148
_RESOLVED = 190
"""How a grant's feature resolves is remembered."""


def footprint(snapshot: Snapshot) -> int:
    """Bytes that a tenant takes while it is held."""
    return (
        _TENANT
        + len(snapshot.tenant_id)
        + sum(map(_subscription, snapshot.subscriptions))
        + sum(map(_grant, snapshot.grants))
    )


def _subscription(subscription: Subscription) -> int:
    phases = sum(_PHASE + _instants(phase.since, phase.until) for phase in subscription.phases)
    return _SUBSCRIPTION + phases + _strings(subscription.id, subscription.plan)


def _grant(grant: Grant) -> int:
    names = _strings(grant.feature, grant.provenance.id, grant.subscription_id, grant.reason)
    limits = sum(map(_limit, grant.limits))
    value = 0 if grant.value is None else _value(grant.value)
    return _GRANT + _RESOLVED + names + _instants(grant.since, grant.until) + limits + value


def _limit(limit: Limit) -> int:
    return _LIMIT + _strings(limit.window.zone, limit.overage_price) + _instants(limit.window.anchor)


def _strings(*texts: str) -> int:
    return sum(_STRING + len(text) for text in texts if text)


def _instants(*instants: datetime | None) -> int:
    return sum(_INSTANT for instant in instants if instant is not None)


def _value(value: Any) -> int:  # noqa: ANN401 - whatever JSON says
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        return size + sum(_value(key) + _value(one) for key, one in value.items())
    return size + sum(map(_value, value)) if isinstance(value, list) else size
