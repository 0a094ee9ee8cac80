"""Every grantor of leases does what the transition functions say, whatever comes twice, late or reordered."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from entitlement_sidecar.domain.lease import DRIFT, TTL, Account, Outcome, Told
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.testing.memory_grantor import MemoryGrantor
from support.grantors import Grantor, seconds

Grantors = Callable[..., Grantor]


def opened(grantor: Grantor, name: str, wants: int) -> Outcome:
    """An account that had to be opened."""
    outcome = grantor.open(name, wants)
    assert outcome is not None
    return outcome


def account(grantor: Grantor, name: str) -> Account:
    """An account that has to be there."""
    found = grantor.read(name)
    assert found is not None
    return found


def test_an_account_holds_what_it_was_granted(grantors: Grantors) -> None:
    """What one holder has nobody else can get."""
    grantor = grantors(10)

    outcome = opened(grantor, "one", 4)

    assert (outcome.granted, outcome.terms.granted, outcome.terms.sequence) == (4, 4, 1)
    assert (account(grantor, "one").outstanding, grantor.free) == (4, 6)


def test_the_last_grant_is_smaller(grantors: Grantors) -> None:
    """Who wants more than there is gets what there is, and the next one nothing and no account."""
    grantor = grantors(5)
    opened(grantor, "one", 3)

    assert opened(grantor, "two", 3).granted == 2
    assert grantor.open("three", 1) is None
    assert grantor.read("three") is None


def test_opening_twice_grants_once(grantors: Grantors) -> None:
    """The same request again gets the same totals."""
    grantor = grantors(10)
    first = opened(grantor, "one", 4)

    again = opened(grantor, "one", 4)

    assert (again.terms, again.granted, grantor.free) == (first.terms, 0, 6)


def test_a_renewal_tells_and_asks_at_once(grantors: Grantors) -> None:
    """What is returned with a request may be granted with it."""
    grantor = grantors(5)
    opened(grantor, "one", 5)

    outcome = grantor.grant("one", Told(2, used=2, returned=3), 4)

    assert (outcome.used, outcome.freed, outcome.granted) == (2, 3, 3)
    assert (outcome.terms.granted, grantor.free) == (8, 0)


def test_a_request_twice_is_granted_once(grantors: Grantors) -> None:
    """Whether the answer was lost or the network repeats: the totals say it all."""
    grantor = grantors(10)
    opened(grantor, "one", 2)
    first = grantor.grant("one", Told(2, 1, 0), 3)

    again = grantor.grant("one", Told(2, 1, 0), 3)

    assert (again.granted, again.used, again.terms) == (0, 0, first.terms)
    assert grantor.free == 5


def test_an_older_message_changes_nothing(grantors: Grantors) -> None:
    """The larger totals are the newer ones."""
    grantor = grantors(10)
    opened(grantor, "one", 6)
    grantor.settle("one", Told(3, used=4, returned=2))

    late = grantor.settle("one", Told(2, used=1, returned=0))

    assert (late.used, late.freed) == (0, 0)
    assert account(grantor, "one").outstanding == 0


def test_more_than_was_granted_is_not_believed(grantors: Grantors) -> None:
    """A holder that lies about its totals frees nothing that others have."""
    grantor = grantors(10)
    opened(grantor, "one", 3)

    grantor.settle("one", Told(2, used=1, returned=100))

    assert (account(grantor, "one").returned, grantor.free) == (2, 9)


def test_a_lost_holders_tokens_stay_spent(grantors: Grantors, clock: FakeClock) -> None:
    """Of a hard limit nothing comes back but what the holder still tells."""
    grantor = grantors(10)
    opened(grantor, "one", 4)
    assert not grantor.lose("one").account.closed
    clock.advance(TTL + 1)

    grantor.lose("one")
    refused = grantor.grant("one", Told(2, 1, 0), 3)

    assert (refused.granted, refused.terms.closed, grantor.free) == (0, True, 6)
    grantor.settle("one", Told(3, used=1, returned=3))
    assert (account(grantor, "one").outstanding, grantor.free) == (0, 9)


def test_a_soft_limit_takes_back(grantors: Grantors, clock: FakeClock) -> None:
    """Once no clock can let the holder use them; what it had used all the same is counted again."""
    grantor = grantors(10, soft=True)
    opened(grantor, "one", 4)
    clock.advance(TTL + 1)
    assert not grantor.lose("one").account.closed
    clock.advance(DRIFT)

    assert (grantor.lose("one").freed, grantor.free) == (4, 10)
    late = grantor.settle("one", Told(2, used=3, returned=0))

    assert (late.used, late.overdrawn, grantor.free) == (3, 3, 7)


def test_a_holder_that_has_finished(grantors: Grantors) -> None:
    """All that it did not use comes back, heard of or not, and no late request gets anything."""
    grantor = grantors(10)
    opened(grantor, "one", 4)
    grantor.grant("one", Told(2, used=1, returned=0), 3)

    outcome = grantor.end("one", 2)

    assert (outcome.used, outcome.freed, outcome.terms.closed, grantor.free) == (1, 5, True, 8)
    assert grantor.end("one", 2).freed == 0
    assert grantor.grant("one", Told(3, used=2, returned=0), 3).granted == 0


def test_a_known_loss_needs_no_waiting(grantors: Grantors) -> None:
    """Whose Redis is another one now does not come back."""
    grantor = grantors(10)
    opened(grantor, "one", 4)

    assert grantor.lose("one", known=True).account.closed
    assert grantor.free == 6


def test_a_limit_that_lost_much_grants_no_leases(grantors: Grantors) -> None:
    """Past a tenth nothing is granted until a person or the holder itself has given it back."""
    grantor = grantors(20)
    opened(grantor, "one", 2)
    opened(grantor, "two", 1)
    grantor.lose("one", known=True)
    assert opened(grantor, "three", 1).granted == 1
    grantor.lose("two", known=True)

    assert grantor.open("four", 1) is None
    assert grantor.grant("three", Told(2, 0, 0), 5).granted == 0
    grantor.settle("two", Told(2, used=1, returned=0))

    assert grantor.grant("three", Told(3, 0, 0), 5).granted == 5


def test_released_by_hand(grantors: Grantors) -> None:
    """A person may take back what a lost holder has; of an open account nothing is taken."""
    grantor = grantors(10)
    opened(grantor, "one", 4)
    grantor.release("one")
    assert grantor.free == 6
    grantor.lose("one", known=True)

    assert grantor.release("one").freed == 4

    assert (grantor.release("one").freed, grantor.free) == (0, 10)


def test_a_lost_holder_whose_uses_are_all_known(grantors: Grantors) -> None:
    """What it did not use comes back, but not while it is open; what it tells of more is counted again."""
    grantor = grantors(10)
    opened(grantor, "one", 6)
    assert grantor.account_for("one", 2).freed == 0
    grantor.lose("one", known=True)

    assert (grantor.account_for("one", 2).freed, grantor.free) == (4, 8)

    late = grantor.settle("one", Told(0, 3, 0))
    assert (late.used, late.overdrawn, grantor.free) == (1, 1, 7)


def test_holders_of_a_lost_block(grantors: Grantors) -> None:
    """They settle and return here, are believed once, and together at most what the block was granted."""
    grantor = grantors(10)
    opened(grantor, "block", 6)
    assert grantor.adopt("block", "a", Told(1, 0, 3)).freed == 0
    grantor.lose("block", known=True)

    assert grantor.adopt("block", "a", Told(2, used=2, returned=1)).freed == 1
    assert grantor.adopt("block", "a", Told(2, used=2, returned=1)).freed == 0
    assert grantor.adopt("block", "b", Told(9, used=1, returned=50)).freed == 2

    assert (account(grantor, "block").used, account(grantor, "block").outstanding, grantor.free) == (3, 0, 7)


@pytest.mark.parametrize("seed", range(12))
def test_any_history_ends_as_in_the_twin(grantors: Grantors, clock: FakeClock, seed: int) -> None:
    """Random requests, many of them repeated or reordered, have the same outcomes everywhere."""
    grantor, twin = grantors(20), MemoryGrantor(20, lambda: seconds(clock))
    random = Random(seed)  # noqa: S311 - a test's histories

    for _ in range(40):
        step = _step(random)
        assert step(grantor) == step(twin)
        assert grantor.free == twin.free >= 0
        if random.random() < 0.1:
            clock.advance(TTL)


def _step(random: Random) -> Callable[[Any], object]:
    name, wants = random.choice("abc"), random.randint(0, 6)
    told = Told(random.randint(1, 12), random.randint(0, 9), random.randint(0, 6))
    steps: list[Callable[[Any], object]] = [
        lambda one: one.open(name, max(1, wants)),
        lambda one: one.grant(name, told, wants) if one.read(name) else None,
        lambda one: one.grant(name, told, wants) if one.read(name) else None,
        lambda one: one.settle(name, told) if one.read(name) else None,
        lambda one: one.lose(name) if one.read(name) else None,
        lambda one: one.end(name, told.used) if one.read(name) else None,
        lambda one: one.release(name) if one.read(name) else None,
        lambda one: one.account_for(name, told.used) if one.read(name) else None,
        lambda one: one.adopt(name, "h", told) if one.read(name) else None,
    ]
    return random.choice(steps)
