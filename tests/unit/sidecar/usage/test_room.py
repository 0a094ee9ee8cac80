"""Levels of an outbox: what is taken, and what is said when."""

from __future__ import annotations

import pytest

from entitlement_sidecar.sidecar.usage.room import Level, RoomWatch, level_of, refuses


@pytest.mark.parametrize(
    ("fill", "level"),
    [
        (0.0, Level.ROOMY),
        (0.69, Level.ROOMY),
        (0.7, Level.HIGH),
        (0.85, Level.BILLABLE_ONLY),
        (0.95, Level.FULL),
        (1.2, Level.FULL),
    ],
)
def test_levels(fill: float, level: Level) -> None:
    """Each holds from its watermark on."""
    assert level_of(fill) is level


@pytest.mark.parametrize(
    ("taken", "billable", "refused"),
    [(85, False, False), (86, False, True), (86, True, False), (95, True, False), (96, True, True)],
)
def test_what_is_refused(taken: int, billable: bool, refused: bool) -> None:
    """Up to its watermark usage is taken."""
    assert refuses(taken, 100, billable=billable) is refused


def test_an_outbox_without_room_takes_nothing() -> None:
    """Not even the smallest event."""
    assert refuses(1, 0, billable=True)


def test_a_level_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """However often it is looked at around its watermark; each higher one is said too."""
    watch = RoomWatch()
    for fill in (0.1, 0.71, 0.69, 0.72, 0.9, 0.84, 0.86, 0.96, 0.99, 0.94):
        watch.look(fill)

    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the outbox is 71 % full",
        "the outbox is 90 % full",
        "the outbox is 96 % full",
    ]


def test_a_level_is_said_again_after_it_was_left(caplog: pytest.LogCaptureFixture) -> None:
    """Well below its watermark it is over."""
    watch = RoomWatch()
    for fill in (0.75, 0.5, 0.75):
        watch.look(fill)

    assert len(caplog.records) == 2
