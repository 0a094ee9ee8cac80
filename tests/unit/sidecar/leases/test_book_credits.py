"""Leases of credits: each is of one grant, used in burn order, and an answer says what it burnt."""

from __future__ import annotations

import asyncio

from msgspec import structs

from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from support.leased_credits import TENANT, TOKENS, CreditSidecar


def burnt(usage: QuotaUsage) -> list[int]:
    """What a call took of each grant."""
    return [limit.taken for limit in usage.limits]


def used(usage: QuotaUsage) -> list[int]:
    """What was used of each grant."""
    return [limit.used for limit in usage.limits]


async def pass_time(sidecar: CreditSidecar, seconds: int) -> None:
    """Lets time pass, a second at a time."""
    for _ in range(seconds):
        sidecar.clock.advance(1)
        for _ in range(20):
            sidecar.book.tick()
            await asyncio.sleep(0)


async def test_a_lease_answers_what_it_burnt() -> None:
    """Given a lease of the first grant, then later uses need no call, and say that they burn that grant."""
    sidecar = CreditSidecar(1000, 500)
    first = await sidecar.consume(20)
    calls = sidecar.root.calls

    second = await sidecar.consume(3)

    assert second.lease_id == first.lease_id
    assert (sidecar.root.calls, sidecar.root.consumed) == (calls, 0)
    assert (burnt(first), burnt(second)) == ([20, 0], [3, 0])
    assert used(second) == [23, 0]


async def test_grants_burn_in_order() -> None:
    """Given two grants, then the second one burns once nothing is left of the first."""
    sidecar = CreditSidecar(10, 30)

    answers = [await sidecar.consume() for _ in range(40)]

    assert all(answer.admitted for answer in answers)
    assert [burnt(answer) for answer in answers] == [[1, 0]] * 10 + [[0, 1]] * 30
    assert used(answers[30]) == [10, 21]
    assert not (await sidecar.consume()).admitted


async def test_what_needs_two_grants_is_the_authoritys_matter() -> None:
    """Given a use that is larger than what is left of a grant, then that goes back, and both are burnt."""
    sidecar = CreditSidecar(10, 100)
    await sidecar.consume(7)

    answer = await sidecar.consume(5)

    assert (answer.admitted, burnt(answer)) == (True, [3, 2])
    assert used(answer) == [10, 2]


async def test_what_needs_two_grants_is_burnt_of_the_next_while_nobody_can_be_asked() -> None:
    """Given leases of both grants and no plan store, then the lease that has it is used."""
    sidecar = CreditSidecar(10, 1000)
    await sidecar.consume(8)
    await sidecar.consume(20)
    assert (await sidecar.consume(1)).admitted
    sidecar.root.away = True

    answer = await sidecar.consume(3)

    assert (answer.admitted, burnt(answer)) == (True, [0, 3])


async def test_a_use_that_is_not_kept_is_left_of_its_grant() -> None:
    """Given a void, then the answers after it count that use of its grant no more."""
    sidecar = CreditSidecar(100, 100)
    kept = await sidecar.consume(20)
    lost = await sidecar.consume(2, keep=False)
    assert lost.lease_id == kept.lease_id

    sidecar.book.void(TENANT, lost.lease_id, 2)

    assert used(await sidecar.consume(1)) == [21, 0]


async def test_what_is_left_of_each_grant_comes_back() -> None:
    """Given leases of two grants, then what was not used of each is of that grant again."""
    sidecar = CreditSidecar(10, 1000)
    for _ in range(15):
        await sidecar.consume()

    await pass_time(sidecar, 30)

    assert (sidecar.root.used, sidecar.root.free) == ([10, 5], [0, 995])
    assert not sidecar.journal.accounts


async def test_a_lease_ends_with_its_grant() -> None:
    """Given a grant that is over, then nothing more is used of its lease, whatever is left of it."""
    sidecar = CreditSidecar(1000, 500)
    first = await sidecar.consume()
    sidecar.clock.advance(9 * 24 * 3600)
    second = await sidecar.consume(20)
    assert burnt(second) == [20, 0]

    sidecar.clock.advance(24 * 3600)
    del sidecar.root.buckets, sidecar.root.roots[0]
    sidecar.root.buckets = sidecar.resolution.buckets[1:]
    sidecar.resolution = structs.replace(sidecar.resolution, buckets=sidecar.root.buckets)

    third = await sidecar.consume()

    assert (third.admitted, burnt(third)) == (True, [1])
    assert third.lease_id not in {first.lease_id, second.lease_id}


async def test_a_look_tells_each_grant() -> None:
    """Given uses that the authority was not told of, then a look counts them of their grants."""
    sidecar = CreditSidecar(10, 1000)
    for _ in range(15):
        await sidecar.consume()

    view = sidecar.book.view(TENANT, QuotaAsk(TOKENS, 0, sidecar.resolution), None)

    assert isinstance(view, QuotaUsage)
    assert used(view) == [10, 5]
    assert sum(limit.remaining or 0 for limit in view.limits) == 995


async def test_a_grant_that_is_not_known_here_is_not_leased() -> None:
    """Given a lease of a grant newer than what is known here, then it goes back, and the authority admits."""
    sidecar = CreditSidecar(100, 50)
    sidecar.resolution = structs.replace(sidecar.resolution, buckets=sidecar.root.buckets[1:])

    answer = await sidecar.consume()
    await pass_time(sidecar, 2)

    assert (answer.admitted, answer.lease_id) == (True, "admission")
    assert sidecar.root.free == [99, 50]
