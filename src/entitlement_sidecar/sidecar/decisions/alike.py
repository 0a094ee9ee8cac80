"""How long CONSUMEs of one tenant's feature are answered alike, but for identity, instant and what is left.

Within one span an answer says the same of every limit: the same warnings, no overage, the same tightest one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import cast

import msgspec

from entitlement_sidecar.domain.answer import ENDS_SOON
from entitlement_sidecar.domain.catalogue import FeatureKind, Metric
from entitlement_sidecar.domain.counted import tightest
from entitlement_sidecar.domain.decision import CheckRequest, Decision, Degradation
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.outage import refuses_stale
from entitlement_sidecar.domain.quota import LimitUsage, QuotaUsage
from entitlement_sidecar.domain.registry import Granularity, WhenFull
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.leases.authority import Grip
from entitlement_sidecar.wire.fields import MAX_NAME, is_text
from entitlement_sidecar.wire.v1 import decision_pb2

_PLENTY = 1 << 62
"""More tokens than are ever taken."""

_NEVER = datetime.max.replace(tzinfo=UTC)


class Consumed(msgspec.Struct, frozen=True):
    """A CONSUME that was allowed and kept: decided by `held`, at `since` or a moment later."""

    request: CheckRequest
    decision: Decision
    held: Held
    usage: QuotaUsage
    since: datetime


class Span(msgspec.Struct, frozen=True):
    """What may be pending while answers are alike, both ends included; and their numbers where nothing is.

    `remaining` is less than nothing where others hold all that is left.
    """

    least: int
    most: int
    used: int
    remaining: int


def is_plain(message: decision_pb2.CheckEntitlementRequest) -> bool:
    """Whether it says nothing that needs more than tokens, and is well formed otherwise."""
    return (
        message.mode == decision_pb2.CHECK_MODE_CONSUME
        and not message.request_id
        and not message.min_snapshot_version
        and not message.HasField("max_staleness")
        and not message.HasField("requested_value_json")
        and not message.dimensions
        and is_text(message.correlation_id, MAX_NAME)
        and is_text(message.subject, MAX_NAME)
    )


def is_usual(decision: Decision, metric: Metric) -> bool:
    """Whether the next decision of its kind says the same, but for numbers, and is kept alike."""
    return (
        decision.allowed
        and decision.kind == FeatureKind.METERED
        and decision.degradation is Degradation.NONE
        and decision.remaining is not None
        and not decision.overage
        and metric.granularity is Granularity.EVENT
        and metric.when_full is WhenFull.REFUSE
    )


def is_seen_by(grip: Grip, usage: QuotaUsage) -> bool:
    """Whether usage was admitted from a lease, and told by the view that the grip has still."""
    if not (usage.lease_id and usage.pending):
        return False
    seen = tuple(msgspec.structs.replace(one, used=one.used + usage.pending) for one in grip.view)
    return seen == usage.limits


def is_alike(held: Held, before: Held, feature: str) -> bool:
    """Whether the same is known of a tenant, but for when it was confirmed, and a feature answers by it."""
    return (
        held.snapshot is before.snapshot
        and held.catalogue is before.catalogue
        and held.source is before.source
        and not held.stale
        and not refuses_stale(held.catalogue.features[feature], held.stale_for)
    )


def until(consumed: Consumed) -> datetime:
    """When the feature resolves otherwise, when it ends soon, or when the first window ends."""
    held, now = consumed.held, consumed.since
    feature = held.catalogue.features[consumed.request.feature]
    resolution = held.resolve(cast("Snapshot", held.snapshot), feature, now)
    ends = [limit.reset_at for limit in consumed.usage.limits]
    if resolution.ends_at is not None and resolution.ends_at - ENDS_SOON > now:
        ends.append(resolution.ends_at - ENDS_SOON)
    return min((end for end in (*ends, resolution.valid_until) if end is not None), default=_NEVER)


def span_of(usage: QuotaUsage) -> Span:
    """Around usage of limits of which at least one has an end."""
    limits, pending = usage.limits, usage.pending
    tight = tightest(limits, 0, denied=False)
    # One limit is always the tightest. Of several another one may be, where the first has nothing left.
    several = sum(limit.amount is not None for limit in limits) > 1
    steps = [step - limit.used for limit in limits for step in _steps(limit, several=several)]
    return Span(
        least=pending + max((step for step in steps if step <= 0), default=-_PLENTY),
        most=pending + min((step for step in steps if step > 0), default=_PLENTY) - 1,
        used=tight.used - pending,
        remaining=(tight.whole or 0) - tight.outstanding - tight.used + pending,
    )


def _steps(limit: LimitUsage, *, several: bool) -> Iterator[int]:
    """Usage from which on something else is said of a limit."""
    whole = limit.whole
    if whole is None:
        return
    yield -(-whole * 8 // 10)
    yield -(-whole * 9 // 10)
    if limit.soft:
        yield whole + 1
    if several:
        yield whole - limit.outstanding
