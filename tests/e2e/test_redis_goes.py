"""Redis goes, and comes back as another server: both processes find their way by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis

from entitlement_sidecar.domain.decision import Degradation
from support.processes import Planstore, Sidecar
from support.redis_servers import RedisClusterServers, SentinelServers
from support.waiting import until


@pytest.fixture(params=["sentinels", "cluster"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A Redis in which another server takes over."""
    folder = tmp_path / "redis"
    folder.mkdir()
    sentinels = request.param == "sentinels"
    servers = SentinelServers(folder) if sentinels else RedisClusterServers(folder, replicas=True)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


def fresh(beside: Sidecar) -> bool:
    """Whether the feed confirms what is held."""
    return bool(beside.check("acme", "sso").degradation == Degradation.NONE)


def test_another_server_takes_over(
    servers: Any, planstore: Callable[..., Planstore], sidecar: Callable[..., Sidecar]
) -> None:
    """Given that a primary is killed, then checks go on, and changes arrive by the one that takes over."""
    store = planstore(redis=servers.url)
    store.subscribe("acme", "large")
    beside = sidecar(store, "--redis", servers.url)
    until(lambda: fresh(beside), "the feed to confirm what is held", 40)
    first = servers.primary if isinstance(servers, SentinelServers) else servers.node_of("ent:catalogue")

    interruptions = beside.metric("entitlement_feed_interruptions_total")
    first.stop()
    # Where another takes over at once, no answer need ever say STALE.
    until(
        lambda: beside.metric("entitlement_feed_interruptions_total") > interruptions, "the feed to break", 40
    )
    until(lambda: beside.check("acme", "sso").allowed and fresh(beside), "answers to be fresh again", 60)
    store.subscribe("acme", "small")

    until(lambda: not beside.check("acme", "sso").allowed, "a change to come by the new primary", 60)


def test_a_circuit_that_is_open_is_shown(
    redis_server: Any, planstore: Callable[..., Planstore], sidecar: Callable[..., Sidecar]
) -> None:
    """Given that Redis is away, then it is soon asked by probes alone, which is shown until it answers."""
    store = planstore(redis=redis_server.url)
    for number in range(12):
        store.subscribe(f"tenant-{number}", "large")
    beside = sidecar(store, "--redis", redis_server.url)
    until(lambda: beside.check("tenant-0", "sso").allowed, "a tenant to be held", 40)
    assert beside.http("/readyz").json()["circuits_open"] == []

    redis_server.stop()
    # Not held yet: Redis is asked for each of them, and then the plan store answers.
    for number in range(1, 12):
        assert beside.check(f"tenant-{number}", "sso").allowed
    assert beside.http("/readyz").json()["circuits_open"] == ["redis"]
    assert beside.metric("entitlement_circuit_open") == 1
    redis_server.start()

    strangers = (f"stranger-{number}" for number in count())

    def closed() -> bool:
        # Only who is not held, and was not asked for a moment ago, is asked for there.
        beside.check(next(strangers), "sso")
        return beside.http("/readyz").json()["circuits_open"] == []

    until(closed, "the circuit to close", 60)


def test_a_wrong_password_is_in_the_log(
    redis_server: Any, planstore: Callable[..., Planstore], sidecar: Callable[..., Sidecar], tmp_path: Path
) -> None:
    """Given a password that Redis does not know, then the log says so without it, and checks are answered."""
    password = tmp_path / "password"
    password.write_text("never-to-be-seen\n")
    with closing(redis.Redis(port=redis_server.port)) as client:
        client.config_set("requirepass", "another one")
    store = planstore()
    store.subscribe("acme", "large")
    beside = sidecar(store, "--redis", redis_server.url, "--redis-password-file", str(password))
    process = beside.process
    assert process is not None

    process.wait_for("feed lost, going on with what is held: Redis: AuthenticationError")
    until(lambda: beside.check("acme", "sso").allowed, "an answer from the plan store", 40)

    assert beside.metric("entitlement_feed_interruptions_total") > 0
    assert "never-to-be-seen" not in process.output
