"""Usage that is kept and does not count: held once, judged again, discarded, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.usage import UsageEvent, UsageResult
from entitlement_sidecar.planstore.db import AuditRow, UsageEventRow
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.attention import Attention
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.telemetry import metrics
from support.shop import AUTHORISED

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
PATH = "/api/billing/usage/quarantine"
FAXES = "metrics:\n  faxes: {domain: api, unit: page, classification: billable}\n"
EMITTERS = "emitters:\n  intake: {metrics: [calls]}\n  crm: {external: true}\n"


def usage(id_: str, **more: Any) -> UsageEvent:
    """A billable event, of metric `faxes` unless told otherwise."""
    fields = {
        "tenant_id": "acme",
        "metric": "faxes",
        "value": 1,
        "unit": "",
        "occurred_at": NOW,
        "recorded_at": NOW,
        "correlation_id": "work",
    }
    return UsageEvent(id=id_, **{**fields, **more})


class Office:
    """A ledger with a quarantine, and its REST."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        self.ledger = Ledger(limits_of)

    def append(self, *events: UsageEvent) -> list[UsageResult]:
        """Stores events in a transaction of their own."""
        with self.shop.database.writing() as session:
            return self.ledger.append(session, [Arrival(event) for event in events], self.shop.clock.now())

    def listed(self, **query: Any) -> list[tuple[str, str, str]]:
        """Id, rule and state of what is listed."""
        found = self.shop.rest.get(PATH, params=query).json()["quarantine"]
        return [(one["event_id"], one["rule"], one["state"]) for one in found]

    def post(self, action: str, **body: Any) -> dict[str, Any]:
        """What a replay or a discard has come to."""
        answer = self.shop.rest.post(f"{PATH}/{action}", json=body)
        assert answer.is_success, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def stored(self) -> list[str]:
        """Ids of events in the ledger."""
        with self.shop.database.reading() as session:
            return sorted(session.scalars(select(UsageEventRow.event_id)))


@pytest.fixture
def office(shop: Any) -> Office:
    """Over a shop with one tenant, whose catalogue knows no faxes."""
    shop.subscribe()
    return Office(shop)


def test_what_is_held_counts_once_its_metric_exists(office: Office, catalogue_text: str) -> None:
    """Replayed too early it stays, with the reason of now; replayed in time it is in the ledger, once."""
    office.append(usage("a"), usage("b", tenant_id="globex"))
    early = office.post("replay", metric="faxes")
    applied = office.shop.rest.post(
        "/api/billing/catalogue",
        content=catalogue_text.replace("metrics:\n", FAXES, 1),
        headers={**AUTHORISED, "content-type": "application/yaml"},
    ).json()
    in_time = office.post("replay", metric="faxes")
    again = office.post("replay", everything=True)

    assert (early["released"], early["still_held"]) == (0, 2)
    assert applied["held_usage"] == {"faxes": 2}
    assert (in_time["released"], in_time["still_held"], in_time["next_cursor"]) == (2, 0, None)
    assert again["looked_at"] == 0
    assert office.stored() == ["a", "b"]
    assert office.listed(state="released") == [
        ("a", "usage:metric", "released"),
        ("b", "usage:metric", "released"),
    ]
    assert [result.outcome.name for result in office.append(usage("a"))] == ["DUPLICATE"]


def test_an_event_is_held_once(office: Office) -> None:
    """Sent again it is told the same; other content under its id is a conflict, also in one batch."""
    first = office.append(usage("a"), usage("a"), usage("a", value=9))
    second = office.append(usage("a"), usage("a", value=9))

    assert [one.outcome.name for one in first] == ["QUARANTINED", "QUARANTINED", "CONFLICT"]
    assert [one.outcome.name for one in second] == ["QUARANTINED", "CONFLICT"]
    assert office.listed() == [("a", "usage:metric", "held")]


def test_who_may_not_emit_is_held(office: Office, catalogue_text: str) -> None:
    """Billable usage of an external emitter, or of one that nobody registered, waits for an operator."""
    office.shop.apply(catalogue_text + EMITTERS)

    told = office.append(
        usage("ours", metric="calls", emitter="intake"),
        usage("theirs", metric="calls", emitter="crm"),
        usage("whose", metric="calls"),
    )

    assert [one.outcome.name for one in told] == ["ACCEPTED", "QUARANTINED", "QUARANTINED"]
    assert office.listed(rule="usage:emitter") == [
        ("theirs", "usage:emitter", "held"),
        ("whose", "usage:emitter", "held"),
    ]
    assert office.stored() == ["ours"]


def test_what_is_discarded_never_counts(office: Office, catalogue_text: str) -> None:
    """It is given up by somebody, which is on record; a replay passes it by."""
    office.append(usage("a"), usage("b"))
    discarded = office.post("discard", tenant_id="acme", event_ids=["a"])
    office.shop.apply(catalogue_text.replace("metrics:\n", FAXES, 1))
    office.post("replay", everything=True)

    with office.shop.database.reading() as session:
        actions = list(session.scalars(select(AuditRow.action).order_by(AuditRow.sequence)))
    assert discarded == {"discarded": 1, "next_cursor": None}
    assert office.stored() == ["b"]
    assert office.listed(state="discarded") == [("a", "usage:metric", "discarded")]
    assert [one for one in actions if "quarantine" in one] == [
        "usage.quarantine_discarded",
        "usage.quarantine_replayed",
    ]


def test_what_was_discarded_stays_away(office: Office, catalogue_text: str) -> None:
    """Sent again it is settled and does not count, also once the catalogue knows its metric."""
    office.append(usage("a"), usage("b"))
    office.post("discard", everything=True)
    before = office.append(usage("a"))
    office.shop.apply(catalogue_text.replace("metrics:\n", FAXES, 1))
    after = office.append(usage("a"), usage("b", value=9), usage("c"))

    told = [(one.outcome.name, one.rule) for one in before + after]
    assert told == [
        ("DUPLICATE", "usage:identity"),
        ("DUPLICATE", "usage:identity"),
        ("CONFLICT", "usage:identity"),
        ("ACCEPTED", ""),
    ]
    assert "discarded" in after[0].reason
    assert office.stored() == ["c"]


def test_what_counts_by_now_is_not_discarded(office: Office, catalogue_text: str) -> None:
    """It was held, came again and counted: giving it up would say what is not so."""
    office.append(usage("a"), usage("b"), usage("c"))
    office.shop.apply(catalogue_text.replace("metrics:\n", FAXES, 1))
    office.append(usage("a"), usage("b", value=9))
    discarded = office.post("discard", everything=True)

    assert discarded["discarded"] == 2
    assert office.stored() == ["a", "b"]
    assert office.listed(state="released") == [("a", "usage:metric", "released")]
    assert [id_ for id_, _, _ in office.listed(state="discarded")] == ["b", "c"]


def test_pages_end(office: Office) -> None:
    """Events that stay held are looked at once by a replay that goes on page after page."""
    office.append(*(usage(f"e{number}") for number in range(5)))
    cursor, looked_at = "", []
    while cursor is not None:
        page = office.post("replay", everything=True, limit=2, cursor=cursor)
        looked_at.append(page["looked_at"])
        cursor = page["next_cursor"]
    first = office.shop.rest.get(PATH, params={"limit": 3}).json()
    second = office.listed(limit=3, cursor=first["next_cursor"])

    assert looked_at == [2, 2, 1]
    assert [one["event_id"] for one in first["quarantine"]] == ["e0", "e1", "e2"]
    assert [id_ for id_, _, _ in second] == ["e3", "e4"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "everything"),
        ({"everything": True, "metric": "faxes"}, "everything"),
        ({"event_ids": ["a"]}, "tenant_id"),
        ({"metric": "no such key"}, "metric"),
        ({"everything": True, "cursor": "?"}, "cursor"),
    ],
)
def test_what_is_meant_must_be_said(office: Office, body: dict[str, Any], field: str) -> None:
    """Nobody discards everything by an empty form."""
    answer = office.shop.rest.post(f"{PATH}/discard", json=body)

    assert answer.status_code == 422
    assert field in answer.text


def test_a_stored_event_is_a_duplicate_whatever_the_registry_says_now(
    office: Office, catalogue_text: str
) -> None:
    """A batch whose answer was lost is settled though its metric is gone meanwhile."""
    office.shop.apply(catalogue_text.replace("metrics:\n", FAXES, 1))
    office.append(usage("a"))
    office.shop.apply(catalogue_text)

    [again] = office.append(usage("a"))

    assert again.outcome.name == "DUPLICATE"
    assert office.listed() == []


def test_a_correction_waits_for_its_original(office: Office) -> None:
    """One whose original never came is held; one that came before it counts when it is replayed."""
    void = usage("void", metric="", value=0, corrects="a", voids=True, correlation_id="")
    early = office.append(void)
    office.append(usage("a", metric="calls", value=3, subject="u1"))
    replayed = office.post("replay", rule="usage:original")

    with office.shop.database.reading() as session:
        row = session.scalars(select(UsageEventRow).where(UsageEventRow.event_id == "void")).one()
    assert [(one.outcome.name, one.rule) for one in early] == [("QUARANTINED", "usage:original")]
    assert replayed["released"] == 1
    assert (row.corrects, row.voids, row.metric, row.subject) == ("a", True, "calls", "u1")


def test_a_correction_in_the_batch_of_its_original(office: Office) -> None:
    """It is completed from the original beside it; a correction of a correction is refused."""
    original = usage("a", metric="calls", value=3)
    amend = usage("amend", metric="", value=2, corrects="a", correlation_id="")
    twice = usage("twice", metric="", value=1, corrects="amend", correlation_id="")

    together = office.append(amend, original)
    [refused] = office.append(twice)

    assert [one.outcome.name for one in together] == ["ACCEPTED", "ACCEPTED"]
    assert (refused.outcome.name, refused.rule) == ("INVALID", "usage:original")


def test_what_is_held_is_counted_by_rule(office: Office) -> None:
    """For alerts; a rule that holds nothing any more says so."""
    look = Attention(office.shop.database, office.shop.clock)
    office.append(usage("a"), usage("b"))
    look.step()
    held = _gauge()
    office.post("discard", everything=True)
    look.step()

    assert (held, _gauge()) == (2, 0)


def _gauge() -> float | None:
    return metrics.REGISTRY.get_sample_value("entitlement_usage_quarantined", {"rule": "usage:metric"})
