"""What the root has counted against the ledger: what differs for a while is explained, lease by lease."""

from __future__ import annotations

from typing import Any

from entitlement_sidecar.domain.lease import TTL
from entitlement_sidecar.planstore.db import QuotaCounterRow
from entitlement_sidecar.planstore.usage.lost_holders import LostHolders
from entitlement_sidecar.wire.codec import to_timestamp
from support.leasing import Sidecar, arrive
from support.shop import Shop

PATH = "/api/billing/organizations/acme/usage/reconciliation"


def lines(shop: Shop, **asked: str) -> dict[str, dict[str, Any]]:
    """Each column of the limit per day."""
    answer = shop.rest.get(PATH, params={"feature": "calls", **asked})
    assert answer.status_code == 200, answer.text
    return {line["column"]: line for line in answer.json()["lines"]}


def brief(line: dict[str, Any]) -> tuple[int, int, int, list[tuple[int, str]]]:
    """Authority, ledger, what is unexplained, and the causes of the rest."""
    causes = [(one["quantity"], one["cause"].partition(" ")[0]) for one in line["explained"]]
    return line["authority"], line["ledger"], line["unexplained"], causes


def test_what_agrees(plenty: Shop, sidecar: Sidecar) -> None:
    """Used from a lease, told, and the events have come: no difference in any column."""
    lease = sidecar.acquire(10).lease
    sidecar.told("SettleLease", lease.id, used=4)
    arrive(plenty, "e-1", 3, plenty.clock.now(), lease.id)
    arrive(plenty, "e-2", 1, plenty.clock.now(), lease.id)
    arrive(plenty, "e-3", 5, plenty.clock.now())

    found = lines(plenty)

    assert {column: brief(line) for column, line in found.items()} == {
        "admitted": (4, 4, 0, []),
        "unadmitted": (5, 5, 0, []),
        "delegated": (6, 6, 0, []),
        "forfeited": (0, 0, 0, []),
    }
    assert (found["admitted"]["limit"], found["admitted"]["window_end"]) == ("day", "2026-02-01T00:00:00Z")


def test_between_a_use_and_its_event(plenty: Shop, sidecar: Sidecar) -> None:
    """Told, and on the way; arrived, and not told; admitted alone, and on the way; reported."""
    ahead, behind = sidecar.acquire(5, "ahead").lease, sidecar.acquire(5, "behind").lease
    sidecar.told("SettleLease", ahead.id, used=4)
    arrive(plenty, "e-1", 1, plenty.clock.now(), ahead.id)
    arrive(plenty, "e-2", 2, plenty.clock.now(), behind.id)
    sidecar.call("Consume", tenant_id="acme", feature="calls", quantity=7, request_id="c-1")
    now = to_timestamp(plenty.clock.now())
    reported = {"tenant_id": "acme", "feature": "calls", "quantity": 9, "occurred_at": now}
    sidecar.call("ReportUnadmitted", **reported, request_id="u-1")

    found = lines(plenty)

    explained = found["admitted"]["explained"]
    assert {one["lease_id"]: (one["quantity"], one["holder"]) for one in explained} == {
        ahead.id: (3, "one:1"),
        behind.id: (-2, "one:1"),
        "": (7, ""),
    }
    assert brief(found["admitted"])[:3] == (11, 3, 0)
    assert brief(found["unadmitted"]) == (9, 0, 0, [(9, "reported")])

    arrive(plenty, "u-1", 9, plenty.clock.now())
    arrive(plenty, "c-1", 7, plenty.clock.now(), "root:abc")
    found = lines(plenty)
    assert brief(found["admitted"])[:3] == (11, 10, 0)
    assert brief(found["unadmitted"]) == (9, 9, 0, [])


def test_a_void_explains_itself(plenty: Shop, sidecar: Sidecar) -> None:
    """What was voided is given back, and both sides say so."""
    lease = sidecar.acquire(10).lease
    sidecar.told("SettleLease", lease.id, used=4)
    arrive(plenty, "e-1", 4, plenty.clock.now(), lease.id)
    body = {"event_id": "e-1", "value": 1, "reason": "twice"}
    answer = plenty.rest.post("/api/billing/organizations/acme/usage/corrections", json=body)

    assert answer.status_code == 200
    assert brief(lines(plenty)["admitted"]) == (1, 1, 0, [])


def test_what_a_released_holder_used(plenty: Shop, sidecar: Sidecar) -> None:
    """Counted as unadmitted by the root, and an event that names its lease in the ledger."""
    lease = sidecar.acquire(10).lease
    plenty.clock.advance(TTL)
    LostHolders(plenty.database, plenty.accounts).step()
    assert brief(lines(plenty)["forfeited"]) == (10, 10, 0, [])
    path = "/api/billing/organizations/acme/leases/release-forfeited"
    plenty.rest.post(path, json={"reason": "scrapped"})
    arrive(plenty, "e-1", 4, plenty.clock.now(), lease.id)
    sidecar.told("SettleLease", lease.id, used=4)

    found = lines(plenty)

    assert brief(found["admitted"]) == (0, 4, 0, [(-4, "used")])
    assert brief(found["unadmitted"]) == (4, 0, 0, [(4, "used")])


def test_what_has_no_cause(plenty: Shop, sidecar: Sidecar) -> None:
    """A counter that was changed by another hand."""
    sidecar.acquire(10)
    with plenty.database.writing() as session:
        for row in session.query(QuotaCounterRow):
            row.admitted, row.delegated = 2, 9

    found = lines(plenty)

    assert brief(found["admitted"]) == (2, 0, 2, [])
    assert brief(found["delegated"]) == (9, 10, -1, [])


def test_other_windows_and_features(plenty: Shop, sidecar: Sidecar) -> None:
    """Of an instant, and of one feature or of all."""
    sidecar.acquire(10)

    assert lines(plenty, at="2026-01-30T12:00:00Z") == {}
    assert len(plenty.rest.get(PATH).json()["lines"]) == 4
    assert plenty.rest.get(PATH, params={"feature": "seats"}).json()["lines"] == []
    assert plenty.rest.get(PATH, params={"feature": "A b"}).status_code == 422
    assert plenty.rest.get(PATH.replace("acme", "nobody")).status_code == 404
