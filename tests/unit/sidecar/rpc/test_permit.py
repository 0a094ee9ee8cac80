"""What a caller may, and how what it follows ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from entitlement_sidecar.domain.errors import ForbiddenError, InvalidInputError
from entitlement_sidecar.sidecar.rpc.permit import Permit


class States:
    """What a watch of a tenant says, and whether it was let go."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[int] = asyncio.Queue()
        self.closed = False

    async def all(self) -> AsyncIterator[int]:
        try:
            while (state := await self.coming.get()) >= 0:
                yield state
        finally:
            self.closed = True


def test_a_permit_says_the_same_of_tenants_that_do_not_exist() -> None:
    """Whom it does not name, it refuses; the one for all refuses nobody."""
    permit = Permit("checkout", frozenset({"acme"}))
    permit.require("acme")
    for tenant in ("globex", "nobody"):
        with pytest.raises(ForbiddenError, match=f"caller 'checkout' may not ask about tenant '{tenant}'"):
            permit.require(tenant)
    Permit("checkout", None).require("globex")


def test_a_caller_reports_as_itself_and_as_those_that_are_listed() -> None:
    """Its name stands where none is given; another name is refused, with those that would be right."""
    permit = Permit("checkout", None, ["cart"])

    told = [permit.emitter(claimed) for claimed in ("", "checkout", "cart")]

    assert told == ["checkout", "checkout", "cart"]
    with pytest.raises(InvalidInputError, match="may not report as 'crm'; expected cart, checkout, or none"):
        permit.emitter("crm")

    permit.report_as([])
    with pytest.raises(InvalidInputError, match="may not report as 'cart'"):
        permit.emitter("cart")


async def test_what_is_followed_ends_with_the_tenant() -> None:
    """Other changes of the list end nothing; what was followed is let go."""
    permit, states = Permit("checkout", frozenset({"acme"})), States()
    following = permit.following("acme", states.all())
    states.coming.put_nowait(1)
    assert await anext(following) == 1

    waiting = asyncio.ensure_future(anext(following))
    permit.change(None)
    permit.change(["acme", "globex"])
    states.coming.put_nowait(2)
    assert await waiting == 2

    waiting = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    permit.change(["globex"])
    with pytest.raises(ForbiddenError):
        await waiting
    assert states.closed


async def test_what_is_taken_away_and_given_back_at_once_goes_on() -> None:
    """Only what is true in the end counts: nothing is lost by a list that is written in two steps."""
    permit, states = Permit("checkout", frozenset({"acme"})), States()
    following = permit.following("acme", states.all())
    states.coming.put_nowait(1)
    assert await anext(following) == 1
    permit.end()
    permit.change(["acme"])
    states.coming.put_nowait(2)
    assert await anext(following) == 2
    states.coming.put_nowait(-1)
    assert [one async for one in following] == []


async def test_a_caller_that_leaves_lets_go_of_what_it_followed() -> None:
    """No task of its own is left."""
    permit, states = Permit("checkout", None), States()
    following = permit.following("acme", states.all())
    waiting = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    before = len(asyncio.all_tasks())
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert states.closed
    assert len(asyncio.all_tasks()) < before


async def test_a_tenant_of_somebody_else_is_not_followed() -> None:
    """Nothing is asked for."""
    permit = Permit("checkout", frozenset())
    with pytest.raises(ForbiddenError):
        await anext(permit.following("acme", States().all()))
