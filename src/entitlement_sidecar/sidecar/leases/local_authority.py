"""The authority of a sidecar that has no plan store: it counts alone, in memory.

Its truth ends with the process: a restart begins every window anew. Sites that share a limit between
sidecars, or need it to survive, run a plan store. It also counts offline allowances, and it is the twin that
the contract suite holds the root authority against.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from typing import TypeVar

import msgspec

from entitlement_sidecar.domain.catalogue import FeatureKind, Limit
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import IdempotencyConflictError
from entitlement_sidecar.domain.quota import (
    LimitUsage,
    QuotaAsk,
    QuotaUsage,
    Spent,
    bucket_usage,
    burn,
    carried_over,
    carries_over,
    previous_window,
)
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.window import Window, window_at
from entitlement_sidecar.sidecar.leases.authority import NothingLeased
from entitlement_sidecar.sidecar.leases.views import first_end

MAX_COUNTERS = 1_000_000
"""Counters kept at most, over all tenants, features and windows; the least recently used goes first."""

MAX_SEATS = 1_000_000
"""Seats kept at most, over all tenants and windows; the one taken longest ago goes first."""

MAX_VIEWS = 100_000
"""Views remembered at most."""

VIEWED_FOR = timedelta(seconds=5)
"""How long a view is given again while nothing is consumed: nobody else counts, so it stays true."""

MAX_REQUESTS = 100_000
"""Request ids remembered at most."""

_NEVER = datetime.max.replace(tzinfo=UTC)

_Key = tuple[str, str, str, datetime]
_T = TypeVar("_T")
_K = TypeVar("_K")


class _View(msgspec.Struct, frozen=True):
    """What was counted during `[since, until)`, while nothing was consumed."""

    usage: QuotaUsage
    resolution: Resolution
    since: datetime
    until: datetime


class LocalAuthority(NothingLeased):
    """Counts what it admitted: per tenant, feature, limit and window, per seat, per credit grant."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent: OrderedDict[_Key, Spent] = OrderedDict()
        self._seats: OrderedDict[tuple[_Key, str], None] = OrderedDict()
        self._views: OrderedDict[tuple[str, str], _View] = OrderedDict()
        self._requests: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()
        self._ending: list[tuple[datetime, _Key]] = []
        self._journal: list[Callable[[], None]] | None = None

    def view(self, tenant_id: str, ask: QuotaAsk, max_age: float | None) -> QuotaUsage:
        """Usage now. Asked again, the same view for a while, unless something was consumed meanwhile."""
        now = self._clock.now()
        if ask.feature.kind is FeatureKind.SEATS:
            # Of each subject there is another view.
            return self._look(tenant_id, ask, now)
        view = self._views.get((tenant_id, ask.feature.key))
        if (
            view is not None
            and max_age is None
            and (view.resolution is ask.resolution or view.resolution == ask.resolution)
            and view.since <= now < view.until
        ):
            return view.usage
        usage = self._look(tenant_id, ask, now)
        until = min(now + VIEWED_FOR, first_end(usage.limits) or _NEVER)
        _keep(self._views, (tenant_id, ask.feature.key), _View(usage, ask.resolution, now, until), MAX_VIEWS)
        return usage

    def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:
        """Admits all or nothing; an admitted request id is admitted once.

        Raises:
            IdempotencyConflictError: The request id came before with another feature or quantity.
        """
        now = self._clock.now()
        repeated = self._repeated(tenant_id, ask, request_id)
        shares = [0] * len(_keys(tenant_id, ask, now)) if repeated else self._shares(tenant_id, ask, now)
        if shares is not None and not repeated:
            self._take(tenant_id, ask, shares, now)
            self._put(self._requests, (tenant_id, request_id), (ask.feature.key, ask.quantity), MAX_REQUESTS)
        after = self._look(tenant_id, ask, now)
        if shares is None:
            return msgspec.structs.replace(after, admitted=False)
        limits = after.limits
        if ask.resolution.buckets:
            limits = tuple(
                msgspec.structs.replace(one, taken=share) for one, share in zip(limits, shares, strict=True)
            )
        # An allowance is nobody's admission: its usage has to be counted when it arrives.
        lease_id = "" if ask.allowance else "local"
        return msgspec.structs.replace(after, limits=limits, admitted=True, lease_id=lease_id)

    def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> tuple[bool, list[QuotaUsage]]:
        """Admits everything or nothing; see `QuotaAuthority`."""
        journal = self._journal = []
        try:
            answers = [self.consume(tenant_id, ask, request_id) for ask, request_id in asks]
            whole = all(answer.admitted for answer in answers)
        except BaseException:
            _undo(journal)
            raise
        finally:
            self._journal = None
        if not whole:
            _undo(journal)
        return whole, answers

    def _look(self, tenant_id: str, ask: QuotaAsk, now: datetime) -> QuotaUsage:
        if ask.resolution.buckets:
            keys = _keys(tenant_id, ask, now)
            pairs = zip(ask.resolution.buckets, keys, strict=True)
            limits = tuple(bucket_usage(bucket, self._used(key)) for bucket, key in pairs)
        else:
            limits = tuple(self._usage(tenant_id, ask, limit, now) for limit in ask.resolution.limits)
        return QuotaUsage(limits, as_of=now, holds=self._holds(tenant_id, ask, now), allowance=ask.allowance)

    def _usage(self, tenant_id: str, ask: QuotaAsk, limit: Limit, now: datetime) -> LimitUsage:
        window = window_at(limit.window, now)
        key = (tenant_id, ask.feature.key, limit.key, window.start)
        spent = self._spent.get(key) or Spent(0, self._carried(key, limit, window))
        return LimitUsage(
            limit.key,
            limit.amount,
            limit.soft,
            window.start,
            window.end,
            spent.used,
            carried=spent.carried,
            holds=(key, ask.subject) in self._seats,
        )

    def _carried(self, key: _Key, limit: Limit, window: Window) -> int:
        if not carries_over(limit, window):
            return 0
        return carried_over(limit, self._spent.get((*key[:3], previous_window(limit, window).start)))

    def _used(self, key: _Key) -> int:
        spent = self._spent.get(key)
        return spent.used if spent else 0

    def _holds(self, tenant_id: str, ask: QuotaAsk, now: datetime) -> bool:
        if ask.feature.kind is not FeatureKind.SEATS:
            return False
        return all((key, ask.subject) in self._seats for key in _keys(tenant_id, ask, now))

    def _shares(self, tenant_id: str, ask: QuotaAsk, now: datetime) -> list[int] | None:
        """What to take of each limit or credit grant; None when it does not fit."""
        usage = self._look(tenant_id, ask, now)
        if ask.resolution.buckets:
            return burn([limit.remaining or 0 for limit in usage.limits], ask.quantity)
        shares = [ask.quantity] * len(usage.limits)
        if ask.feature.kind is FeatureKind.SEATS:
            shares = [int((key, ask.subject) not in self._seats) for key in _keys(tenant_id, ask, now)]
        fits = all(one.soft or _fits(one, share) for one, share in zip(usage.limits, shares, strict=True))
        return shares if fits else None

    def _take(self, tenant_id: str, ask: QuotaAsk, shares: Sequence[int], now: datetime) -> None:
        self._forget_ended(now)
        self._views.pop((tenant_id, ask.feature.key), None)
        usage = self._look(tenant_id, ask, now)
        for key, one, share in zip(_keys(tenant_id, ask, now), usage.limits, shares, strict=True):
            if key not in self._spent and one.reset_at is not None:
                heappush(self._ending, (_needed_until(one), key))
            self._put(self._spent, key, Spent(one.used + share, one.carried), MAX_COUNTERS)
            if ask.feature.kind is FeatureKind.SEATS:
                self._put(self._seats, (key, ask.subject), None, MAX_SEATS)

    def _forget_ended(self, now: datetime) -> None:
        """Counters of windows that nobody asks about any more."""
        while self._ending and self._ending[0][0] <= now:
            self._spent.pop(heappop(self._ending)[1], None)

    def _put(self, kept: OrderedDict[_K, _T], key: _K, value: _T, most: int) -> None:
        """Keeps a value, and how to have it as it was while several amounts are admitted together."""
        if self._journal is not None:
            had, before = key in kept, kept.get(key)
            self._journal.append(lambda: _restore(kept, key, before, had=had))
        _keep(kept, key, value, most)

    def _repeated(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> bool:
        if ask.feature.kind is FeatureKind.SEATS:
            # A seat is taken once per subject, whatever the request is called.
            return False
        first = self._requests.get((tenant_id, request_id))
        if first is not None and first != (ask.feature.key, ask.quantity):
            raise IdempotencyConflictError(
                f"request_id {request_id!r} was used for {first[1]} of {first[0]!r}, "
                f"not {ask.quantity} of {ask.feature.key!r}"
            )
        return first is not None


class NoAuthority(NothingLeased):
    """Stands where no authority is configured: counted features answer by their outage policy."""

    def view(self, tenant_id: str, ask: QuotaAsk, max_age: float | None) -> QuotaUsage:  # noqa: ARG002
        """Nobody can say."""
        return QuotaUsage(unavailable=True)

    def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:  # noqa: ARG002
        """Nobody can admit."""
        return QuotaUsage(unavailable=True)

    def consume_all(
        self,
        tenant_id: str,  # noqa: ARG002
        asks: Sequence[tuple[QuotaAsk, str]],
    ) -> tuple[bool, list[QuotaUsage]]:
        """Nobody can admit."""
        return False, [QuotaUsage(unavailable=True) for _ in asks]


def _keys(tenant_id: str, ask: QuotaAsk, now: datetime) -> list[_Key]:
    """Names of what is counted: credit grants in burn order, or limits in their windows."""
    feature = ask.feature.key
    if ask.resolution.buckets:
        return [(tenant_id, feature, bucket.key, bucket.since) for bucket in ask.resolution.buckets]
    return [
        (tenant_id, feature, limit.key, window_at(limit.window, now).start) for limit in ask.resolution.limits
    ]


def _keep(kept: OrderedDict[_K, _T], key: _K, value: _T, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _restore(kept: OrderedDict[_K, _T], key: _K, before: _T | None, *, had: bool) -> None:
    if had:
        kept[key] = before  # type: ignore[assignment]  # as it was
    else:
        kept.pop(key, None)


def _undo(journal: list[Callable[[], None]]) -> None:
    for undo in reversed(journal):
        undo()


def _needed_until(usage: LimitUsage) -> datetime:
    """A window is asked about until it ends, and by what it carries over until the next one does."""
    end = usage.reset_at or _NEVER
    return end + (end - usage.window_start) + timedelta(days=3)


def _fits(usage: LimitUsage, quantity: int) -> bool:
    return usage.remaining is None or quantity <= usage.remaining
