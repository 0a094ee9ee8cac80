"""An answer on its way is heard once, whoever waits for it and however."""

from __future__ import annotations

import asyncio

import pytest

from entitlement_sidecar.sidecar.promise import Promise


@pytest.mark.parametrize("early", [True, False])
async def test_it_is_awaited(early: bool) -> None:
    """Given an answer before or after somebody waits, then it comes; so does an error."""
    promise, failing = Promise(), Promise()
    error = RuntimeError("no")
    if early:
        promise.keep(b"yes")
        failing.keep(None, error)
    waiting = [asyncio.ensure_future(_awaited(one)) for one in (promise, failing)]
    await asyncio.sleep(0)
    if not early:
        promise.keep(b"yes")
        failing.keep(None, error)
    assert await asyncio.gather(*waiting, return_exceptions=True) == [b"yes", error]


async def _awaited(promise: Promise) -> bytes:
    return await promise


@pytest.mark.parametrize("early", [True, False])
def test_it_is_heard_without_a_turn_of_the_loop(early: bool) -> None:
    """Given a listener, then it hears the answer in the very turn of who keeps it."""
    promise, heard = Promise(), []

    def listen() -> None:
        promise.hear(lambda answer, error: heard.append((answer, error)))

    if early:
        promise.keep(b"yes")
        listen()
    else:
        listen()
        promise.keep(b"yes")
    assert heard == [(b"yes", None)]


async def test_who_leaves_hears_nothing() -> None:
    """Given somebody who waits no longer, then keeping it is no error."""
    promise = Promise()
    waiting = asyncio.ensure_future(_awaited(promise))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    promise.keep(b"yes")
    assert waiting.cancelled()
