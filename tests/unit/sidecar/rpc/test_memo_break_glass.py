"""Kept answers begin and end with break-glass, at the very instant, and are counted as such each time."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from entitlement_sidecar.domain.break_glass import BreakGlass, BreakGlassAction
from entitlement_sidecar.telemetry import metrics
from unit.sidecar.rpc.test_memo import Site, hits, request


def opening(site: Site, feature: str) -> BreakGlass:
    """What opens a feature for acme from a second from now, for another second."""
    since = site.clock.now() + timedelta(seconds=1)
    until = since + timedelta(seconds=1)
    return BreakGlass("bg_1", BreakGlassAction.OPEN, since, until, "why", feature, "acme")


def with_entry(site: Site, entry: BreakGlass) -> None:
    """The catalogue that is held says so too."""
    known = site.store.catalogue
    site.store.put_catalogue(msgspec.structs.replace(known, version=known.version + 1, break_glass=(entry,)))


def test_a_kept_answer_ends_when_something_is_opened_and_when_that_ends() -> None:
    """Nobody tells the sidecar of either instant."""
    site = Site()
    with_entry(site, opening(site, "sso"))
    site.same()
    for _ in range(4):
        site.clock.advance(0.5)
        site.beat()
        site.same()


def test_an_answer_of_an_opened_metered_feature_is_kept_and_counted() -> None:
    """It tells no usage, so it rests on none."""
    site = Site()
    with_entry(site, opening(site, "calls"))
    site.clock.advance(1)
    site.beat()
    payload = request("calls").SerializeToString()
    site.keeping.check(payload)
    counted, hit = opened(), hits()

    site.keeping.check(payload)

    assert (opened(), hits()) == (counted + 1, hit + 1)


def opened() -> float:
    """How many decisions were allowed by what is open."""
    labels = {"action": "open"}
    return metrics.REGISTRY.get_sample_value("entitlement_break_glass_decisions_total", labels) or 0.0
