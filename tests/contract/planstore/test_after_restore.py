"""What a restored database says becomes the newest there is, on both databases."""

from __future__ import annotations

from datetime import timedelta

import redis
from sqlalchemy import func, select

from entitlement_sidecar.planstore.audit import Actor, acting
from entitlement_sidecar.planstore.db import (
    AuditRow,
    CatalogueRow,
    FeedStateRow,
    OrganizationRow,
    RedisFeedStateRow,
    SnapshotOutboxRow,
)
from entitlement_sidecar.planstore.snapshots.after_restore import (
    count_snapshots,
    lift,
    remove_blocks,
    remove_strangers,
)
from entitlement_sidecar.planstore.snapshots.feed import Sequencer
from entitlement_sidecar.wire.envelopes import open_catalogue
from entitlement_sidecar.wire.redis_keys import CATALOGUE_KEY, BlockPlace, snapshot_key
from support.population import name_of, populate
from support.shop import NOW, Shop

HOUR = timedelta(hours=1)


def test_everything_is_sealed_again_above_what_was(shop: Shop) -> None:
    """Snapshots say what they said; each of them, and the catalogue, is newer than any before."""
    populate(shop, 1001)
    before = {tenant: shop.snapshot(tenant) for tenant in map(name_of, (0, 2, 1000))}
    lifted = lift(shop.database, shop.key, NOW)
    assert (lifted.tenants, count_snapshots(shop.database)) == (1001, 1001)
    for tenant, was in before.items():
        now = shop.snapshot(tenant)
        assert (now.version, now.catalogue_version) == (lifted.version, lifted.version)
        assert (now.grants, now.subscriptions) == (was.grants, was.subscriptions)
    with shop.database.reading() as session:
        newest = session.scalars(select(CatalogueRow).order_by(CatalogueRow.version.desc())).first()
        assert newest is not None
        assert open_catalogue(shop.ring, newest.envelope).version == newest.version == lifted.version
        versions = session.scalars(select(OrganizationRow.snapshot_version).distinct()).all()
    assert versions == [lifted.version]
    assert len(shop.outbox()) == 1002


def test_the_next_change_goes_on_from_there(shop: Shop) -> None:
    """Of a tenant that was there, and of one that comes later."""
    shop.subscribe("acme")
    lifted = lift(shop.database, shop.key, NOW)
    assert shop.subscribe("acme", "free").snapshot_version == lifted.version + 1
    assert shop.subscribe("new").snapshot_version == 1


def test_it_may_be_repeated(shop: Shop) -> None:
    """Each time everything is newer; so it is where the clock went back, and after a second restore."""
    shop.subscribe("acme")
    first = lift(shop.database, shop.key, NOW)
    behind = lift(shop.database, shop.key, NOW - HOUR)
    later = lift(shop.database, shop.key, NOW + HOUR)
    assert first.version < behind.version < later.version
    assert later.version - first.version == HOUR.total_seconds() * 1000


def test_the_feed_begins_anew(shop: Shop) -> None:
    """Nothing is left of where it was, so that every reader reads all that it holds again."""
    shop.subscribe("acme")
    before = Sequencer(shop.database).drain()
    with shop.database.writing() as session:
        session.add(RedisFeedStateRow(shard=0, epoch="old", sequence=7))
    lift(shop.database, shop.key, NOW)
    with shop.database.reading() as session:
        for table in (FeedStateRow, RedisFeedStateRow):
            assert session.scalar(select(func.count()).select_from(table)) == 0
        waiting = session.scalars(select(SnapshotOutboxRow)).all()
        assert [(row.feed_sequence, row.published_at) for row in waiting] == [(None, None)] * 2
    after = Sequencer(shop.database).drain()
    assert after.epoch != before.epoch
    assert after.sequence == 2


def test_it_is_recorded(shop: Shop) -> None:
    """Who did it, why, and from which version on."""
    with acting(Actor("ada", "operator", "disk lost")):
        lifted = lift(shop.database, shop.key, NOW)
    with shop.database.reading() as session:
        row = session.scalars(select(AuditRow).where(AuditRow.action == "database.restored")).one()
    assert (row.actor, row.reason, row.after) == ("ada", "disk lost", f'{{"version":{lifted.version}}}')


def test_an_empty_database_has_nothing_to_lift(shop: Shop) -> None:
    """Also then the feed begins anew."""
    assert lift(shop.database, shop.key, NOW).tenants == 0


def test_blocks_of_quota_leave_redis(redis_db: str) -> None:
    """Whatever they were delegated, the restored database may not know of it."""
    with redis.Redis.from_url(redis_db) as client:
        client.hset(BlockPlace("acme", "calls", None).key, "granted", 1)
        client.hset(BlockPlace("a/b:c", "reports", NOW).key, "granted", 1)
        client.hset(snapshot_key("acme"), "version", 1)
        assert remove_blocks(client) == 2
        assert client.keys() == [snapshot_key("acme").encode()]


def test_strangers_leave_redis(shop: Shop, redis_db: str) -> None:
    """What belongs to tenants that the database does not know; everything else stays."""
    shop.subscribe("acme")
    shop.subscribe("a/b:c")
    with redis.Redis.from_url(redis_db) as client:
        for tenant in ("acme", "a/b:c", "late", "x:snapshot"):
            client.hset(snapshot_key(tenant), "version", 1)
        client.hset(CATALOGUE_KEY, "version", 1)
        client.set("another:program", 1)
        assert remove_strangers(shop.database, client) == 2
        kept = sorted(client.keys())
        assert remove_strangers(shop.database, client) == 0
    assert kept == [b"another:program", b"ent:catalogue", b"ent:{a/b:c}:snapshot", b"ent:{acme}:snapshot"]
