"""Redis is there and has not what it had: emptied, rolled back, failed over (DESIGN 10).

No sidecar goes back behind what it has seen; the plan store notices, and puts back what is missing.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import redis

from entitlement_sidecar.domain.decision import Reason
from support.faulty_site import CURRENT, PATIENCE, FaultySite, await_told
from support.redis_server import RedisServer
from support.waiting import until

DENIED = CURRENT._replace(allowed=False, reason=Reason.NOT_IN_PLAN)
"""What the small plan answers: what the large one had allowed, nobody may be told again."""

BEGAN = 'entitlement_feed_events_total{kind="began"}'


def changed(site: FaultySite) -> str:
    """A tenant that has lost a feature, as Redis and the sidecar know."""
    tenant = site.held()
    before_change(site, tenant)
    return tenant


def before_change(site: FaultySite, tenant: str) -> None:
    """Takes the feature away, and waits until that is known."""
    site.store.subscribe(tenant, "small")
    site.await_in_redis(tenant, 2)
    await_told(site.beside, tenant, DENIED)


def assert_never_goes_back(site: FaultySite, tenant: str, began: float) -> None:
    """Until the feed has begun anew and all is confirmed, and then, the newer version alone is told."""

    def over() -> bool:
        assert site.beside.check(tenant, "sso").snapshot_version >= 2
        return site.beside.metric(BEGAN) > began

    until(over, "the feed to begin anew", PATIENCE)
    await_told(site.beside, tenant, DENIED)
    site.await_in_redis(tenant, 2)
    assert site.beside.check(tenant, "sso").snapshot_version >= 2


def test_flushed(faulty_site: FaultySite) -> None:
    """Held tenants are served from memory; what was in Redis comes back, and answers are current."""
    held, other = changed(faulty_site), faulty_site.subscribed()
    began = faulty_site.beside.metric(BEGAN)

    with redis.Redis(port=faulty_site.redis.port) as client:
        client.flushall()

    assert_never_goes_back(faulty_site, held, began)
    faulty_site.await_in_redis(other)
    await_told(faulty_site.beside, other, CURRENT)


def test_rolled_back(faulty_site: FaultySite) -> None:
    """A dump from before a change is restored: nobody is told what was true then."""
    held = faulty_site.held()
    server = faulty_site.redis
    with redis.Redis(port=server.port) as client:
        client.save()
    dump = server.folder / "dump.rdb"
    try:
        before_change(faulty_site, held)
        began = faulty_site.beside.metric(BEGAN)

        server.stop()
        server.start()

        assert_never_goes_back(faulty_site, held, began)
    finally:
        dump.unlink()


def test_failed_over(faulty_site: FaultySite, tmp_path: Path) -> None:
    """A replica that had not got the last change is promoted: the change is not taken back."""
    held = faulty_site.held()
    with ExitStack() as ending:
        promoted = RedisServer(tmp_path)
        promoted.start()
        ending.callback(promoted.stop)
        replicate_once(faulty_site.redis, promoted)
        before_change(faulty_site, held)
        began = faulty_site.beside.metric(BEGAN)
        ending.callback(point_to, faulty_site, faulty_site.redis)

        point_to(faulty_site, promoted)

        until(lambda: version_in(promoted, held) == 2, "the change to be published there", PATIENCE)
        assert_never_goes_back(faulty_site, held, began)


def replicate_once(first: RedisServer, second: RedisServer) -> None:
    """Makes the second what the first is now; what comes later, it does not get."""
    with redis.Redis(port=second.port) as client:
        client.replicaof("127.0.0.1", str(first.port))
        until(lambda: client.info("replication")["master_link_status"] == "up", "the replica", PATIENCE)
        client.replicaof("NO", "ONE")


def point_to(site: FaultySite, server: RedisServer) -> None:
    """The same address leads to another server."""
    for proxy in (site.publishing, site.to_redis):
        proxy.target_port = server.port
        proxy.reset()


def version_in(server: RedisServer, tenant: str) -> int:
    """A tenant's version in one Redis; 0 where there is none."""
    with redis.Redis(port=server.port) as client:
        return int(client.hget(f"ent:{{{tenant}}}:snapshot", "version") or 0)
