"""A watch of a tenant that nobody could say anything of looks again by itself."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from entitlement_sidecar.sidecar.decisions import watching
from entitlement_sidecar.sidecar.decisions.watching import Watching
from entitlement_sidecar.testing.builders import boolean, document, plan_grant, snapshot
from support.deciding import Deciding


async def test_a_watch_that_began_in_an_outage_is_told_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else may ask for the tenant, and the feed tells of changes alone."""
    monkeypatch.setattr(watching, "LOOK_SOON", timedelta(milliseconds=1))
    site = Deciding(document(boolean("sso")))
    site.planstore.away = True
    states = Watching(site.decisions, site.knowing).states("acme", 0)
    async with asyncio.timeout(30):
        first = await anext(states)
        site.planstore.away = False
        site.planstore.snapshots["acme"] = snapshot("acme", plan_grant("sso"), version=3)
        second = await anext(states)
    await states.aclose()
    assert (first.version, second.version) == (0, 3)
    assert [one.allowed for one in second.decisions] == [True]
