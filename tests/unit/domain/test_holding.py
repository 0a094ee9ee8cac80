"""What a holder may use, and what it tells: leases from the other side."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from entitlement_sidecar.domain.lease import (
    GUARD,
    TTL,
    Holding,
    Terms,
    Told,
    ask,
    finish,
    former,
    give_up,
    hear,
    tell,
    use,
)


def test_a_holder_uses_what_it_was_granted_until_its_time_is_over() -> None:
    """From when it asked, not from when it was answered; the guard before the end is not used."""
    holding = hear(ask(Holding(), 100.0), Terms(5, 1))

    assert holding.until == 100.0 + TTL - GUARD
    assert use(holding, 3, holding.until - 1) == replace(holding, used=3)
    assert use(holding, 6, holding.until - 1) is None
    assert use(holding, 1, holding.until) is None


def test_nothing_is_used_before_it_is_heard() -> None:
    """A request under way grants nothing yet."""
    assert use(ask(Holding(), 100.0), 1, 100.0) is None


def test_only_the_answer_to_the_last_request_prolongs() -> None:
    """That of one before it tells totals, which are true, but says nothing of the time."""
    holding = ask(hear(ask(Holding(), 100.0), Terms(5, 1)), 110.0)

    late = hear(holding, Terms(6, 1))
    assert (late.granted, late.until, late.sent) == (6, 100.0 + TTL - GUARD, 110.0)

    answered = hear(late, Terms(8, 2))
    assert (answered.granted, answered.until, answered.sent) == (8, 110.0 + TTL - GUARD, None)


def test_answers_never_take_anything_away() -> None:
    """An old one that comes late says less than what is known."""
    holding = hear(ask(Holding(), 100.0), Terms(5, 1))

    assert hear(holding, Terms(3, 0)) == holding


def test_a_closed_account_prolongs_nothing() -> None:
    """What the holder has may be used to the end of its time, and no longer."""
    holding = ask(hear(ask(Holding(), 100.0), Terms(5, 1)), 110.0)

    closed = hear(holding, Terms(5, 2, closed=True))

    assert closed.closed
    assert closed.until == holding.until


def test_what_is_given_up_is_not_used_any_more() -> None:
    """Before anybody is told of it."""
    holding = Holding(granted=5, used=2, until=1.0)

    assert give_up(holding, 1).left == 2
    rest = give_up(holding)
    assert rest.told == Told(0, used=2, returned=3)
    assert use(rest, 1, 0.0) is None
    assert give_up(rest, 4) == rest


@pytest.mark.parametrize("send", [tell, lambda holding: ask(holding, 0.0)], ids=["settle", "ask"])
def test_only_returns_that_a_lost_block_never_heard_of_are_told_to_the_root(
    send: Callable[[Holding], Holding],
) -> None:
    """What it may have heard of it may have granted to somebody else."""
    holding = send(give_up(Holding(granted=9, used=2), 3))

    assert holding.estranged == Told(holding.sequence, used=2, returned=0)
    assert give_up(holding).estranged == Told(holding.sequence, used=2, returned=4)


def test_a_restarted_holder_tells_what_its_journal_proves() -> None:
    """Everything that it heard of and did not use comes back; to a root that never granted it, nothing."""
    past = former(granted=9, used=2)

    assert past.told == Told(0, used=2, returned=7)
    assert past.estranged == Told(0, used=2, returned=0)
    assert use(past, 1, 0.0) is None


def test_a_holder_that_has_finished_uses_nothing_more_whatever_it_hears() -> None:
    """Its grantor takes back what it was granted meanwhile as well."""
    holding = ask(hear(ask(Holding(), 100.0), Terms(5, 1)), 110.0)

    over = finish(holding)

    assert over.told == Told(2, used=0, returned=5)
    late = hear(over, Terms(9, 2))
    assert use(late, 1, 110.0) is None
