"""Leases: what accounts and holdings become, by example and by property."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from entitlement_sidecar.domain.lease import (
    DRIFT,
    Account,
    Holding,
    OnHolderLoss,
    Outcome,
    Terms,
    Told,
    absorb,
    account_for,
    adopt,
    end,
    give_up,
    grant,
    lose,
    release,
    use,
)
from unit.domain.generated import quick

amounts = st.integers(0, 20)
tolds = st.builds(Told, sequence=st.integers(0, 5), used=amounts, returned=amounts)
losses = st.sampled_from(OnHolderLoss)


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    """An account as any history may leave it: open, forfeited, or reclaimed."""
    granted = draw(amounts)
    used = draw(st.integers(0, granted))
    returned = draw(st.integers(0, granted - used))
    account = Account(granted, used, returned, draw(st.integers(0, 5)), draw(st.floats(0, 100)))
    if draw(st.booleans()):
        account = lose(account, 1000.0, draw(losses)).account
    return account


@st.composite
def histories(draw: st.DrawFn, granted: int = 20) -> list[Told]:
    """What one honest holder says, one after the other: totals that only grow, of what it was granted."""
    holding = Holding(granted=granted, until=1.0)
    said = []
    for quantity, uses in draw(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=6)):
        after = use(holding, quantity, 0.0) if uses else give_up(holding, quantity)
        holding = holding if after is None else after
        said.append(holding.told)
    return said


def told_all(account: Account, said: list[Told]) -> Account:
    """The account after it was told all of this, in this order."""
    for told in said:
        account = absorb(account, told).account
    return account


# ---- what a grantor takes over ------------------------------------------------------------------------


def test_what_was_used_and_returned_is_taken_over_as_totals() -> None:
    """Only what is new since the last message counts."""
    heard = absorb(Account(granted=10, used=2, returned=1), Told(1, used=5, returned=3))

    assert heard == Outcome(Account(granted=10, used=5, returned=3), granted=0, freed=2, used=3)


def test_more_than_was_granted_is_not_believed() -> None:
    """Uses go first: of what is left, returns are believed."""
    heard = absorb(Account(granted=10), Told(1, used=8, returned=9))

    assert (heard.used, heard.freed) == (8, 2)
    assert heard.account.outstanding == 0


@quick(300)
@given(accounts(), tolds)
def test_totals_only_grow_and_stay_within_what_was_granted(account: Account, told: Told) -> None:
    """Whatever is said, by whomever."""
    after = absorb(account, told).account

    assert after.used >= account.used
    assert after.returned >= account.returned
    assert after.used + after.returned <= after.granted
    assert after.outstanding >= 0


@quick(300)
@given(accounts(), tolds)
def test_what_is_said_twice_is_taken_over_once(account: Account, told: Told) -> None:
    """The second time nothing is new."""
    once = absorb(account, told).account

    assert absorb(once, told) == Outcome(once, 0, 0, 0)


@quick(200)
@given(histories(), st.randoms(use_true_random=False), losses, st.booleans())
def test_the_order_in_which_a_holder_is_heard_changes_nothing(
    said: list[Told], order: Random, on_loss: OnHolderLoss, lost: bool
) -> None:
    """Of whatever order, with or without repetition, the end is that of the last message alone."""
    account = Account(granted=20)
    account = lose(account, 1000.0, on_loss).account if lost else account
    shuffled = said * 2
    order.shuffle(shuffled)

    assert told_all(account, shuffled) == told_all(account, said[-1:])


# ---- what is granted ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wants", "free", "granted"), [(3, 5, 3), (5, 5, 5), (7, 5, 5), (7, 0, 0), (7, -2, 0)]
)
def test_what_is_wanted_is_granted_as_far_as_it_is_free(wants: int, free: int, granted: int) -> None:
    """Also nothing: the request is numbered, and prolongs what the holder has, all the same."""
    outcome = grant(Account(granted=2), Told(1, 0, 0), wants, free, 30.0)

    assert outcome.granted == granted
    assert outcome.account == Account(granted=2 + granted, sequence=1, expires_at=30.0)
    assert outcome.terms == Terms(2 + granted, 1)


def test_what_comes_back_with_a_request_is_free_for_it() -> None:
    """The holder changes unused tokens for a longer time with them."""
    outcome = grant(Account(granted=5), Told(1, used=1, returned=4), 4, 0, 30.0)

    assert (outcome.freed, outcome.granted) == (4, 4)


@pytest.mark.parametrize("sequence", [1, 2])
def test_a_request_that_was_granted_is_not_granted_again(sequence: int) -> None:
    """It, and any before it, is heard and answered with the totals as they are."""
    account = grant(Account(), Told(2, 0, 0), 3, 10, 30.0).account

    again = grant(account, Told(sequence, used=1, returned=0), 3, 7, 60.0)

    assert again.account == replace(account, used=1)
    assert again.terms == Terms(3, 2)


@quick(300)
@given(accounts(), tolds, amounts, amounts)
def test_a_grant_takes_no_more_than_what_is_free(account: Account, told: Told, wants: int, free: int) -> None:
    """What is held grows by what is granted less what came back, never by more than was free."""
    outcome = grant(account, told, wants, free, 30.0)

    assert 0 <= outcome.granted <= min(wants, free + outcome.freed)
    assert outcome.account.held == account.held + outcome.granted - outcome.freed
    assert not (account.closed and outcome.granted)


requests = st.tuples(
    st.integers(0, 2), st.sampled_from(("grant", "settle", "lose", "release")), tolds, amounts
)


def happens(account: Account, what: str, told: Told, wants: int) -> Outcome:
    """What a request makes of an account where as much is free as it wants."""
    match what:
        case "grant":
            return grant(account, told, wants, wants, 1.0)
        case "settle":
            return absorb(account, told)
        case "lose":
            return lose(account, 100.0, OnHolderLoss.RECLAIM)
    return release(account)


@quick(300)
@given(st.integers(0, 30), st.lists(requests, max_size=20))
def test_what_is_free_and_what_accounts_hold_is_always_the_whole(
    size: int, history: list[tuple[int, str, Told, int]]
) -> None:
    """Three holders, and whatever they say: no token is there twice, or gets lost."""
    book = [Account(), Account(), Account()]
    free = size
    for holder, what, told, wants in history:
        outcome = happens(book[holder], what, told, min(wants, free))
        book[holder] = outcome.account
        free += outcome.freed - outcome.granted

        assert free >= 0
        assert free + sum(one.held for one in book) == size


# ---- holders that are lost ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_loss", "now", "closed", "freed"),
    [
        (OnHolderLoss.FORFEIT, 29.0, False, 0),
        (OnHolderLoss.FORFEIT, 30.0, True, 0),
        (OnHolderLoss.RECLAIM, 30.0 + DRIFT - 1, False, 0),
        (OnHolderLoss.RECLAIM, 30.0 + DRIFT, True, 6),
    ],
)
def test_the_account_of_a_silent_holder_is_closed(
    on_loss: OnHolderLoss, now: float, closed: bool, freed: int
) -> None:
    """Forfeited at the end of its time; taken back only once no clock lets it be used."""
    outcome = lose(Account(granted=10, used=3, returned=1, expires_at=30.0), now, on_loss)

    assert (outcome.account.closed, outcome.freed) == (closed, freed)


def test_forfeited_tokens_come_back_when_the_holder_says_that_it_did_not_use_them() -> None:
    """A closed account is granted nothing, and still listens."""
    lost = lose(Account(granted=10, used=3), 100.0, OnHolderLoss.FORFEIT).account

    heard = absorb(lost, Told(1, used=5, returned=5))

    assert (heard.used, heard.freed, heard.overdrawn) == (2, 5, 0)
    assert grant(lost, Told(9, 3, 0), 5, 5, 200.0).granted == 0


def test_at_its_end_a_lease_gives_back_all_that_was_not_used() -> None:
    """Also what its holder never heard of; after that it is granted nothing, and the end again is nothing."""
    account = Account(granted=10, used=1, returned=2, sequence=3)

    over = end(account, 4)

    assert (over.used, over.freed) == (3, 4)
    assert over.account == Account(granted=10, used=4, returned=6, sequence=3, closed=True)
    assert end(over.account, 4) == Outcome(over.account, 0, 0, 0)
    assert grant(over.account, Told(4, 4, 6), 5, 5, 30.0).granted == 0


@pytest.mark.parametrize("take_back", [OnHolderLoss.RECLAIM, None])
def test_what_was_used_of_reclaimed_tokens_has_to_be_counted_again(take_back: OnHolderLoss | None) -> None:
    """Its tokens are somebody else's by now, whether a clock or a person took them back."""
    account = Account(granted=10, used=3, returned=1)
    if take_back is None:
        lost = release(lose(account, 100.0, OnHolderLoss.FORFEIT).account)
    else:
        lost = lose(account, 100.0, take_back)
    assert lost.freed == 6

    heard = absorb(lost.account, Told(1, used=5, returned=5))

    assert (heard.used, heard.freed, heard.overdrawn) == (2, 0, 2)


def test_an_account_that_is_open_is_not_released() -> None:
    """Its holder may be using it."""
    account = Account(granted=10)

    assert release(account) == Outcome(account, 0, 0, 0)


@quick(200)
@given(st.integers(0, 20), histories(), st.integers(0, 6))
def test_every_use_is_counted_once_whenever_it_is_told(granted: int, said: list[Told], until: int) -> None:
    """Before the tokens are taken back as admitted, after that as usage that nobody admitted."""
    account = Account(granted=granted)
    admitted = again = 0
    for at, told in enumerate(said):
        if at == until:
            account = lose(account, 1000.0, OnHolderLoss.RECLAIM).account
        outcome = absorb(account, told)
        account = outcome.account
        admitted += outcome.used - outcome.overdrawn
        again += outcome.overdrawn

    assert admitted + again == account.used
    assert admitted + account.outstanding + account.returned + account.reclaimed == granted


# ---- holders of a lost block --------------------------------------------------------------------------


@quick(300)
@given(accounts(), amounts)
def test_a_lost_holder_is_settled_by_its_events(account: Account, used: int) -> None:
    """Nothing is left then, what it used stays, and doing it again changes nothing."""
    outcome = account_for(account, used)
    after = outcome.account

    if not account.closed:
        assert outcome == Outcome(account, 0, 0, 0)
        return
    assert after.outstanding == 0
    assert after.used == min(max(account.used, used), account.granted - account.returned)
    assert after.held == account.held - outcome.freed
    assert account_for(after, used) == Outcome(after, 0, 0, 0)


def test_a_block_that_counts_itself_has_no_orphans() -> None:
    """Nothing is taken from a holder at the root as long as the block is there to hear it."""
    block = Account(granted=10)

    assert adopt(block, Account(), Told(1, 3, 2), 0) == (Outcome(block, 0, 0, 0), Account())


def test_holders_of_a_lost_block_are_heard_at_the_root() -> None:
    """What they used is admitted, what they had left comes back, and neither of it twice."""
    block = Account(granted=10, returned=2, closed=True)

    first, said = adopt(block, Account(), Told(1, used=3, returned=2), 0)
    again, _ = adopt(first.account, said, Told(1, used=3, returned=2), 0)
    other, _ = adopt(again.account, Account(), Told(1, used=1, returned=0), said.used)

    assert (first.used, first.freed) == (3, 2)
    assert again == Outcome(first.account, 0, 0, 0)
    assert other.account == Account(granted=10, used=4, returned=4, closed=True)


def test_a_use_that_a_lost_block_had_passed_on_counts_once() -> None:
    """Used is what the block had told, or what its holders tell, whichever is more."""
    block = Account(granted=10, used=3, closed=True)

    first, said = adopt(block, Account(), Told(1, used=2, returned=0), 0)
    other, _ = adopt(first.account, Account(), Told(1, used=4, returned=0), said.used)

    assert (first.used, first.account.used) == (0, 3)
    assert (other.used, other.account.used) == (3, 6)


def test_what_holders_say_of_a_block_that_was_released_has_to_be_counted_again() -> None:
    """Up to what was taken back of it."""
    block = release(Account(granted=10, used=4, closed=True)).account

    outcome, said = adopt(block, Account(), Told(1, used=7, returned=2), 0)

    assert (outcome.used, outcome.freed, outcome.overdrawn) == (3, 0, 3)
    again, _ = adopt(outcome.account, said, Told(1, used=7, returned=2), 0)
    assert again == Outcome(outcome.account, 0, 0, 0)


@quick(300)
@given(accounts(), st.lists(st.tuples(st.integers(0, 2), tolds), max_size=12))
def test_holders_of_a_lost_block_are_believed_no_more_than_it_was_granted(
    block: Account, letters: list[tuple[int, Told]]
) -> None:
    """All of them together, whatever each says."""
    first = block = replace(block, closed=True)
    orphans = [Account(), Account(), Account()]
    freed = 0
    for holder, told in letters:
        before = block
        others = sum(one.used for one in orphans) - orphans[holder].used
        outcome, orphans[holder] = adopt(block, orphans[holder], told, others)
        block = outcome.account
        freed += outcome.freed

        assert block.held == before.held - outcome.freed
        assert outcome.overdrawn <= outcome.used
        assert block.used == max(first.used, sum(one.used for one in orphans))
        assert block.used + block.returned <= block.granted


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_order_of_letters_changes_nothing(order: tuple[int, ...]) -> None:
    """A later letter says more of the same."""
    letters = [Told(1, 1, 0), Told(1, 2, 1), Told(2, 3, 2)]
    block, orphan = Account(granted=10, closed=True), Account()
    for at in order:
        outcome, orphan = adopt(block, orphan, letters[at], 0)
        block = outcome.account

    assert block == Account(granted=10, used=3, returned=2, closed=True)
