"""TLS and mTLS of the reference front, and certificates that are replaced while calls come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.sidecar.rpc.aio_front import AioFront
from entitlement_sidecar.sidecar.rpc.fast_front import FastFront
from entitlement_sidecar.sidecar.rpc.front import Exposure
from entitlement_sidecar.sidecar.rpc.tls import ServerTls, TlsFiles
from entitlement_sidecar.sidecar.rpc.watched_files import WatchedFile
from entitlement_sidecar.telemetry import metrics
from support.certificates import LOCAL, Authority, Pair

CHECK = "/entitlement.v1.EntitlementService/CheckEntitlement"
# Channels of one process share connections unless told otherwise: each has to shake hands itself here.
ALONE = [("grpc.use_local_subchannel_pool", 1)]

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Signs the server's certificate and those of clients."""
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    """A server's pair, and the authority of clients, which only some tests ask for."""
    certificate, key = authority.signs(*LOCAL).write(tmp_path)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    return TlsFiles(certificate, key)


@pytest.fixture
async def serve(handlers: Any) -> AsyncIterator[Callable[[ServerTls], Awaitable[str]]]:
    """Starts the reference front with TLS."""
    fronts: list[AioFront] = []

    async def start(tls: ServerTls) -> str:
        front = AioFront("127.0.0.1:0", handlers.methods(), exposure=Exposure(tls=tls))
        fronts.append(front)
        return await front.start()

    yield start
    for front in fronts:
        await front.stop()


async def call(address: str, authority: Authority, client: Pair | None = None) -> bytes:
    """One call on a connection of its own."""
    shown = (client.key, client.certificate) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem, *shown)
    async with grpc.aio.secure_channel(address, credentials, options=ALONE) as channel:
        answer: bytes = await channel.unary_unary(CHECK)(b"x", timeout=20)
        return answer


async def refusal(address: str, authority: Authority, client: Pair | None = None) -> grpc.StatusCode:
    """The code of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(address, authority, client)
    return caught.value.code()


def reloads(outcome: str) -> float:
    labels = {"file": "tls", "outcome": outcome}
    return metrics.REGISTRY.get_sample_value("entitlement_files_reloaded_total", labels) or 0.0


def expires() -> float:
    return metrics.REGISTRY.get_sample_value("entitlement_tls_certificate_expires_seconds") or 0.0


async def test_calls_are_answered_over_tls_alone(serve: Any, files: TlsFiles, authority: Authority) -> None:
    """Who trusts the authority is answered; who trusts another, or speaks no TLS, is not."""
    address = await serve(ServerTls(files))

    assert await call(address, authority) == b"x"
    assert await refusal(address, Authority("another")) is grpc.StatusCode.UNAVAILABLE
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(CHECK)(b"x", timeout=20)


async def test_mtls_asks_for_a_certificate_of_the_authority(
    serve: Any, files: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    """None, and one that somebody else has signed, end the handshake."""
    tls = ServerTls(TlsFiles(files.certificate, files.key, tmp_path / "ca.crt"))
    address = await serve(tls)
    name = x509.DNSName("checkout.example")

    assert await call(address, authority, authority.signs(name)) == b"x"
    assert await refusal(address, authority) is grpc.StatusCode.UNAVAILABLE
    assert await refusal(address, authority, Authority("another").signs(name)) is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_is_replaced_under_load_without_a_failed_call(
    serve: Any, files: TlsFiles, tmp_path: Path, until: Until, authority: Authority
) -> None:
    """Connections that are open go on, new ones see the new certificate, none of the calls fails."""
    tls, newer = ServerTls(files), Authority("newer")
    watched = WatchedFile("tls", files.paths(), tls.load)
    address = await serve(tls)
    answered, leaving = 0, asyncio.Event()
    credentials = grpc.ssl_channel_credentials(authority.pem)

    async def keep_calling() -> None:
        nonlocal answered
        async with grpc.aio.secure_channel(address, credentials, options=ALONE) as channel:
            while not leaving.is_set():
                assert await channel.unary_unary(CHECK)(b"x", timeout=20) == b"x"
                answered += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(keep_calling())
        await until(lambda: answered > 20)
        before = reloads("done")
        newer.signs(*LOCAL, days=7).write(tmp_path)
        await watched.look()
        seen = answered
        assert await call(address, newer) == b"x"
        assert await refusal(address, authority) is grpc.StatusCode.UNAVAILABLE
        await until(lambda: answered > seen + 20)
        leaving.set()

    assert reloads("done") == before + 1


@pytest.mark.parametrize("how", ["half", "mismatch", "expired", "gone", "garbage"])
async def test_a_bad_pair_keeps_the_old_one(
    serve: Any, files: TlsFiles, tmp_path: Path, authority: Authority, how: str
) -> None:
    """It is refused, logged and counted once, however often it is looked at; put right, it is taken."""
    tls = ServerTls(files)
    watched = WatchedFile("tls", files.paths(), tls.load)
    address = await serve(tls)
    good, refused, ends = authority.signs(*LOCAL, days=9), reloads("refused"), expires()
    _spoil(files, good, authority, how)

    await watched.look()
    await watched.look()

    assert await call(address, authority) == b"x"
    assert (reloads("refused"), expires()) == (refused + 1, ends)
    good.write(tmp_path)
    await watched.look()
    assert await call(address, authority) == b"x"
    assert expires() > ends


def _spoil(files: TlsFiles, good: Pair, authority: Authority, how: str) -> None:
    match how:
        case "half":
            files.certificate.write_bytes(good.certificate[:200])
        case "mismatch":
            files.certificate.write_bytes(good.certificate)
        case "expired":
            authority.signs(*LOCAL, days=-1).write(files.certificate.parent)
        case "gone":
            files.key.unlink()
        case "garbage":
            files.key.write_text("no key")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("half", "--tls-cert .*server.crt: expected certificates in PEM"),
        ("mismatch", "--tls-key .*server.key: expected the key of the first certificate in"),
        ("expired", "--tls-cert .*server.crt: the certificate ended at"),
        ("gone", "--tls-key .*server.key: No such file"),
        ("garbage", "--tls-key .*server.key: expected a private key in PEM, without a passphrase"),
    ],
)
def test_nothing_starts_with_a_bad_pair(files: TlsFiles, authority: Authority, how: str, says: str) -> None:
    """The message names the setting, the file, and what would be right."""
    _spoil(files, authority.signs(*LOCAL), authority, how)

    with pytest.raises(ConfigurationError, match=says):
        ServerTls(files)


def test_a_bad_authority_of_clients_is_named(files: TlsFiles, tmp_path: Path) -> None:
    """Nobody could call with one that cannot be read."""
    (tmp_path / "ca.crt").write_text("no certificate")

    with pytest.raises(ConfigurationError, match=r"--tls-client-ca .*ca.crt: expected certificates in PEM"):
        ServerTls(TlsFiles(files.certificate, files.key, tmp_path / "ca.crt"))


def test_the_fast_front_says_that_it_has_no_tls(files: TlsFiles, handlers: Any) -> None:
    """It never serves in the clear what was to be encrypted."""
    with pytest.raises(ConfigurationError, match="choose --front aio"):
        FastFront("127.0.0.1:0", handlers.methods(), exposure=Exposure(tls=ServerTls(files)))
