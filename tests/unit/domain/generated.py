"""Strategies for whatever the domain may be given, whether or not a plan store would write it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zlib import crc32
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from entitlement_sidecar.domain.catalogue import (
    MAX_QUANTITY,
    AfterStale,
    CatalogueDocument,
    Feature,
    FeatureKind,
    Limit,
    LimitMode,
    Obligations,
    OutagePolicy,
    WhenUnknown,
)
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Provenance, ProvenanceKind
from entitlement_sidecar.domain.lease import OnHolderLoss
from entitlement_sidecar.domain.quota import (
    LimitUsage,
    QuotaAsk,
    QuotaUsage,
    Spent,
    bucket_usage,
    burn,
    carried_over,
    carries_over,
)
from entitlement_sidecar.domain.snapshot import (
    Grant,
    GrantEffect,
    Phase,
    Snapshot,
    Subscription,
    SubscriptionState,
)
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit, window_at

ZONES = sorted(available_timezones())

CALENDAR = (WindowUnit.DAY, WindowUnit.WEEK, WindowUnit.MONTH, WindowUnit.QUARTER, WindowUnit.YEAR)
"""Units that begin at a midnight of their zone."""


def quick(examples: int) -> settings:
    """The same examples on each run, and no deadline: what runs beside the tests is no defect."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


# ---- instants -------------------------------------------------------------------------------------------

instants = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis adds the zone
zones = st.sampled_from(ZONES)


@cache
def shifts(zone: str, year: int) -> tuple[datetime, ...]:
    """The instants in a year (in UTC) at which a zone's offset changes."""
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(0, 368, 4)]
    return tuple(
        _shift(zone, first, last)
        for first, last in pairwise(days)
        if _offset(zone, first) != _offset(zone, last)
    )


def _shift(zone: str, first: datetime, last: datetime) -> datetime:
    while last - first > timedelta(seconds=1):
        middle = (first + (last - first) / 2).replace(microsecond=0)
        if _offset(zone, middle) == _offset(zone, first):
            first = middle
        else:
            last = middle
    return last


def _offset(zone: str, instant: datetime) -> timedelta | None:
    return instant.astimezone(ZoneInfo(zone)).utcoffset()


@st.composite
def around_shifts(draw: st.DrawFn, zone: str, first_year: int = 1970) -> datetime:
    """An instant within two days of a change of a zone's offset; any instant in years without one."""
    year = draw(st.integers(first_year, 2099) | st.integers(first_year, 2037))
    if not shifts(zone, year):
        return draw(instants.map(lambda instant: instant.replace(year=year, day=min(instant.day, 28))))
    near = st.sampled_from([-1, 0, 1, 59, 60, 1799, 1800, 3599, 3600, 86_399, 86_400])
    away = draw(near | st.integers(-172_800, 172_800))
    return draw(st.sampled_from(shifts(zone, year))) + timedelta(seconds=away)


# ---- windows --------------------------------------------------------------------------------------------

anchors = st.builds(
    datetime,
    *(st.integers(1970, 2100), st.integers(1, 12), st.integers(1, 28)),
    *(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59)),
    tzinfo=st.just(UTC),
) | st.sampled_from(
    [
        datetime(2024, 1, 29, 23, 59, 59, tzinfo=UTC),
        datetime(2024, 2, 29, tzinfo=UTC),
        datetime(2026, 1, 30, 12, 30, 0, 999_999, tzinfo=UTC),
        datetime(2026, 3, 31, tzinfo=UTC),
        datetime(2026, 10, 31, 22, 0, 0, tzinfo=UTC),
    ]
)


def specs_of(*units: WindowUnit) -> st.SearchStrategy[WindowSpec]:
    """Specifications of these units in any zone, from any anchor."""
    return st.builds(
        WindowSpec,
        unit=st.sampled_from(units),
        zone=zones,
        week_start=st.integers(1, 7),
        anchor=anchors,
    )


# ---- snapshots ------------------------------------------------------------------------------------------

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
FEATURE = "f"
"""What every generated question is about."""

moments = st.integers(-60, 60).map(lambda half_days: NOON + timedelta(hours=12 * half_days))
"""Instants in some months around noon, few enough that intervals meet and end where questions are asked."""

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "b", "eu"])
)
json_values = leaves | st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)
quantities = st.sampled_from([0, 1, 1, 1, 2, 2, 3, 5, 10]) | st.integers(0, MAX_QUANTITY)
amounts = st.integers(0, 20) | st.sampled_from([0, 1, 3, 10, 100, MAX_QUANTITY])
windows = st.builds(
    WindowSpec,
    unit=st.sampled_from([WindowUnit.DAY, WindowUnit.MONTH, WindowUnit.BILLING_CYCLE, WindowUnit.LIFETIME]),
    zone=st.sampled_from(["UTC", "Africa/Cairo"]),
    anchor=st.none() | st.just(NOON),
)
limits = st.builds(
    Limit,
    amount=st.sampled_from(range(8)).flatmap(lambda n: amounts if n else st.none()),
    window=windows,
    soft=st.booleans(),
    carry_over_cap=st.just(0) | amounts,
    overage_price=st.sampled_from(["", "over"]),
    mode=st.none() | st.sampled_from(LimitMode),
    on_holder_loss=st.none() | st.sampled_from(OnHolderLoss),
)
features = st.builds(
    Feature,
    key=st.just(FEATURE),
    kind=st.sampled_from([*FeatureKind, FeatureKind.METERED, FeatureKind.SEATS, FeatureKind.CREDITS]),
    metric=st.just(FEATURE),
    placement=st.booleans(),
    deprecated=st.booleans(),
    obligations=st.builds(Obligations),
    outage=st.builds(
        OutagePolicy,
        serve_stale_for=st.sampled_from([0.0, 60.0, 86_400.0]),
        after_stale=st.sampled_from(AfterStale),
        when_unknown=st.none() | st.sampled_from(WhenUnknown),
        allowance=amounts,
        allowance_window=st.none() | windows,
        value=json_values,
    ),
    understood=st.sampled_from([True] * 9 + [False]),
).map(lambda one: msgspec.structs.replace(one, understood=one.understood and bool(one.kind)))


@st.composite
def lives(draw: st.DrawFn) -> tuple[Phase, ...]:
    """Phases in order, with and without gaps, the last one perhaps open-ended."""
    bounds = sorted(draw(st.lists(moments, min_size=1, max_size=6, unique=True)))
    phases = [
        Phase(draw(st.sampled_from(SubscriptionState)), since, until)
        for since, until in pairwise(bounds)
        if draw(st.integers(0, 5))
    ]
    if draw(st.integers(0, 3)):
        phases.append(Phase(draw(st.sampled_from(SubscriptionState)), bounds[-1]))
    return tuple(phases)


running = st.just((Phase(SubscriptionState.ACTIVE, NOON - timedelta(days=100)),))


def subscriptions_named(*names: str) -> st.SearchStrategy[tuple[Subscription, ...]]:
    """One subscription of each name: half of them are live at every moment."""
    return st.tuples(
        *(
            st.builds(Subscription, st.just(name), st.just("pro"), st.just(1), running | lives())
            for name in names
        )
    )


provenances = st.builds(
    Provenance, kind=st.sampled_from(ProvenanceKind), id=st.sampled_from(["pro@1", "extra", "o1", "c1"])
)


def grants_of(*effects: GrantEffect, understood: bool = False) -> st.SearchStrategy[Grant]:
    """Grants of `FEATURE` with these effects; those that are not understood among them unless told."""
    return st.builds(
        Grant,
        feature=st.just(FEATURE),
        provenance=provenances,
        effect=st.sampled_from(effects),
        subscription_id=st.sampled_from(["", "s1", "s2", "elsewhere"]),
        since=st.none() | st.none() | moments,
        until=st.none() | st.none() | moments,
        enabled=st.sampled_from([True, True, True, False]),
        value=json_values,
        limits=st.lists(limits, max_size=3).map(tuple),
        priority=st.integers(-1, 2),
        understood=st.just(True) if understood else st.sampled_from([True] * 9 + [False]),
    )


ADDING, SETTING = GrantEffect.ADD, GrantEffect.SET
any_grants = grants_of(*[ADDING] * 4, *[SETTING] * 2, GrantEffect.DENY, GrantEffect.UNKNOWN)
understood_grants = grants_of(*[ADDING] * 4, SETTING, understood=True)


def told_apart(granted: list[Grant]) -> tuple[Grant, ...]:
    """Grants as a plan store names them: each by its own id, with one limit of each key."""
    return tuple(
        msgspec.structs.replace(
            one,
            provenance=Provenance(one.provenance.kind, f"{one.provenance.id}-{number}"),
            limits=tuple({limit.key: limit for limit in one.limits}.values()),
        )
        for number, one in enumerate(granted)
    )


@st.composite
def snapshots(draw: st.DrawFn, grants: st.SearchStrategy[Grant] = any_grants) -> Snapshot:
    """A tenant with up to two subscriptions and some grants of `FEATURE` and of another feature."""
    names = draw(st.sampled_from([(), ("s1",), ("s1",), ("s1", "s2"), ("s1", "s2")]))
    granted = draw(st.lists(grants, max_size=4))
    granted.append(Grant("another", Provenance(ProvenanceKind.PLAN, "pro@1")))
    return Snapshot("acme", 1, NOON, 1, draw(subscriptions_named(*names)), told_apart(granted))


plain_grants = st.builds(
    Grant,
    feature=st.just(FEATURE),
    provenance=provenances,
    effect=st.sampled_from([GrantEffect.ADD] * 5 + [GrantEffect.SET]),
    subscription_id=st.sampled_from(["", "s1", "s2"]),
    since=st.none() | moments.filter(lambda moment: moment < NOON),
    until=st.none() | moments.filter(lambda moment: moment > NOON),
    value=json_values,
    limits=st.lists(limits, min_size=1, max_size=3).map(tuple),
    priority=st.integers(-1, 2),
)
"""Grants that apply at noon and are limited where they are counted: the ones that leave most to decide."""


@st.composite
def paying(draw: st.DrawFn, grants: st.SearchStrategy[Grant] = plain_grants) -> Snapshot:
    """A tenant with two live subscriptions and some grants of `FEATURE`."""
    phases = draw(st.tuples(running, running | lives()))
    granted = draw(st.lists(grants, min_size=1, max_size=4))
    subscriptions = tuple(Subscription(f"s{n}", "pro", 1, one) for n, one in enumerate(phases, 1))
    return Snapshot("acme", 1, NOON, 1, subscriptions, told_apart(granted))


tenants = paying() | paying() | snapshots()
"""Mostly tenants that have something, so that answers are about it."""

requests = st.builds(
    CheckRequest,
    tenant_id=st.just("acme"),
    feature=st.sampled_from([FEATURE] * 19 + ["missing"]),
    mode=st.sampled_from(CheckMode),
    quantity=quantities,
    subject=st.sampled_from(["", "ada"]),
    requested_value=json_values,
    has_requested_value=st.booleans(),
)


def document_of(feature: Feature) -> CatalogueDocument:
    """A catalogue with one feature."""
    return CatalogueDocument(1, {feature.key: feature}, {})


# ---- authorities ----------------------------------------------------------------------------------------


class Counters:
    """An authority that counts purely: what was used of a limit or credit grant, its key alone decides.

    The same counters answer the same, whatever is asked and however often, so that two snapshots can be
    asked about the same usage.
    """

    def __init__(self, scale: int, *, before: int = 0, holds: bool = False) -> None:
        self._scale = scale
        self._before = before
        self._holds = holds

    def answer(self, ask: QuotaAsk, *, consuming: bool, now: datetime) -> QuotaUsage:
        """What is used, and whether the quantity is admitted when it is to be consumed."""
        if ask.resolution.buckets:
            return self._credits(ask, consuming=consuming, now=now)
        usages = tuple(self._limit(limit, now) for limit in ask.resolution.limits)
        holds = self._holds and ask.feature.kind is FeatureKind.SEATS and not ask.allowance
        fits = holds or all(u.soft or u.remaining is None or ask.quantity <= u.remaining for u in usages)
        added = ask.quantity if consuming and fits and not holds else 0
        return QuotaUsage(
            tuple(msgspec.structs.replace(usage, used=usage.used + added) for usage in usages),
            admitted=fits if consuming else None,
            as_of=now,
            holds=holds,
            allowance=ask.allowance,
        )

    def _used(self, key: str) -> int:
        return crc32(key.encode()) % (self._scale + 1)

    def _limit(self, limit: Limit, now: datetime) -> LimitUsage:
        window = window_at(limit.window, now)
        carried = carried_over(limit, Spent(self._before, 0)) if carries_over(limit, window) else 0
        used = self._used(limit.key)
        return LimitUsage(
            limit.key, limit.amount, limit.soft, window.start, window.end, used, carried=carried
        )

    def _credits(self, ask: QuotaAsk, *, consuming: bool, now: datetime) -> QuotaUsage:
        buckets = [
            bucket_usage(bucket, min(self._used(bucket.key), bucket.amount or 0))
            for bucket in ask.resolution.buckets
        ]
        taken = burn([bucket.remaining or 0 for bucket in buckets], ask.quantity)
        if consuming and taken is not None:
            pairs = zip(buckets, taken, strict=True)
            buckets = [msgspec.structs.replace(b, used=b.used + take, taken=take) for b, take in pairs]
        return QuotaUsage(tuple(buckets), admitted=taken is not None if consuming else None, as_of=now)


counters = st.builds(
    Counters,
    st.sampled_from([0, 1, 5, 12, 12, 200, MAX_QUANTITY]),
    before=st.integers(0, 20),
    holds=st.booleans(),
)
