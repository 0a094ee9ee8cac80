"""Snapshots as operators see them: shown, verified in the database and in Redis, republished."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis
from sqlalchemy import select, update

from entitlement_sidecar.planstore.db import (
    AuditRow,
    Database,
    OrganizationRow,
    SnapshotOutboxRow,
    TenantSnapshotRow,
)
from entitlement_sidecar.planstore.snapshots import bulk
from entitlement_sidecar.planstore.snapshots.publisher import RedisPublisher
from entitlement_sidecar.planstore.snapshots.redis_feed import RedisFeedWriter
from entitlement_sidecar.planstore.snapshots.verification import Verification
from entitlement_sidecar.wire.envelopes import seal_snapshot
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY, snapshot_key
from entitlement_sidecar.wire.signing import SigningKey
from support.shop import Shop

ALL = "/api/billing/snapshots"
ACME = "/api/billing/organizations/acme/snapshot"


@dataclasses.dataclass
class Published:
    """A shop whose changes are published to a Redis, step by step."""

    shop: Shop
    redis: redis.Redis
    publisher: RedisPublisher
    verification: Verification

    def publish(self) -> None:
        """Publishes all that waits."""
        self.publisher.step()

    def faults(self, *tenants: str) -> list[tuple[str, str, str]]:
        """What does not fit, of the catalogue and of tenants."""
        found = (*self.verification.catalogue(), *self.verification.these(tenants).faults)
        return [(one.tenant_id, one.where, one.cause) for one in found]


@pytest.fixture
def published(shop: Shop, redis_db: str) -> Iterator[Published]:
    """Two tenants, published."""
    shop.subscribe("acme")
    shop.subscribe("zeta", "free")
    with redis.Redis.from_url(redis_db) as client:
        publisher = RedisPublisher(shop.database, RedisFeedWriter(client), shop.key, 1, shop.clock)
        publisher.step()
        yield Published(shop, client, publisher, Verification(shop.database, shop.ring, client))


def audited(database: Database) -> list[tuple[str, str]]:
    """Actions in the log of audit, and of which tenant."""
    with database.reading() as session:
        rows = session.scalars(select(AuditRow).order_by(AuditRow.sequence)).all()
    return [(row.action, row.tenant_id) for row in rows]


def test_a_snapshot_is_shown(shop: Shop) -> None:
    """Version, key, phases and grants, in words."""
    shop.subscribe("acme", "basic", add_ons={"more": 2})

    shown = shop.rest.get(ACME).json()

    assert (shown["tenant_id"], shown["version"], shown["key_id"]) == ("acme", 1, shop.key.key_id)
    [subscription] = shown["subscriptions"]
    assert (subscription["plan"], subscription["plan_version"]) == ("basic", 1)
    assert subscription["phases"][0]["state"] == "active"
    calls = [grant for grant in shown["grants"] if grant["feature"] == "calls"]
    assert [(grant["provenance"], grant["source"]) for grant in calls] == [
        ("plan", "basic@1"),
        ("add_on", "more"),
    ]
    assert [(limit["amount"], limit["window"]) for limit in calls[1]["limits"]] == [(6, "day")]


def test_nobody_has_no_snapshot(shop: Shop) -> None:
    """An unknown tenant is 404 everywhere; a malformed cursor is named."""
    for answer in (
        shop.rest.get(ACME),
        shop.rest.get(f"{ALL}/verify?tenant_id=acme"),
        shop.rest.post(f"{ACME}/republish"),
    ):
        assert (answer.status_code, answer.json()["reason"]) == (404, "TENANT_UNKNOWN")
    for answer in (
        shop.rest.get(f"{ALL}/verify?cursor=%20"),
        shop.rest.post(f"{ALL}/republish", json={"cursor": "nonsense"}),
        shop.rest.post(f"{ALL}/republish", json={"cursor": "é"}),
    ):
        assert answer.status_code == 422
        assert answer.json()["violations"][0]["field"] == "cursor"


def test_republishing_one_moves_its_version(shop: Shop) -> None:
    """The same content again, signed anew, announced and audited."""
    shop.subscribe("acme")
    before = shop.snapshot()

    answer = shop.rest.post(f"{ACME}/republish")

    assert answer.json() == {"tenant_id": "acme", "snapshot_version": 2}
    stamped = {"version": 2, "compiled_at": shop.snapshot().compiled_at}
    assert shop.snapshot() == msgspec.structs.replace(before, **stamped)
    assert shop.outbox()[-1] == ("snapshot", "acme", 2)
    assert audited(shop.database)[-1] == ("snapshot.republished", "acme")


def test_republishing_all_goes_by_page(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone once, those who used something first; who changed meanwhile is left out."""
    monkeypatch.setattr(bulk, "BATCH", 2)
    # The shop's clock stands still.
    monkeypatch.setattr(bulk, "PER_SECOND", math.inf)
    tenants = [f"tenant-{number}" for number in range(7)]
    for tenant in tenants:
        shop.subscribe(tenant)
    used = {"feature": "calls", "quantity": 1, "record_usage": True, "request_id": "r"}
    checked = shop.rest.post("/api/billing/organizations/tenant-5/quotas/check", json=used)
    assert checked.is_success, checked.text
    shop.clock.advance(1.0)

    order: list[str] = []
    body: dict[str, Any] = {"limit": 2}
    while True:
        page = shop.rest.post(f"{ALL}/republish", json=body).json()
        order += [one["tenant_id"] for one in page["republished"]]
        if len(order) == 3:
            shop.clock.advance(1.0)
            shop.subscribe("tenant-6", "free")
        if page["next_cursor"] is None:
            break
        body["cursor"] = page["next_cursor"]

    assert order[0] == "tenant-5"
    assert sorted(order) == tenants[:6]
    assert all(shop.snapshot(tenant).version == 2 for tenant in tenants)
    assert ("snapshots.republished", "") in audited(shop.database)


def test_bulk_work_waits_for_the_publisher(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too much unpublished nothing is done, and the answer says why."""
    monkeypatch.setattr(bulk, "MAX_WAITING", 1)
    monkeypatch.setattr(bulk.Pace.wait, "__defaults__", (0.0,))
    shop.subscribe("acme")
    shop.clock.advance(1.0)

    answer = shop.rest.post(f"{ALL}/republish")

    assert answer.status_code == 503
    assert "wait to be published" in answer.json()["detail"]
    assert shop.snapshot().version == 1


def test_what_is_right_has_no_fault(published: Published) -> None:
    """Also while a change is on its way."""
    assert published.faults("acme", "zeta") == []
    published.shop.subscribe("acme", "free")
    assert published.faults("acme", "zeta") == []
    assert published.verification.these(["acme", "zeta"]).waiting == ("acme",)
    published.publish()
    found = published.verification.tenants("", 10)
    assert (found.checked, found.faults, found.waiting) == (("acme", "zeta"), (), ())


def test_what_redis_has_wrong_is_named(published: Published) -> None:
    """Missing, old, forged, newer, of another tenant: each with its cause, and the good one is not named."""
    client, shop, key = published.redis, published.shop, snapshot_key("acme")
    envelope: Any = client.hget(key, "envelope")
    other: Any = client.hget(snapshot_key("zeta"), "envelope")
    forged = seal_snapshot(SigningKey.generate(), shop.snapshot())
    newer = seal_snapshot(shop.key, msgspec.structs.replace(shop.snapshot(), version=9))
    altered = seal_snapshot(shop.key, msgspec.structs.replace(shop.snapshot(), grants=()))
    for cause, value in {
        "unknown_key": {"version": 1, "envelope": forged},
        "signature": {"version": 1, "envelope": envelope[:-2] + b"00"},
        "misplaced": {"version": 1, "envelope": other},
        "garbage": {"version": 1, "envelope": b"\xff"},
        "version": {"version": 9, "envelope": newer},
        "content": {"version": 1, "envelope": altered},
    }.items():
        client.hset(key, mapping=value)
        assert published.faults("acme", "zeta") == [("acme", "redis", cause)]
    client.delete(key)
    assert published.faults("acme", "zeta") == [("acme", "redis", "missing")]
    client.set(key, "of another type")
    assert published.faults("acme", "zeta") == [("acme", "redis", "missing")]
    client.delete(CATALOGUE_KEY)
    assert ("", "redis", "missing") in published.faults()


def test_what_the_database_has_wrong_is_named(published: Published) -> None:
    """A signature that does not fit, a version that lags, a snapshot that is gone."""
    database, shop = published.shop.database, published.shop
    forged = seal_snapshot(SigningKey.generate(), shop.snapshot())
    row = TenantSnapshotRow
    for cause, change in (
        ("unknown_key", update(row).where(row.tenant_id == "acme").values(envelope=forged)),
        ("version", update(OrganizationRow).values(snapshot_version=7)),
    ):
        with database.writing() as session:
            kept = {one.tenant_id: one.envelope for one in session.scalars(select(row))}
            session.execute(change)
        assert ("acme", "database", cause) in published.faults("acme", "zeta")
        with database.writing() as session:
            session.execute(update(OrganizationRow).values(snapshot_version=1))
            for one in session.scalars(select(row)):
                one.envelope = kept[one.tenant_id]
    assert published.faults("acme", "zeta") == []
    with database.writing() as session:
        session.delete(session.get_one(row, "acme"))
    assert published.faults("acme", "zeta") == [("acme", "database", "missing")]


def test_verifying_goes_by_page(shop: Shop) -> None:
    """The cursor leads through all; without Redis the database alone is looked at."""
    for tenant in ("a", "b", "c"):
        shop.subscribe(tenant)
    seen, cursor = 0, ""
    pages = 0
    while True:
        page = shop.rest.get(f"{ALL}/verify?limit=2&cursor={cursor}").json()
        pages += 1
        seen += page["checked"]
        assert (page["faults"], page["redis"], page["waiting"]) == ([], False, 0)
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
    assert (seen, pages) == (3, 2)


def test_heartbeats_go_on_while_changes_come(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that comes while the publisher works does not silence it: it speaks of before."""
    shop, publisher = published.shop, published.publisher
    beats: list[bytes] = []
    writer = publisher._writer
    monkeypatch.setattr(writer, "beat", lambda _, envelope: beats.append(envelope))
    send = publisher._send
    changes = iter(range(1, 100))

    def and_one_more(*given: Any) -> Any:
        sent = send(*given)
        if not shop.database.is_sqlite:
            # Committed by another plan store between this look and the next.
            shop.subscribe("zeta", "basic", add_ons={"more": next(changes)})
        return sent

    monkeypatch.setattr(publisher, "_send", and_one_more)
    for _ in range(3):
        shop.clock.advance(1.0)
        shop.subscribe("acme", "basic", add_ons={"more": next(changes)})
        publisher.step()

    assert len(beats) == 3
    if not shop.database.is_sqlite:
        with shop.database.reading() as session:
            waiting = session.scalars(
                select(SnapshotOutboxRow).where(SnapshotOutboxRow.published_at.is_(None))
            )
            assert [row.tenant_id for row in waiting] == ["zeta"]
