"""Holders that are not heard of any more: closed in time, shown to operators, released by hand."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.lease import DRIFT, TTL
from entitlement_sidecar.planstore.db import AuditRow, QuotaAccountRow, QuotaCounterRow
from entitlement_sidecar.planstore.ingest.servicer import UsageIngestServicer
from entitlement_sidecar.planstore.leases.strictness import Strictness
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.lost_holders import EVERY, KEPT, PROVED_EVERY, LostHolders
from entitlement_sidecar.telemetry.metrics import REGISTRY
from entitlement_sidecar.wire.v1 import usage_pb2
from support.ingesting import sent_event
from support.leasing import PLENTY, Sidecar
from support.shop import Shop

LEASES = "/api/billing/organizations/acme/leases"
SOFT = PLENTY.replace(
    "{amount: 100, window: day}, {amount: 1000, window: billing_cycle}",
    "{amount: 100, window: day, soft: true}",
)


def look(shop: Shop) -> float:
    """One look of the worker."""
    return LostHolders(shop.database, shop.accounts).step()


def lost(outcome: str) -> float:
    """What the metric says."""
    return REGISTRY.get_sample_value("entitlement_lease_tokens_lost_total", {"outcome": outcome}) or 0.0


def counters(shop: Shop) -> dict[str, tuple[int, int, int, int]]:
    """Admitted, unadmitted, delegated and forfeited of each limit."""
    with shop.database.reading() as session:
        rows = session.scalars(select(QuotaCounterRow)).all()
    return {row.limit_key: (row.admitted, row.unadmitted, row.delegated, row.forfeited) for row in rows}


def accounts(shop: Shop) -> list[str]:
    """Ids of all accounts."""
    with shop.database.reading() as session:
        return list(session.scalars(select(QuotaAccountRow.id)))


def test_a_holder_is_lost_when_its_time_is_over(plenty: Shop, sidecar: Sidecar) -> None:
    """Not before; what it had of a hard limit stays spent, and is counted once by all replicas together."""
    lease = sidecar.acquire(10).lease
    plenty.clock.advance(TTL - 1)
    before = lost("forfeited")
    assert (look(plenty), counters(plenty)) == (EVERY, {"day": (0, 0, 10, 0)})

    plenty.clock.advance(1)
    look(plenty)
    look(plenty)

    assert counters(plenty) == {"day": (0, 0, 10, 10)}
    assert lost("forfeited") - before == 10
    assert sidecar.told("RenewLease", lease.id, used=4, wants=5, sequence=2).lease.closed
    assert counters(plenty) == {"day": (4, 0, 6, 6)}


def test_who_renews_is_not_lost(plenty: Shop, sidecar: Sidecar) -> None:
    """Each renewal prolongs."""
    lease = sidecar.acquire(10).lease
    for sequence in (2, 3, 4):
        plenty.clock.advance(TTL - 5)
        sidecar.told("RenewLease", lease.id, used=sequence, wants=0, sequence=sequence)
        look(plenty)

    assert counters(plenty) == {"day": (4, 0, 6, 0)}


def test_a_soft_limit_takes_back(plenty: Shop, sidecar: Sidecar) -> None:
    """A little later, when no clock can let the holder use them any more."""
    plenty.apply(SOFT)
    plenty.subscribe(plan="basic")
    lease = sidecar.acquire(10).lease
    plenty.clock.advance(TTL + 1)
    look(plenty)
    assert counters(plenty) == {"day:soft": (0, 0, 10, 0)}

    plenty.clock.advance(DRIFT)
    look(plenty)
    assert counters(plenty) == {"day:soft": (0, 0, 0, 0)}
    sidecar.told("SettleLease", lease.id, used=4)

    assert counters(plenty) == {"day:soft": (0, 4, 0, 0)}


def test_what_is_settled_is_cleared_away(plenty: Shop, sidecar: Sidecar) -> None:
    """After a day; what lost holders still have stays, and so does what is open."""
    ended, kept = sidecar.acquire(5, "ended").lease, sidecar.acquire(5, "kept").lease
    sidecar.told("ReturnLease", ended.id, used=3)
    plenty.clock.advance(KEPT.total_seconds())
    look(plenty)
    assert sorted(accounts(plenty)) == sorted([ended.id, kept.id])

    plenty.clock.advance(TTL + 1)
    open_ = sidecar.acquire(1, "open").lease
    look(plenty)

    assert sorted(accounts(plenty)) == sorted([kept.id, open_.id])


def test_operators_see_who_holds(plenty: Shop, sidecar: Sidecar) -> None:
    """Page by page, all or those that are lost."""
    first = sidecar.acquire(10).lease
    plenty.clock.advance(TTL)
    look(plenty)
    Sidecar(plenty, "two").acquire(4)

    page = plenty.rest.get(LEASES, params={"limit": 1}).json()
    rest = plenty.rest.get(LEASES, params={"cursor": page["next_cursor"]}).json()
    found = page["leases"] + rest["leases"]

    assert (len(page["leases"]), rest["next_cursor"]) == (1, None)
    assert {(one["holder"], one["outstanding"], one["state"]) for one in found} == {
        ("one:1", 10, "forfeited"),
        ("two:1", 4, "open"),
    }
    (forfeited,) = plenty.rest.get(LEASES, params={"forfeited": "true", "feature": "calls"}).json()["leases"]
    assert (forfeited["id"], forfeited["kind"], forfeited["ends_at"]) == (
        first.id,
        "lease",
        "2026-02-01T00:00:00Z",
    )
    assert plenty.rest.get(LEASES, params={"feature": "seats"}).json()["leases"] == []


def release(shop: Shop, **body: Any) -> Any:
    """The answer to releasing what lost holders had."""
    return shop.rest.post(f"{LEASES}/release-forfeited", json={"reason": "scrapped", **body})


def test_released_by_hand_and_audited(plenty: Shop, sidecar: Sidecar) -> None:
    """Only what lost holders had; what one tells later all the same counts as unadmitted."""
    lease = sidecar.acquire(10).lease
    plenty.clock.advance(TTL)
    look(plenty)
    before = lost("released")

    answer = release(plenty, feature="calls")

    assert (answer.status_code, answer.json()) == (200, {"leases": 1, "tokens": 10})
    assert (counters(plenty), lost("released") - before) == ({"day": (0, 0, 0, 0)}, 10)
    with plenty.database.reading() as session:
        (entry,) = session.scalars(select(AuditRow).where(AuditRow.action == "lease.released"))
    assert (entry.tenant_id, entry.resource, entry.reason) == ("acme", f"lease/{lease.id}", "scrapped")
    assert release(plenty).json() == {"leases": 0, "tokens": 0}
    sidecar.told("SettleLease", lease.id, used=4)
    assert counters(plenty) == {"day": (0, 4, 0, 0)}


def sent(number: int, value: int, lease_id: str, **more: Any) -> tuple[int, usage_pb2.UsageEvent]:
    """A use of calls from a lease, with its place."""
    return number, sent_event(f"{lease_id}-{number}", value=value, lease_id=lease_id, **more)


def deliver(shop: Shop, epoch: int, *events: tuple[int, usage_pb2.UsageEvent], **more: Any) -> None:
    """A batch of sidecar one."""
    request = usage_pb2.IngestBatchRequest(
        **{"accepted_total": len(events), **more},
        instance="one",
        epoch=epoch,
        batch_id=events[0][0],
        events=[usage_pb2.SequencedEvent(sequence=number, event=event) for number, event in events],
    )
    UsageIngestServicer(shop.database, Ledger(limits_of), shop.clock).ingest(request)


def look_again(shop: Shop) -> None:
    """The next look for holders whose events are all here."""
    shop.clock.advance(PROVED_EVERY)
    look(shop)


def test_a_lost_holder_whose_events_are_all_here_is_settled(plenty: Shop, sidecar: Sidecar) -> None:
    """Not before its next start delivers: its events, rollups too, say what it used; the rest is back."""
    lease = sidecar.acquire(10).lease
    plenty.clock.advance(TTL)
    look(plenty)
    before = lost("accounted")
    deliver(plenty, 1, sent(1, 3, lease.id), accepted_total=2)
    look_again(plenty)
    deliver(plenty, 1, sent(2, 2, lease.id, count=2), accepted_total=2)
    look_again(plenty)
    assert counters(plenty) == {"day": (0, 0, 10, 10)}

    deliver(plenty, 2, sent(1, 1, "root:other"))
    look_again(plenty)

    assert counters(plenty) == {"day": (5, 0, 0, 0)}
    assert lost("accounted") - before == 5
    sidecar.told("SettleLease", lease.id, used=6)
    assert counters(plenty) == {"day": (5, 1, 0, 0)}


def test_a_lost_holder_that_never_delivered_had_used_nothing(plenty: Shop, sidecar: Sidecar) -> None:
    """Its next start would have sent its events first."""
    sidecar.acquire(10)
    plenty.clock.advance(TTL)
    look(plenty)

    deliver(plenty, 2, sent(1, 1, "root:other"))
    look_again(plenty)

    assert counters(plenty) == {"day": (0, 0, 0, 0)}


@pytest.mark.parametrize("wrong", ["outstanding", "declared", "quarantined"])
def test_a_lost_holder_whose_events_are_not_all_here_is_not_settled(
    plenty: Shop, sidecar: Sidecar, wrong: str
) -> None:
    """What did not come, or does not count yet, may have been used."""
    lease = sidecar.acquire(10).lease
    plenty.clock.advance(TTL)
    look(plenty)
    number, event = sent(2, 3, lease.id)
    more: dict[str, Any] = {"accepted_total": 2}
    if wrong == "quarantined":
        event.metric, more["accepted_total"] = "unknown", 2
        deliver(plenty, 1, sent(1, 1, lease.id), accepted_total=2)
    if wrong == "declared":
        more["declared"] = [usage_pb2.SequenceRange(first=1, last=1)]
    deliver(plenty, 1, (number, event), **more)
    deliver(plenty, 2, sent(1, 1, "root:other"))

    look_again(plenty)

    assert counters(plenty) == {"day": (0, 0, 10, 10)}


def test_what_events_say_is_not_released_by_hand(plenty: Shop, sidecar: Sidecar) -> None:
    """Its events are here in part: that much was used."""
    lease = sidecar.acquire(10).lease
    plenty.clock.advance(TTL)
    look(plenty)
    deliver(plenty, 1, sent(1, 3, lease.id), accepted_total=2)

    assert release(plenty).json() == {"leases": 1, "tokens": 7}
    assert counters(plenty) == {"day": (3, 0, 0, 0)}


def test_an_open_lease_is_not_released(plenty: Shop, sidecar: Sidecar) -> None:
    """Its holder may be using it."""
    sidecar.acquire(10)

    assert release(plenty).json() == {"leases": 0, "tokens": 0}
    assert counters(plenty) == {"day": (0, 0, 10, 0)}


def test_a_limit_that_lost_much_is_strict(plenty: Shop, sidecar: Sidecar) -> None:
    """No lease any more, which operators see: each use is admitted by itself, until it is released."""
    sidecar.acquire(10)
    plenty.clock.advance(TTL)
    look(plenty)
    assert seen_as_strict(plenty) == (0.0, False, False)
    sidecar.acquire(1, "one more")
    plenty.clock.advance(TTL)
    look(plenty)
    assert seen_as_strict(plenty) == (1.0, True, True)

    assert not sidecar.acquire(1, "again").HasField("lease")
    response, _, _ = sidecar.call("Consume", tenant_id="acme", feature="calls", quantity=1, request_id="c-1")
    assert response.admitted
    release(plenty)
    assert sidecar.acquire(1, "again").HasField("lease")
    assert seen_as_strict(plenty) == (0.0, False, False)


def test_a_limit_is_strict_until_its_window_ends(plenty: Shop, sidecar: Sidecar) -> None:
    """The next day's has lost nothing."""
    sidecar.acquire(11)
    plenty.clock.advance(TTL)
    look(plenty)
    assert not sidecar.acquire(1, "again").HasField("lease")

    plenty.clock.advance(12 * 3600)

    assert sidecar.acquire(1, "tomorrow").lease.granted == 1
    assert seen_as_strict(plenty) == (0.0, False, False)


def seen_as_strict(shop: Shop) -> tuple[float, bool, bool]:
    """What the metric, the list of leases and reconciling say."""
    Strictness(shop.database, shop.clock).step()
    gauge = REGISTRY.get_sample_value("entitlement_quota_strict_features") or 0.0
    listed = shop.rest.get(LEASES).json()["leases"]
    lines = shop.rest.get("/api/billing/organizations/acme/usage/reconciliation").json()["lines"]
    strict = {line["column"] for line in lines if line["strict"]}
    assert strict <= {"forfeited"}
    return gauge, any(one["strict"] for one in listed), bool(strict)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("?feature=A b", None),
        ("?cursor=x", None),
        ("/release-forfeited", {}),
        ("/release-forfeited", {"reason": "why", "feature": "A b"}),
    ],
)
def test_what_is_malformed_is_refused(plenty: Shop, path: str, body: dict[str, Any] | None) -> None:
    """With a problem that names it."""
    answer = plenty.rest.get(LEASES + path) if body is None else plenty.rest.post(LEASES + path, json=body)

    assert answer.status_code == 422
