"""Limits that are not leased, through a real plan store: who is asked, and that nothing counts twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.processes import Planstore, Sidecar
from support.waiting import until

CATALOGUE = Path(__file__).parent / "modes_catalogue.yaml"


def used(store: Planstore, feature: str) -> int:
    """What the root has counted."""
    body = {"feature": feature}
    answer = store.rest("POST", "/api/billing/organizations/acme/quotas/check", json=body)
    told: dict[str, Any] = answer.json()
    return int(told["used"])


def admitted(one: Sidecar, feature: str, times: int) -> int:
    """How many of so many uses were allowed."""
    return sum(one.consume("acme", feature).allowed for _ in range(times))


def test_each_limit_is_kept_by_its_mode(
    planstore: Callable[..., Planstore], sidecar: Callable[..., Sidecar]
) -> None:
    """Given a limit of each mode, then hard ones are kept exactly, no lease is held, and use counts once.

    Of the optimistic one most uses ask nobody, say by how much they may be wrong, and are at the root as soon
    as their events are.
    """
    store = planstore()
    store.apply(CATALOGUE)
    store.subscribe("acme", "pro")
    one = sidecar(store)
    until(lambda: one.check("acme", "orders").allowed, "the tenant to be held")

    assert (admitted(one, "orders", 8), admitted(one, "exports", 8)) == (5, 5)

    assert (used(store, "orders"), used(store, "exports")) == (5, 5)
    answers = [one.consume("acme", "reads") for _ in range(30)]
    assert all(answer.allowed for answer in answers)
    assert max(answer.overshoot_bound for answer in answers) == 10
    assert one.metric("entitlement_lease_consumes_total") > 0
    until(lambda: used(store, "reads") == 30, "the events to be counted")
    until(lambda: one.metric("entitlement_outbox_settled_events") == 40, "all events to be settled")
    assert (used(store, "orders"), used(store, "exports"), used(store, "reads")) == (5, 5, 30)
    assert one.metric("entitlement_leases_held") == 0
