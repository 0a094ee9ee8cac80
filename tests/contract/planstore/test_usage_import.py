"""Usage over REST: per-event outcomes, each identity once, and who may say what."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from entitlement_sidecar.planstore.access import NewToken, Role, create_token
from entitlement_sidecar.planstore.db import UsageEventRow

EVENTS = "/api/billing/usage/events"

Header = Callable[..., dict[str, str]]


@pytest.fixture
def header(shop: Any) -> Header:
    """Makes a token; the header that shows it."""

    def make(role: Role, *tenants: str, name: str = "") -> dict[str, str]:
        with shop.database.writing() as session:
            wanted = NewToken(name=name or f"the-{role}", role=role, tenants=tenants)
            _, secret = create_token(session, wanted, shop.clock.now())
        return {"Authorization": f"Bearer {secret}"}

    return make


def used(id_: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "tenant_id": "acme", "metric": "calls", "value": 2, "correlation_id": "w", **more}


def send(shop: Any, *events: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    answer = shop.rest.post(EVENTS, json={"events": events}, **more)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def stored(shop: Any) -> list[UsageEventRow]:
    with shop.database.reading() as session:
        return list(session.scalars(select(UsageEventRow).order_by(UsageEventRow.id)))


def test_each_event_has_its_own_outcome(shop: Any) -> None:
    """One that is wrong fails no other, and says what is wrong with it."""
    results = send(
        shop,
        used("a"),
        used("b", value=-1),
        used("a"),
        used("a", value=3),
        used("c", metric="steps"),
        used("d", correlation_id=""),
        used(""),
        used("e", tenant_id="no tenant"),
        used("f", dimensions={"x": "\0"}),
    )

    assert [one["outcome"] for one in results] == [
        "ACCEPTED",
        "INVALID",
        "DUPLICATE",
        "CONFLICT",
        "QUARANTINED",
        "INVALID",
        "INVALID",
        "INVALID",
        "INVALID",
    ]
    assert [one["reason"].partition(":")[0] for one in results if one["outcome"] == "INVALID"] == [
        "value",
        "correlation_id",
        "id",
        "tenant_id",
        "dimensions",
    ]
    assert results[0]["classification"] == "billable"
    assert results[5]["rule"] == "usage:correlation"
    assert [(row.event_id, row.value, row.instance) for row in stored(shop)] == [("a", 2, "")]


def test_what_is_sent_again_counts_once(shop: Any) -> None:
    """With or without a time of its own, now or later."""
    at = shop.clock.now() - timedelta(hours=1)
    events = [used("a"), used("b", occurred_at=at.isoformat())]
    send(shop, *events)
    shop.clock.advance(3600)

    assert {one["outcome"] for one in send(shop, *events)} == {"DUPLICATE"}
    assert len(stored(shop)) == 2


def test_what_waited_elsewhere_is_not_late(shop: Any) -> None:
    """Lateness ends with the recording: an event that lay on a disk for weeks counts when it comes."""
    recorded = shop.clock.now() - timedelta(days=50)
    happened = recorded - timedelta(days=1)
    waited = {"occurred_at": happened.isoformat(), "recorded_at": recorded.isoformat()}

    results = send(shop, used("a", **waited), used("b", occurred_at=happened.isoformat()))

    assert results[0]["outcome"] in {"ACCEPTED", "LATE_ACCEPTED"}
    assert (results[1]["outcome"], results[1]["rule"]) == ("LATE_REFUSED", "usage:age")
    tomorrow = (shop.clock.now() + timedelta(days=1)).isoformat()
    [ahead] = send(shop, used("c", recorded_at=tomorrow))
    assert ahead["reason"].startswith("recorded_at:")


def test_an_emitter_does_not_say_when_it_was_recorded(shop: Any, header: Header) -> None:
    """It could send usage of any age as not late; sidecars and administrators know, and are believed."""
    now = shop.clock.now()
    old, tomorrow = (now - timedelta(days=50)).isoformat(), (now + timedelta(days=1)).isoformat()
    aged = {"occurred_at": old, "recorded_at": old}
    emitter = header(Role.EMITTER, name="crm")

    told = send(
        shop,
        used("aged", **aged),
        used("without", recorded_at=old),
        used("ahead", occurred_at=now.isoformat(), recorded_at=tomorrow),
        headers=emitter,
    )
    believed = [
        send(shop, used(f"of-{role}", **aged), headers=header(role))[0]["outcome"]
        for role in (Role.SIDECAR, Role.BILLING_ADMIN)
    ]

    assert [(one["outcome"], one["rule"]) for one in told] == [
        ("LATE_REFUSED", "usage:age"),
        ("LATE_REFUSED", "usage:age"),
        ("ACCEPTED", ""),
    ]
    assert [row.recorded_at == now for row in stored(shop)] == [True, False, False]
    assert {*believed} <= {"ACCEPTED", "LATE_ACCEPTED"}


def test_what_an_emitter_sends_again_counts_once(shop: Any, header: Header) -> None:
    """Whatever it says of recording: it is no part of what makes events equal."""
    emitter = header(Role.EMITTER, name="crm")
    at = (shop.clock.now() - timedelta(hours=1)).isoformat()
    events = [used("a", occurred_at=at, recorded_at=at), used("b", recorded_at=at), used("c")]
    first = send(shop, *events, headers=emitter)
    shop.clock.advance(60)
    again = send(shop, *events, headers=emitter)

    assert {one["outcome"] for one in first} == {"ACCEPTED"}
    assert {one["outcome"] for one in again} == {"DUPLICATE"}


def test_an_emitter_speaks_for_itself(shop: Any, header: Header) -> None:
    """Its name is the emitter of what it sends, and it can be no other; nor may it spare quota."""
    crm = header(Role.EMITTER, name="crm")

    results = send(
        shop,
        used("a"),
        used("b", emitter="crm"),
        used("c", emitter="intake"),
        used("d", lease_id="root:1", feature="calls"),
        used("e", corrects="a", voids=True),
        used("f", count=2),
        headers=crm,
    )

    assert [one["outcome"] for one in results] == ["ACCEPTED", "ACCEPTED", *["INVALID"] * 4]
    assert {one["rule"] for one in results[2:]} == {"usage:emitter"}
    assert [row.emitter for row in stored(shop)] == ["crm", "crm"]


def test_who_may_send_usage(shop: Any, header: Header) -> None:
    """Those that report usage, of their own tenants; a call about another is refused as a whole."""
    for role in Role:
        answer = shop.rest.post(EVENTS, json={"events": [used(f"of-{role}")]}, headers=header(role))
        able = role in {Role.EMITTER, Role.SIDECAR, Role.BILLING_ADMIN}
        assert answer.status_code == (200 if able else 403)
    scoped = header(Role.EMITTER, "globex", name="theirs")
    refused = shop.rest.post(
        EVENTS, json={"events": [used("x", tenant_id="globex"), used("y")]}, headers=scoped
    )
    assert refused.status_code == 403
    assert "'acme' is none of them" in refused.json()["detail"]
    [taken] = send(shop, used("x", tenant_id="globex"), headers=scoped)
    assert taken["outcome"] == "ACCEPTED"


def test_a_call_that_is_none_stores_nothing(shop: Any) -> None:
    """Too few, too many, or of other types than the document says."""
    many = [used(str(n)) for n in range(1001)]
    for events in ([], many, [used("a", value="2")], [used("a", colour="red")], [{"value": 1}]):
        assert shop.rest.post(EVENTS, json={"events": events}).status_code == 422
    assert stored(shop) == []
