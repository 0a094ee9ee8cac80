"""How many batches are settled at once, and when senders are asked to slow down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from entitlement_sidecar.domain.errors import ExhaustedError
from entitlement_sidecar.planstore.ingest.load import LONGEST_WAIT, IngestLoad


def clock(*instants: float) -> Iterator[float]:
    """What a clock says, one look after the other."""
    yield from instants


def settle(load: IngestLoad, batches: int) -> None:
    """Lets batches in, one after the other."""
    for _ in range(batches):
        with load.admitted():
            pass


def test_more_than_there_is_room_for_is_refused() -> None:
    """At once, with when to come back; there is room again once one has ended, also by an error."""
    load = IngestLoad(at_once=1)
    with load.admitted(), pytest.raises(ExhaustedError) as refused, load.admitted():
        pass
    with pytest.raises(RuntimeError), load.admitted():
        raise RuntimeError
    settle(load, 1)

    assert refused.value.retry_after == 1.0


@pytest.mark.parametrize(
    ("seconds", "wait"), [(0.05, 0.0), (0.9, 0.0), (3.0, pytest.approx(3.0, rel=0.01)), (90.0, LONGEST_WAIT)]
)
def test_senders_are_slowed_down_while_batches_take_long(seconds: float, wait: float) -> None:
    """By as long as a batch takes on average, up to a bound; not at all while they are quick."""
    ticks = clock(*(one for number in range(40) for one in (number * 100.0, number * 100.0 + seconds)))
    load = IngestLoad(monotonic=lambda: next(ticks))

    settle(load, 40)

    assert load.slow_down == wait
