"""As of when: the weakest shard counts, and no clock trick makes data look young."""

from __future__ import annotations

from datetime import timedelta

from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.testing import FakeClock


def test_nothing_is_confirmed_before_every_shard_has_beaten() -> None:
    """One silent shard may hide a change."""
    clock = FakeClock()
    freshness = Freshness(clock)
    freshness.begin(2)
    freshness.beat(0, clock.now())
    assert freshness.as_of is None
    freshness.beat(1, clock.now() - timedelta(seconds=1))
    assert freshness.as_of == clock.now() - timedelta(seconds=1)


def test_a_wall_clock_set_back_does_not_make_data_young() -> None:
    """The monotonic time since receipt counts as well."""
    clock = FakeClock()
    freshness = Freshness(clock)
    freshness.begin(1)
    freshness.beat(0, clock.now())
    clock.advance(10)
    clock.jump(-3600)
    assert freshness.age() == 10


def test_a_wall_clock_set_forth_makes_data_old() -> None:
    """The larger of both ages is told: better too old than too young."""
    clock = FakeClock()
    freshness = Freshness(clock)
    freshness.begin(1)
    freshness.beat(0, clock.now())
    clock.jump(3600)
    assert freshness.age() == 3600


def test_a_feed_that_begins_again_confirms_nothing_yet() -> None:
    """Redis may have been restored from an old dump."""
    clock = FakeClock()
    freshness = Freshness(clock)
    freshness.begin(1)
    freshness.beat(0, clock.now())
    freshness.begin(1)
    assert freshness.as_of is None
    assert freshness.age() == float("inf")


def test_a_source_s_own_word_ages_though_the_wall_clock_is_set_back() -> None:
    """With the monotonic time since it was received."""
    clock = FakeClock()
    freshness = Freshness(clock)
    said, received = clock.now(), clock.monotonic()
    clock.advance(10)
    clock.jump(-3600)
    assert freshness.age_of(said, received) == 10


def test_a_silent_shard_counts_though_the_beats_of_others_are_of_an_earlier_time() -> None:
    """The clock that beats are of was set back."""
    clock = FakeClock()
    freshness = Freshness(clock)
    freshness.begin(2)
    freshness.beat(0, clock.now())
    clock.advance(10)
    clock.jump(-10)
    freshness.beat(1, clock.now() - timedelta(seconds=1))
    assert freshness.age() == 10
    assert not freshness.is_fresh(clock.now())
