"""No order of anything that may happen admits more than the limit: every reachable state is looked at.

What is bounded is how often things happen, scenario by scenario; within its bounds each is complete. Messages
are not bounded: each may be lost, late, repeated without end, and overtaken by any other.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from model.protocol import Protocol
from model.search import Search
from model.states import Bounds


class Scenario(NamedTuple):
    """What may happen, and the most that was ever used at once: less than the limit only where it must be."""

    name: str
    bounds: Bounds
    most: int = 5


SCENARIOS = [
    Scenario("each asks twice", Bounds(asks=2, tells=0, sizes=(5,))),
    Scenario("blocks grow and shrink", Bounds(grows=2, sizes=(2, 3), shrinks=1, consumes=1, parts=False)),
    Scenario("holders crash", Bounds(grows=2, crashes=1, restarts=1)),
    Scenario("failover", Bounds(tells=0, blocks=2, grows=2, failovers=1)),
    Scenario("a replica missed writes", Bounds(tells=0, sizes=(5,), failovers=1, copies=1)),
    Scenario("a lost block told to the root", Bounds(sizes=(5,), failovers=1, consumes=1, parts=False)),
    Scenario(
        "a block that shrank is flushed",
        Bounds(holders=2, amounts=(3,), shrinks=1, flushes=1, consumes=2, parts=False),
    ),
    Scenario(
        "failover, and a holder crashes",
        Bounds(holders=2, amounts=(3,), failovers=1, crashes=1, consumes=2, parts=False),
    ),
    Scenario("a flush", Bounds(tells=0, blocks=2, flushes=1), most=3),
    Scenario(
        "a flush and a block after it", Bounds(holders=2, tells=0, blocks=2, grows=2, flushes=1), most=4
    ),
    Scenario("the root alone, holders crash", Bounds(blocks=0, direct=True, crashes=1, restarts=1)),
    Scenario(
        "the root alone, leases end",
        Bounds(holders=2, asks=2, tells=0, amounts=(3,), blocks=0, direct=True, ends=True),
    ),
    Scenario(
        "a block, leases end, failover",
        Bounds(holders=2, amounts=(3,), tells=0, failovers=1, consumes=2, parts=False, ends=True),
    ),
    Scenario(
        "the root alone, silent holders reclaimed",
        Bounds(tells=0, blocks=0, direct=True, ticks=2, reclaims=True),
        most=6,
    ),
    Scenario(
        "the root and a block, silent holders reclaimed",
        Bounds(limit=2, holders=2, tells=0, sizes=(1,), amounts=(1,), direct=True, ticks=2, reclaims=True),
        most=2,
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name.replace(" ", "-"))
def test_no_state_admits_more_than_the_limit(scenario: Scenario) -> None:
    """Every state is as it must be, and all that may be used is used in one of them."""
    found = Search(Protocol(scenario.bounds)).run()

    assert not found.broken, "\n".join(found.trace)
    assert found.most_uses == scenario.most
