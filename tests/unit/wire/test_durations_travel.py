"""Durations as messages carry them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entitlement_sidecar.wire.codec import from_duration, to_duration


@given(st.integers(0, 999_999_999 * 86400))
@example(30_000_100 * 86400)
def test_whole_seconds_are_exact(seconds: int) -> None:
    """As many as a catalogue file can say."""
    assert from_duration(to_duration(float(seconds))) == seconds


@given(st.floats(0, 1e6))
@example(0.9999999999)
def test_parts_of_seconds_are_kept(seconds: float) -> None:
    """To the billionth, which never is a whole second more of them."""
    sent = to_duration(seconds)

    assert 0 <= sent.nanos < 1_000_000_000
    assert from_duration(sent) == pytest.approx(seconds, abs=2e-9)
