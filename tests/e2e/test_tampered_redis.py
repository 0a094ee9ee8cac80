"""Who may write to Redis can forge nothing: each kind of attempt is refused under its own name.

A sidecar that has Redis alone goes on with the last good snapshot and says that nobody confirms it; one that
can ask the plan store does so, and stays current.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from entitlement_sidecar.wire.redis_keys import feed_key, snapshot_key
from entitlement_sidecar.wire.v1 import snapshot_pb2
from support.faulty_site import AGED, CURRENT, PATIENCE, await_told
from support.processes import ENTITLEMENTS, Planstore, Sidecar, clean_environment
from support.redis_server import RedisServer
from support.waiting import until

CATALOGUE = Path(__file__).parent / "catalogue.yaml"
FEED_SHARDS = 4


class Site:
    """A plan store whose key was rotated, its Redis, and two sidecars: one of both, one of Redis alone."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        server = RedisServer(folder)
        server.start()
        ending.callback(server.stop)
        self.redis: redis.Redis = redis.Redis.from_url(server.url)
        ending.callback(self.redis.close)
        self.store = Planstore(folder / "planstore", redis=server.url)
        ending.callback(self.store.kill)
        self.store.start()
        self.store.apply(CATALOGUE)
        for cause in FORGED:
            self.store.subscribe(cause, "large")
        self.signed_before = {cause: self.published(cause, 1) for cause in FORGED}
        self._rotate_key()
        token = ("--token-file", str(self.store.state / "token"))
        both = ("--planstore", f"127.0.0.1:{self.store.grpc_port}", *token)
        keys = ("--trusted-keys", str(self.store.state / "trusted.keys"))
        self.both = Sidecar(folder / "both", *both, "--redis", server.url)
        self.alone = Sidecar(folder / "alone", *keys, "--redis", server.url)
        for beside in (self.both, self.alone):
            ending.callback(beside.kill)
            beside.start()

    def published(self, tenant: str, version: int) -> bytes:
        """A tenant's envelope in Redis, once it is of a version."""
        key = snapshot_key(tenant)
        until(lambda: int(self.redis.hget(key, "version") or 0) >= version, f"{tenant} in Redis", PATIENCE)
        envelope = self.redis.hget(key, "envelope")
        assert isinstance(envelope, bytes)
        return envelope

    def _rotate_key(self) -> None:
        self._command("rotate-key", "prepare")
        self._command("rotate-key", "switch")
        self.store.stop()
        self.store.start(migrated=True)
        until(lambda: self._command("rotate-key", "retire") == 0, "all to be signed again", PATIENCE)
        for cause in FORGED:
            self.published(cause, 2)

    def _command(self, *words: str) -> int:
        command = [*ENTITLEMENTS, "planstore", *words, "--state-dir", str(self.store.state)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=clean_environment())
        return done.returncode

    def make_read_again(self) -> None:
        """Scribbles on the feed: sidecars begin it anew, and read again all that they hold."""
        for shard in range(FEED_SHARDS):
            self.redis.xadd(feed_key(shard), {"scribbled": "on"})


def signed_for_other_bytes(site: Site, tenant: str) -> bytes:
    """A payload that was changed after signing."""
    envelope = snapshot_pb2.SignedEnvelope.FromString(site.published(tenant, 2))
    snapshot = snapshot_pb2.Snapshot.FromString(envelope.payload)
    snapshot.catalogue_version += 1
    envelope.payload = snapshot.SerializeToString()
    return envelope.SerializeToString()


def once_true(site: Site, tenant: str) -> bytes:
    """What the plan store has signed itself, before the tenant changed."""
    old = site.published(tenant, 2)
    site.store.subscribe(tenant, "small")
    site.store.subscribe(tenant, "large")
    site.published(tenant, 4)
    for beside in (site.both, site.alone):
        await_version(beside, tenant, 4)
    return old


def of_a_retired_key(site: Site, tenant: str) -> bytes:
    """What the plan store has signed itself, with a key that is trusted no longer."""
    return site.signed_before[tenant]


def garbage(_site: Site, _tenant: str) -> bytes:
    """No envelope at all."""
    return b"\xff" * 40


def huge(_site: Site, _tenant: str) -> bytes:
    """64 MiB, to fill the memory of whoever reads it."""
    return b"\x00" * (64 << 20)


FORGED: dict[str, Callable[[Site, str], bytes]] = {
    "signature": signed_for_other_bytes,
    "rolled_back": once_true,
    "unknown_key": of_a_retired_key,
    "garbage": garbage,
    "too_large": huge,
}


def await_version(beside: Sidecar, tenant: str, version: int) -> None:
    """Waits until answers rest on a version, or a newer one."""
    until(lambda: beside.check(tenant, "sso").snapshot_version >= version, f"version {version}", PATIENCE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The processes of this file."""
    with ExitStack() as ending:
        yield Site(tmp_path_factory.mktemp("site"), ending)


@pytest.mark.parametrize("cause", FORGED)
def test_what_was_put_into_redis_is_refused_and_counted(site: Site, cause: str) -> None:
    """The last good snapshot serves; the counter names the cause; published again, all is current."""
    tenant = cause
    for beside in (site.both, site.alone):
        await_told(beside, tenant, CURRENT)
    forged = FORGED[cause](site, tenant)
    good = site.alone.check(tenant, "sso").snapshot_version
    refused = f'entitlement_snapshots_refused_total{{cause="{cause}"}}'
    before = site.alone.metric(refused)

    site.redis.hset(snapshot_key(tenant), "envelope", forged)
    site.make_read_again()

    until(lambda: site.alone.metric(refused) > before, "the refusal to be counted", PATIENCE)
    await_told(site.alone, tenant, AGED)
    await_told(site.both, tenant, CURRENT)
    for beside in (site.both, site.alone):
        assert beside.check(tenant, "sso").snapshot_version == good
    republished = site.store.rest("POST", f"/api/billing/organizations/{tenant}/snapshot/republish")
    assert republished.is_success, republished.text
    for beside in (site.both, site.alone):
        until(
            lambda beside=beside: beside.check(tenant, "sso").snapshot_version > good, "what is new", PATIENCE
        )
        await_told(beside, tenant, CURRENT)
