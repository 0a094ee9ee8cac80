"""The list of events: each with all that was said of it, and with what it counts as now."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.usage.arrival import Arrival
from support.shop import CATALOGUE, NOW

DONE = "metrics:\n  done: {domain: api, unit: end, classification: informational, terminal: true}\n"


def used(id_: str, minutes: int = 0, **more: Any) -> UsageEvent:
    """A billable event of one piece of work."""
    at = NOW - timedelta(hours=1) + timedelta(minutes=minutes)
    fields = {"metric": "calls", "value": 3, "correlation_id": "order-1", **more}
    return UsageEvent(id=id_, tenant_id="acme", unit="", occurred_at=at, recorded_at=at, **fields)


def store(shop: Any, *events: UsageEvent) -> None:
    """Stores events in a transaction of their own."""
    with shop.database.writing() as session:
        results = shop.ledger.append(session, [Arrival(one) for one in events], shop.clock.now())
    assert {one.outcome.name for one in results} == {"ACCEPTED"}


def listed(shop: Any) -> dict[str, dict[str, Any]]:
    """What the list says, by id."""
    answer = shop.rest.get("/api/billing/organizations/acme/usage/events")
    assert answer.status_code == 200, answer.text
    return {one["event_id"]: one for one in answer.json()["events"]}


def test_an_event_says_all_that_was_said_of_it(shop: Any) -> None:
    """Attributes, what it stands for, who took it down, and the catalogue that it was judged by."""
    shop.subscribe()
    said = {
        "subject": "ann",
        "actor_id": "bot",
        "emitter": "svc",
        "dimensions": {"project": "p1"},
        "recorded_by": "i-1",
        "consumption_id": "c-1",
        "lease_id": "root:1",
        "feature": "calls",
        "count": 7,
    }
    store(shop, used("a", **said))
    told = listed(shop)["a"]

    assert {name: told[name] for name in said} == said
    assert (told["value"], told["unit"], told["classification"], told["rule"]) == (3, "call", "billable", "")
    assert (told["registry_version"], told["schema_version"]) == (1, 1)
    assert (told["corrects"], told["voids"], told["reason"]) == ("", False, "")


def test_a_correction_names_its_original(shop: Any) -> None:
    """It is listed beside it, with the reason and what it says."""
    shop.subscribe()
    store(shop, used("a"), used("b"))
    amend = {"metric": "", "corrects": "a", "value": 1, "reason": "counted twice"}
    store(shop, used("k", **amend), used("v", metric="", corrects="b", value=0, voids=True, reason="test"))
    told = listed(shop)

    said = {id_: (one["corrects"], one["voids"], one["value"], one["reason"]) for id_, one in told.items()}
    assert said == {
        "a": ("", False, 3, ""),
        "b": ("", False, 3, ""),
        "k": ("a", False, 1, "counted twice"),
        "v": ("b", True, 0, "test"),
    }


def test_the_classification_is_that_in_force(shop: Any) -> None:
    """What happened after the end of its work is not billable, also where the end arrives later."""
    shop.apply(CATALOGUE.replace("metrics:\n", DONE, 1))
    shop.subscribe()
    store(shop, used("before"), used("after", 9))
    store(shop, used("k", metric="", corrects="after", value=1, reason="wrong"))
    early = listed(shop)
    store(shop, used("end", 5, metric="done", value=1))
    late = listed(shop)

    assert {early[id_]["classification"] for id_ in ("before", "after", "k")} == {"billable"}
    assert {id_: (one["classification"], one["rule"]) for id_, one in late.items()} == {
        "before": ("billable", ""),
        "after": ("non_billable", "usage:terminal"),
        "k": ("non_billable", "usage:terminal"),
        "end": ("informational", ""),
    }
