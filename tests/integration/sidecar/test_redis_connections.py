"""Connections to Redis: encrypted, and never waited for longer than they may take."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.planstore.snapshots import redis_client
from entitlement_sidecar.sidecar.adapters import redis_snapshots
from entitlement_sidecar.sidecar.adapters.redis_client import connect
from entitlement_sidecar.sidecar.adapters.redis_feed import RedisFeed
from entitlement_sidecar.sidecar.adapters.redis_snapshots import RedisSnapshots
from entitlement_sidecar.testing.fault_proxy import FaultProxy
from entitlement_sidecar.wire.redis_target import redis_target
from entitlement_sidecar.wire.signing import KeyRing
from support.redis_server import RedisServer
from support.redis_servers import TlsProxy
from support.transports import Reader

PATIENCE = 30.0
"""Seconds after which a test gives up; what it tests takes a fraction of one."""


class Authority(NamedTuple):
    """A certificate of 127.0.0.1 that signs itself, as files, and what a server needs of it."""

    certificate: Path
    key: Path
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A fresh one."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis.test")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority = Authority(folder / "ca.crt", folder / "key", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    authority.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    authority.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    authority.context.load_cert_chain(authority.certificate, authority.key)
    return authority


@pytest.fixture
def encrypted(redis_server: RedisServer, authority: Authority) -> Iterator[TlsProxy]:
    """A Redis behind TLS."""
    proxy = TlsProxy(redis_server.port, authority.context)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test opened."""
    async with AsyncExitStack() as stack:
        yield stack


def source_of(url: str, stack: AsyncExitStack) -> RedisSnapshots:
    """A sidecar's source, with time for a busy machine."""
    client = connect(redis_target(url), PATIENCE)
    stack.push_async_callback(client.aclose)
    return RedisSnapshots(client, KeyRing(), patience=PATIENCE)


async def test_both_processes_speak_tls(
    encrypted: TlsProxy, authority: Authority, stack: AsyncExitStack
) -> None:
    """Given the authority that signed the server's certificate, then both processes reach it."""
    url = f"rediss://127.0.0.1:{encrypted.port}/0?ssl_ca_certs={authority.certificate}"
    with ExitStack() as ending:
        publisher = redis_client.connect(redis_target(url))
        ending.callback(publisher.close)
        assert publisher.ping()

    assert await source_of(url, stack).snapshot("acme") is None


async def test_a_server_that_nobody_vouches_for_is_not_talked_to(
    encrypted: TlsProxy, stack: AsyncExitStack
) -> None:
    """Given a certificate that no authority of the system has signed, then Redis counts as away."""
    source = source_of(f"rediss://127.0.0.1:{encrypted.port}/0", stack)

    with pytest.raises(SourceUnavailableError):
        await source.snapshot("acme")


@pytest.fixture
def black_holes() -> Iterator[list[FaultProxy]]:
    """Three addresses at which connections are taken, and nothing is ever answered."""
    with ExitStack() as ending:
        proxies = [ending.enter_context(FaultProxy(1).start()) for _ in range(3)]
        for proxy in proxies:
            proxy.black_hole()
        yield proxies


FORMS = {
    "server": "redis://127.0.0.1:{0}/0",
    "cluster": "redis+cluster://127.0.0.1:{0},127.0.0.1:{1},127.0.0.1:{2}",
    "sentinels": "redis+sentinel://127.0.0.1:{0},127.0.0.1:{1},127.0.0.1:{2}/main",
}


@pytest.mark.parametrize("form", FORMS)
async def test_what_never_answers_is_not_waited_for(
    black_holes: list[FaultProxy], stack: AsyncExitStack, form: str
) -> None:
    """Given a client that would wait for an hour, then reads end by a limit of their own."""
    url = FORMS[form].format(*(proxy.port for proxy in black_holes))
    client = connect(redis_target(url), timeout=3600.0)
    stack.push_async_callback(client.aclose)
    source = RedisSnapshots(client, KeyRing())

    async with asyncio.timeout(PATIENCE):
        ended = await asyncio.gather(*(source.snapshot("acme") for _ in range(50)), return_exceptions=True)

    assert {type(error) for error in ended} == {SourceUnavailableError}


@pytest.mark.parametrize("form", ["cluster", "sentinels"])
async def test_many_reads_look_for_the_server_together(
    black_holes: list[FaultProxy], stack: AsyncExitStack, form: str
) -> None:
    """Given many reads at once, then each node or sentinel is asked by one of them."""
    client = connect(redis_target(FORMS[form].format(*(proxy.port for proxy in black_holes))))
    stack.push_async_callback(client.aclose)
    source = RedisSnapshots(client, KeyRing())
    reads = [asyncio.create_task(source.snapshot(f"tenant-{n}")) for n in range(50)]
    most = 0
    while not all(read.done() for read in reads):
        most = max(most, sum(proxy.connections for proxy in black_holes))
        await asyncio.sleep(0.005)

    assert {type(read.exception()) for read in reads} == {SourceUnavailableError}
    assert 0 < most <= len(black_holes)


async def test_a_feed_that_never_answers_is_away(black_holes: list[FaultProxy]) -> None:
    """Given that nobody answers, then the feed says so instead of waiting."""
    feed = RedisFeed(redis_target(f"redis://127.0.0.1:{black_holes[0].port}/0"), KeyRing())
    try:
        with pytest.raises(SourceUnavailableError):
            await Reader(feed).next()
    finally:
        await feed.aclose()


async def test_reads_past_the_limit_wait_for_their_turn(
    redis_server: RedisServer, stack: AsyncExitStack
) -> None:
    """Given more reads at once than connections may be open, then all are answered, over few connections."""
    with FaultProxy(redis_server.port).start() as proxy:
        source = source_of(f"redis://127.0.0.1:{proxy.port}/0", stack)

        found = await asyncio.gather(*(source.snapshot(f"tenant-{n}") for n in range(500)))

        assert found == [None] * 500
        assert proxy.connections <= redis_snapshots.AT_ONCE
