"""The ACL rules of the documentation: enough for both processes, and not much more for a sidecar."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.lease import OnHolderLoss, Told
from entitlement_sidecar.planstore.db import Database, create_engine_for
from entitlement_sidecar.planstore.db.migrate import migrate
from entitlement_sidecar.planstore.leases.redis_blocks import RedisBlocks, Status
from entitlement_sidecar.planstore.snapshots import redis_client
from entitlement_sidecar.planstore.snapshots.after_restore import remove_strangers
from entitlement_sidecar.planstore.snapshots.verification import Verification
from entitlement_sidecar.sidecar.adapters.redis_client import connect
from entitlement_sidecar.sidecar.adapters.redis_feed import RedisFeed
from entitlement_sidecar.sidecar.adapters.redis_leases import RedisLeases
from entitlement_sidecar.sidecar.adapters.redis_snapshots import RedisSnapshots
from entitlement_sidecar.sidecar.snapshots.ports import Beat, Changed
from entitlement_sidecar.wire.redis_keys import BlockPlace, snapshot_key
from entitlement_sidecar.wire.redis_target import RedisTarget, redis_target
from support.redis_server import RedisServer
from support.redis_servers import RedisClusterServers
from support.transports import PATIENCE, Reader, Store, ThroughRedis

PAGE = Path(__file__).parents[3] / "docs/howto/connect-to-redis.md"
RULES = {
    name: rules.split()
    for name, rules in re.findall(r"^ACL SETUSER (\S+) (.*)$", PAGE.read_text(), re.MULTILINE)
}
PASSWORD = "of these tests"

AsUser = Callable[[str], RedisTarget]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A plan store with a catalogue in force, and a feed of two shards."""
    url = f"sqlite:///{tmp_path}/planstore.db"
    migrate(url)
    database = Database(create_engine_for(url))
    yield Store(database, shards=2)
    database.close()


@pytest.fixture(params=["server", "cluster"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """One server or a cluster, which nobody may use without a password."""
    folder = tmp_path / "redis"
    folder.mkdir()
    servers: Any = RedisServer(folder) if request.param == "server" else RedisClusterServers(folder)
    try:
        servers.start()
        for node in [servers] if request.param == "server" else servers.nodes:
            give_rules(node)
        yield servers.url.replace("/0", "/1") if request.param == "server" else servers.url
    finally:
        servers.stop()


def give_rules(node: RedisServer) -> None:
    """Makes the users of the documentation, and takes all rights from the default one."""
    with closing(redis.Redis(port=node.port)) as client:
        for name, rules in RULES.items():
            # A password with spaces is one word of the command.
            words = [word.replace("PASSWORD", PASSWORD) for word in rules]
            client.execute_command("ACL", "SETUSER", name, *words)
        client.execute_command("ACL", "SETUSER", "default", "off")


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """The file with the password."""
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return path


@pytest.fixture
def as_user(url: str, password_file: Path) -> AsUser:
    """The target, as a user sees it."""
    return lambda name: redis_target(url.replace("://", f"://{name}@"), password_file)


@pytest.fixture
async def stack() -> Any:
    """Closes what a test opened."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def publishing(store: Store, as_user: AsUser, stack: AsyncExitStack) -> ThroughRedis:
    """The publisher, as its user."""
    return ThroughRedis(store, as_user("entitlements-planstore"), stack)


def feed_of(target: RedisTarget, store: Store, stack: AsyncExitStack) -> RedisFeed:
    """A sidecar's feed."""
    feed = RedisFeed(target, store.ring)
    stack.push_async_callback(feed.aclose)
    return feed


def source_of(target: RedisTarget, store: Store, stack: AsyncExitStack) -> RedisSnapshots:
    """A sidecar's source."""
    client = connect(target, PATIENCE)
    stack.push_async_callback(client.aclose)
    return RedisSnapshots(client, store.ring, patience=PATIENCE)


def test_the_documentation_gives_both_users() -> None:
    """Given the page, then it has rules for each process."""
    assert set(RULES) == {"entitlements-sidecar", "entitlements-planstore"}


async def test_the_rules_are_enough(
    publishing: ThroughRedis, store: Store, as_user: AsUser, stack: AsyncExitStack
) -> None:
    """Given both users, then everything works that the processes do: refilling and verifying too."""
    store.change()
    publishing.publish()
    reader = Reader(feed_of(as_user("entitlements-sidecar"), store, stack))
    await reader.began()
    version = store.change()
    committed = store.now()
    publishing.publish()
    await reader.until(lambda event: isinstance(event, Changed))
    await reader.until(lambda event: isinstance(event, Beat) and event.true_at > committed)
    fetched = await source_of(as_user("entitlements-sidecar"), store, stack).snapshot("acme")
    assert fetched is not None
    assert fetched.snapshot.version == version

    # What lies in the place of a heartbeat is of no use, and Redis is refilled when its state is gone.
    publishing.redis.delete("ent:feed:{0}:state", "ent:feed:{0}")
    publishing.redis.hset(snapshot_key("stranger"), "version", 1)
    for _ in range(4):
        publishing.publish()
    await reader.began()
    assert Verification(store.database, store.ring, publishing.redis).tenants("", 9).faults == ()
    assert remove_strangers(store.database, publishing.redis) == 1


async def test_the_rules_are_enough_for_leases(as_user: AsUser, stack: AsyncExitStack) -> None:
    """Given both users, then a block is wished for, laid, granted from, looked after and taken away."""
    place = BlockPlace("acme", "calls", datetime.now(UTC) + timedelta(days=1))
    connected = redis_client.connect(as_user("entitlements-planstore"))
    blocks = RedisBlocks(stack.enter_context(closing(connected)))
    client = connect(as_user("entitlements-sidecar"), PATIENCE)
    stack.push_async_callback(client.aclose)
    leases = RedisLeases(client, patience=PATIENCE)

    await leases.wish("acme", "calls")
    assert blocks.wanted() == {("acme", "calls")}
    assert blocks.takes_turn(60)
    one = blocks.open(place, "one", blocks.read(place).run, datetime.now(UTC)) or ""
    assert blocks.grow(place, one, 50, 1) is Status.OK
    there = BlockPlace("acme", "calls", place.ends_at)
    granted = await leases.grant(there, "", "one:1", Told(1, 0, 0), 10)
    assert granted.terms.granted == 10
    settled = await leases.settle(there, one, "one:1", Told(1, 4, 6))
    assert settled.free == 46
    assert blocks.lose(place, one, OnHolderLoss.FORFEIT).accounts == 0
    assert blocks.account_for(place, one, "one:1", 4) == 0
    assert blocks.shrink(place, one, 0) == (Status.OK, 46)
    assert blocks.remove(place, one) == (4, 46)


FORBIDDEN = [
    ("DEL", snapshot_key("acme")),
    ("SET", snapshot_key("acme"), "nothing"),
    ("EVAL", "return 1", "1", "others"),
    ("FLUSHALL",),
    ("XADD", "ent:feed:{0}", "*", "a", "b"),
    ("HGET", "others", "field"),
]


def test_a_sidecars_user_removes_nothing_and_sees_only_its_own(as_user: AsUser) -> None:
    """Given a sidecar's user, then it may neither remove anything nor look at other keys."""
    with closing(redis_client.connect(as_user("entitlements-sidecar"))) as client:
        for command in FORBIDDEN:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


def write(path: Path, text: str) -> None:
    """Replaces what a file holds."""
    path.write_text(text)


async def test_a_wrong_password_is_told_and_counted(
    store: Store, as_user: AsUser, stack: AsyncExitStack, password_file: Path
) -> None:
    """Given a wrong password, then it says so in Redis' words, without it; the right one works at once."""
    wrong = "not the right one"
    write(password_file, wrong)
    target = as_user("entitlements-sidecar")
    source, feed = source_of(target, store, stack), feed_of(target, store, stack)
    with pytest.raises(SourceUnavailableError) as told:
        await source.snapshot("acme")
    with pytest.raises(SourceUnavailableError) as by_feed:
        await Reader(feed).next()
    for said in (str(told.value), str(by_feed.value)):
        assert "AuthenticationError: invalid username-password pair" in said
        assert wrong not in said
    write(password_file, PASSWORD)

    assert await source.snapshot("acme") is None
