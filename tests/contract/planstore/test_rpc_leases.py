"""QuotaService's leases, on both databases, through grpcio-testing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest

from entitlement_sidecar.domain.lease import TTL
from entitlement_sidecar.planstore.snapshots import in_force
from entitlement_sidecar.planstore.subscriptions import Target
from entitlement_sidecar.planstore.usage.account_rows import Opening
from entitlement_sidecar.planstore.usage.allowances import Allowance
from entitlement_sidecar.wire.codec import to_timestamp
from entitlement_sidecar.wire.v1 import quota_pb2
from support.leasing import PLENTY, Sidecar, arrive
from support.shop import NOW, Shop

OK, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND
INVALID, REFUSED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def plenty(shop: Shop) -> Shop:
    """A tenant with 100 calls a day, 1000 a month, three seats."""
    shop.apply(PLENTY)
    shop.subscribe()
    return shop


def test_a_lease_holds_tokens_of_every_limit(sidecar: Sidecar, plenty: Shop) -> None:
    """It names its totals, its end and what is used; its tokens are outstanding everywhere."""
    response = sidecar.acquire(10)

    lease = response.lease
    assert (lease.granted, lease.sequence, lease.closed, lease.ttl.seconds) == (10, 1, False, 30)
    assert lease.ends_at == to_timestamp((plenty.clock.now() + timedelta(days=1)).replace(hour=0, minute=0))
    assert [usage.outstanding for usage in lease.usage] == [10, 10]
    assert sidecar.view() == (0, 10)


def test_acquiring_again_is_the_same_lease(sidecar: Sidecar) -> None:
    """A retry gets what the first call got; another request is another lease."""
    first = sidecar.acquire(10).lease

    assert sidecar.acquire(10).lease == first
    assert sidecar.acquire(10, "second").lease.id != first.id
    assert sidecar.view() == (0, 20)


def test_nobody_gets_all_at_once(plenty: Shop, sidecar: Sidecar) -> None:
    """Half of what is left, divided by those who hold; the last tokens go one by one."""
    assert sidecar.acquire(1000).lease.granted == 50
    assert Sidecar(plenty, "two").acquire(1000).lease.granted == 25
    assert Sidecar(plenty, "three").acquire(1000).lease.granted == 6
    more = [Sidecar(plenty, f"more-{number}").acquire(1000).lease.granted for number in range(16)]
    assert (more, sum(more)) == (sorted(more, reverse=True), 19)

    refused = Sidecar(plenty, "last").acquire(1)
    assert (refused.HasField("lease"), [usage.outstanding for usage in refused.usage]) == (False, [100, 100])


def test_what_is_needed_now_is_granted(plenty: Shop, sidecar: Sidecar) -> None:
    """Beyond a fair share too, as far as there is any."""
    lease = sidecar.acquire(80, needs=60).lease
    assert lease.granted == 60
    assert Sidecar(plenty, "two").acquire(30, needs=20).lease.granted == 20

    renewed = sidecar.told("RenewLease", lease.id, wants=40, needs=40, sequence=2).lease

    assert renewed.granted == 80


def test_a_renewal_settles_and_grants(sidecar: Sidecar) -> None:
    """Totals come in, totals go out; the same request again changes nothing."""
    lease = sidecar.acquire(10).lease

    told = {"lease_id": lease.id, "used": 8, "returned": 1, "wants": 5, "sequence": 2}
    renewed = sidecar.told("RenewLease", **told).lease
    again = sidecar.told("RenewLease", **told).lease

    assert (renewed.granted, renewed.sequence, renewed.closed) == (15, 2, False)
    assert (again.granted, again.sequence) == (15, 2)
    assert sidecar.view() == (8, 6)


def test_an_older_renewal_is_granted_nothing(sidecar: Sidecar) -> None:
    """Reordered on its way: the answer tells the newest totals."""
    lease = sidecar.acquire(10).lease
    sidecar.told("RenewLease", lease.id, used=8, wants=5, sequence=3)

    late = sidecar.told("RenewLease", lease.id, used=2, wants=5, sequence=2).lease

    assert (late.granted, late.sequence, sidecar.view()) == (15, 3, (8, 7))


def test_settled_and_returned(sidecar: Sidecar) -> None:
    """What was used is used; a return ends the lease, and may come twice."""
    lease = sidecar.acquire(10).lease

    settled = sidecar.told("SettleLease", lease.id, used=3, returned=2)
    assert (settled.has, settled.closed, sidecar.view()) == (5, False, (3, 5))
    assert sidecar.told("ReturnLease", lease.id, used=4).returned == 4
    assert sidecar.told("ReturnLease", lease.id, used=4).returned == 0
    assert sidecar.view() == (4, 0)
    assert sidecar.told("RenewLease", lease.id, used=4, wants=9, sequence=9).lease.closed


def test_replicas_share_the_rows(plenty: Shop, sidecar: Sidecar) -> None:
    """What one plan store granted another one renews."""
    lease = sidecar.acquire(10).lease
    replica = Sidecar(plenty)

    assert replica.told("RenewLease", lease.id, used=1, wants=1, sequence=2).lease.granted == 11
    assert sidecar.told("SettleLease", lease.id, used=2, returned=0).has == 9


def test_another_sidecar_may_not_speak_for_it(plenty: Shop, sidecar: Sidecar) -> None:
    """Nor the same one after a restart, which is another holder."""
    lease = sidecar.acquire(10).lease

    for other in (Sidecar(plenty, "two"), Sidecar(plenty, epoch=2)):
        _, code, details = other.call("ReturnLease", lease_id=lease.id, used=0)
        assert code is REFUSED
        assert "is held by 'one:1'" in details


def test_a_lease_that_never_was(sidecar: Sidecar) -> None:
    """Is not found."""
    _, code, details = sidecar.call("SettleLease", lease_id="lease:none", used=1)

    assert (code, details) == (
        NOT_FOUND,
        "no lease 'lease:none': it was never granted, or was settled long ago",
    )


def test_what_ends_with_its_window(plenty: Shop, sidecar: Sidecar) -> None:
    """Past the day nothing is granted of it, and the limit of the month gets back what is left."""
    lease = sidecar.acquire(10).lease
    plenty.clock.advance(12 * 3600)

    renewed = sidecar.told("RenewLease", lease.id, used=4, wants=5, sequence=2).lease

    assert (renewed.granted, renewed.closed) == (10, True)
    assert sidecar.told("ReturnLease", lease.id, used=4).returned == 6
    assert sidecar.view() == (0, 0)
    assert [usage.used for usage in sidecar.acquire(1).usage] == []


def test_a_plan_that_changed(plenty: Shop, sidecar: Sidecar) -> None:
    """Other limits: nothing more of this lease, another one is of the new limits."""
    lease = sidecar.acquire(10).lease
    plenty.subscribe(plan="weekly")

    renewed = sidecar.told("RenewLease", lease.id, used=1, wants=5, sequence=2).lease

    assert (renewed.granted, renewed.closed) == (10, True)
    assert not sidecar.acquire(5, "second").lease.closed


def test_a_limit_that_was_lowered(plenty: Shop, sidecar: Sidecar) -> None:
    """Below what is out: the lease is recalled; what comes back makes room again."""
    plenty.subscribe(plan="large")
    lease = sidecar.acquire(50).lease
    plenty.subscribe(plan="small")

    assert sidecar.told("RenewLease", lease.id, used=5, wants=1, sequence=2).lease.closed
    sidecar.told("ReturnLease", lease.id, used=5)

    assert sidecar.acquire(50, "second").lease.granted == 7


def test_a_suspended_tenant_gets_no_more(plenty: Shop, sidecar: Sidecar) -> None:
    """What it holds is recalled, and there is no other."""
    lease = sidecar.acquire(10).lease
    with plenty.database.writing() as session:
        plenty.subscriptions.suspend(session, Target(tenant_id="acme"))

    assert sidecar.told("RenewLease", lease.id, used=1, wants=1, sequence=2).lease.closed
    refused = sidecar.acquire(1, "second")
    assert (refused.HasField("lease"), list(refused.usage)) == (False, [])


def test_seats_are_not_leased(sidecar: Sidecar) -> None:
    """They are taken by a subject."""
    _, code, details = sidecar.call(
        "AcquireLease", tenant_id="acme", feature="seats", wants=1, request_id="first"
    )

    assert (code, details) == (INVALID, "feature: 'seats' is seats: take them one by one, with Consume")


def test_holders_of_a_lost_block(plenty: Shop) -> None:
    """They settle here once the block is closed, under its id and their name."""
    with plenty.database.writing() as session:
        resolution = in_force(session, "acme", "calls", plenty.clock.now()).resolution
        assert resolution is not None
        allowance = Allowance("acme", "calls", resolution.limits)
        opening = Opening(id="block:7", holder="redis", run_id="abc")
        assert plenty.accounts.open(session, allowance, opening, 20) is not None
    holder = Sidecar(plenty)

    waiting = holder.told("SettleLease", "block:7/one:1", used=2, returned=3)
    assert (waiting.closed, holder.view()) == (False, (0, 20))
    with plenty.database.writing() as session:
        plenty.accounts.lose(session, "block:7", known=True)
    settled = holder.told("SettleLease", "block:7/one:1", used=2, returned=3)

    assert (settled.closed, settled.has, holder.view()) == (True, 15, (2, 15))
    _, code, _ = holder.call("SettleLease", lease_id="block:7/two:1", used=2)
    assert code is REFUSED
    _, code, _ = holder.call("RenewLease", lease_id="block:7", used=2, sequence=2)
    assert code is REFUSED


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("AcquireLease", {"wants": 0}, "wants"),
        ("AcquireLease", {"needs": 2}, "needs"),
        ("AcquireLease", {"request_id": ""}, "request_id"),
        ("AcquireLease", {"tenant_id": ""}, "tenant_id"),
        ("AcquireLease", {"feature": "A b"}, "feature"),
        ("AcquireLease", {"holder": quota_pb2.Holder()}, "holder.instance"),
        ("RenewLease", {"sequence": 1}, "sequence"),
        ("RenewLease", {"wants": -1}, "wants"),
        ("RenewLease", {"wants": 1, "needs": 2}, "needs"),
        ("RenewLease", {"returned": -1}, "returned"),
        ("SettleLease", {"used": -1}, "used"),
        ("SettleLease", {"lease_id": ""}, "lease_id"),
        ("SettleLease", {"holder": quota_pb2.Holder(instance="a", epoch=-1)}, "holder.epoch"),
        ("ReturnLease", {"used": 1 << 62}, "used"),
        ("ReportUnadmitted", {"quantity": 0}, "quantity"),
        ("ReportUnadmitted", {"occurred_at": None}, "occurred_at"),
    ],
)
def test_what_is_malformed_is_named(sidecar: Sidecar, name: str, fields: dict[str, Any], text: str) -> None:
    """The status names the field and what would be right."""
    right: dict[str, dict[str, Any]] = {
        "AcquireLease": {"tenant_id": "acme", "feature": "calls", "wants": 1, "request_id": "first"},
        "RenewLease": {"lease_id": "lease:1", "sequence": 2},
        "SettleLease": {"lease_id": "lease:1"},
        "ReturnLease": {"lease_id": "lease:1"},
        "ReportUnadmitted": {
            "tenant_id": "acme",
            "feature": "calls",
            "quantity": 1,
            "request_id": "e-1",
            "occurred_at": to_timestamp(NOW),
        },
    }

    _, code, details = sidecar.call(name, **{**right[name], **fields})

    assert code is INVALID
    assert details.startswith(text)


def test_unadmitted_usage_counts_once(plenty: Shop, sidecar: Sidecar) -> None:
    """Also when it is reported twice, and when its event comes after it."""
    at = plenty.clock.now()
    fields = {
        "tenant_id": "acme",
        "feature": "calls",
        "quantity": 120,
        "occurred_at": to_timestamp(at),
        "request_id": "e-1",
    }

    first, code, _ = sidecar.call("ReportUnadmitted", **fields)
    again, _, _ = sidecar.call("ReportUnadmitted", **fields)
    arrive(plenty, "e-1", 120, at)

    assert (code, [usage.used for usage in first.usage]) == (OK, [120, 120])
    assert again == first
    assert sidecar.view() == (120, 0)
    _, code, _ = sidecar.call("ReportUnadmitted", **{**fields, "quantity": 5})
    assert code is REFUSED
    assert not sidecar.acquire(1).HasField("lease")


def test_an_event_that_came_first_is_not_counted_again(plenty: Shop, sidecar: Sidecar) -> None:
    """The report finds it counted."""
    arrive(plenty, "e-1", 3, plenty.clock.now())

    sidecar.call(
        "ReportUnadmitted",
        tenant_id="acme",
        feature="calls",
        quantity=3,
        occurred_at=to_timestamp(plenty.clock.now()),
        request_id="e-1",
    )

    assert sidecar.view() == (3, 0)


def test_a_lost_holder_is_believed_late(plenty: Shop, sidecar: Sidecar) -> None:
    """Its tokens stay spent until it tells what it used."""
    lease = sidecar.acquire(10).lease
    plenty.clock.advance(TTL)
    with plenty.database.writing() as session:
        plenty.accounts.lose(session, lease.id)

    assert sidecar.view() == (0, 10)
    assert sidecar.told("SettleLease", lease.id, used=4, returned=6).closed
    assert sidecar.view() == (4, 0)
