"""As of when what the feed covers is true (DESIGN 6).

A heartbeat says: everything committed before T is published up to sequence n. A sidecar that has read the
feed up to n without a gap knows that what it holds is current as of T. With several shards the smallest
counts. Age is the larger of wall clock minus T and monotonic time since receipt, so that neither a jump of
the wall clock nor a stopped feed makes data look young.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.telemetry import metrics

STALE_AFTER = 3.0
"""Seconds without confirmation after which an answer says STALE."""


_STALE_AFTER = timedelta(seconds=STALE_AFTER)


class _Confirmation(msgspec.Struct, frozen=True):
    true_at: datetime
    received: float


class Freshness:
    """What the feed's heartbeats confirm."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._shards: dict[int, _Confirmation] = {}
        self._expected = 1
        self._weakest: _Confirmation | None = None
        self.generation = 0
        """Grows whenever `as_of` may have changed."""
        metrics.freshness_seconds.set_function(self.age)

    def begin(self, shards: int) -> None:
        """The feed (re)starts: nothing is confirmed until every shard has beaten."""
        self._expected = shards
        self._shards.clear()
        self._weakest = None
        self.generation += 1

    def beat(self, shard: int, true_at: datetime) -> None:
        """A heartbeat was read, and the feed up to it."""
        self._shards[shard] = _Confirmation(true_at, self._clock.monotonic())
        if len(self._shards) >= self._expected:
            heard = self._shards.values()
            # Both apart: a silent shard counts also where the clock that beats are of was set back.
            self._weakest = _Confirmation(min(c.true_at for c in heard), min(c.received for c in heard))
            self.generation += 1

    @property
    def as_of(self) -> datetime | None:
        """The instant as of which everything that the feed covers is true; None before the first beats."""
        return None if self._weakest is None else self._weakest.true_at

    def is_fresh(self, now: datetime) -> bool:
        """Whether what the feed covers was confirmed within `STALE_AFTER`; `now` is the wall clock."""
        weakest = self._weakest
        return (
            weakest is not None
            and now - weakest.true_at <= _STALE_AFTER
            and self._clock.monotonic() - weakest.received <= STALE_AFTER
        )

    def age(self) -> float:
        """Seconds since `as_of`; infinite before the first beats."""
        return float("inf") if self._weakest is None else self.age_of(self._weakest.true_at)

    @property
    def received(self) -> float | None:
        """When the beats that `as_of` rests on were read, on this process' monotonic clock."""
        return None if self._weakest is None else self._weakest.received

    def age_of(self, instant: datetime, received: float | None = None) -> float:
        """Seconds since an instant of which it was learned at `received`, on the monotonic clock.

        An instant of the feed's own beats needs no `received`: it is known here.
        """
        age = (self._clock.now() - instant).total_seconds()
        if self._weakest is not None and instant == self._weakest.true_at:
            # Whoever heard of it last has heard of it; none knows more than that.
            received = self._weakest.received if received is None else max(received, self._weakest.received)
        if received is not None:
            age = max(age, self._clock.monotonic() - received)
        return max(0.0, age)
