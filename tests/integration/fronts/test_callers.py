"""Callers by token, certificate and socket, on both fronts: who is let in, and what a reload changes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from entitlement_sidecar.domain.errors import ConfigurationError, UnauthenticatedError
from entitlement_sidecar.sidecar.rpc.aio_front import AioFront
from entitlement_sidecar.sidecar.rpc.caller_sockets import CallerSockets
from entitlement_sidecar.sidecar.rpc.callers import Callers
from entitlement_sidecar.sidecar.rpc.callers_file import Caller
from entitlement_sidecar.sidecar.rpc.front import Exposure, Front, Method, Methods, Streaming
from entitlement_sidecar.sidecar.rpc.permit import Permit
from entitlement_sidecar.sidecar.rpc.tls import ServerTls, TlsFiles
from entitlement_sidecar.sidecar.rpc.watched_files import WatchedFile
from entitlement_sidecar.telemetry import metrics
from support.certificates import LOCAL, Authority

SERVICE = "/entitlement.v1.EntitlementService/"
CHECK, LATER, WATCH = (
    SERVICE + "CheckEntitlement",
    SERVICE + "ListEntitlements",
    SERVICE + "WatchEntitlements",
)
CODES = grpc.StatusCode

Until = Callable[[Callable[[], bool]], Awaitable[None]]


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def by_token(name: str, token: str, tenants: str = "[acme]") -> str:
    return f"  - {{name: {name}, token_sha256: '{digest(token)}', tenants: {tenants}}}\n"


def tell(file: Path, callers: str) -> None:
    """Says who may call from now on."""
    file.write_text(f"callers:\n{callers}" if callers else "callers: []\n")


def make_room(folder: Path) -> None:
    """Makes a folder for sockets."""
    folder.mkdir(mode=0o700)


class Asked:
    """What is served to callers: the caller's name, where it may ask about the tenant that it sends."""

    def __init__(self) -> None:
        self.calls = 0

    def serve(self, permit: Permit | None) -> Methods:
        def now(payload: bytes) -> bytes:
            self.calls += 1
            assert permit is not None, "nobody was asked who they are"
            permit.require(payload.decode())
            return permit.caller.encode()

        async def later(payload: bytes) -> bytes:
            await asyncio.sleep(0)
            return now(payload)

        async def watch(payload: bytes) -> AsyncIterator[bytes]:
            assert permit is not None
            async for item in permit.following(payload.decode(), _for_ever(now(payload))):
                yield item

        return [Method(CHECK, now), Method(LATER, later), Streaming(WATCH, watch)]


async def _for_ever(item: bytes) -> AsyncIterator[bytes]:
    yield item
    await asyncio.Event().wait()


@pytest.fixture
def asked() -> Asked:
    """What was served."""
    return Asked()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The callers file: one caller with a token."""
    path = tmp_path / "callers.yaml"
    tell(path, by_token("checkout", "secret"))
    return path


@pytest.fixture
async def ending() -> AsyncIterator[AsyncExitStack]:
    """What is pushed here ends with the test."""
    async with AsyncExitStack() as stack:
        yield stack


class Site:
    """The fronts of a sidecar with a callers file."""

    def __init__(self, make: Any, file: Path, asked: Asked) -> None:
        self.callers = Callers(file, asked.serve, certificates=False)
        methods = asked.serve(None)
        main = make("127.0.0.1:0", methods, exposure=Exposure(door=self.callers))

        def own(caller: Caller) -> Front:
            exposure = Exposure(setting="socket", access=caller.access, door=self.callers.behind(caller))
            front: Front = make(f"unix:{caller.socket}", methods, exposure=exposure)
            return front

        self.fronts = CallerSockets(main, self.callers, own)
        self.watched = WatchedFile("callers", [file], self.fronts.load)


@pytest.fixture
async def site(make_front: Any, file: Path, asked: Asked, ending: AsyncExitStack) -> Site:
    """Fronts that are not started yet."""
    site = Site(make_front, file, asked)
    ending.push_async_callback(site.fronts.stop)
    return site


async def ask(
    channel: grpc.aio.Channel, tenant: str = "acme", *, path: str = CHECK, token: str = ""
) -> bytes | tuple[grpc.StatusCode, str]:
    """One call: its answer, or why there is none."""
    shown = [("authorization", f"Bearer {token}")] if token else None
    try:
        answer: bytes = await channel.unary_unary(path)(tenant.encode(), metadata=shown, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    else:
        return answer


def denied(cause: str) -> float:
    return metrics.REGISTRY.get_sample_value("entitlement_calls_denied_total", {"cause": cause}) or 0.0


@pytest.fixture
async def channel(site: Site, ending: AsyncExitStack) -> grpc.aio.Channel:
    """A channel to the address for all."""
    return await ending.enter_async_context(grpc.aio.insecure_channel(await site.fronts.start()))


@pytest.mark.parametrize("path", [CHECK, LATER])
async def test_a_token_says_who_calls(channel: grpc.aio.Channel, path: str) -> None:
    """The caller is answered for its tenants; the refusal names caller and tenant, and nothing else."""
    assert await ask(channel, path=path, token="secret") == b"checkout"
    refused = await ask(channel, "globex", path=path, token="secret")
    assert refused == (CODES.PERMISSION_DENIED, "caller 'checkout' may not ask about tenant 'globex'")


async def test_the_scheme_is_written_in_any_case(channel: grpc.aio.Channel) -> None:
    """RFC 9110: `bearer` is as good as `Bearer`."""
    call = channel.unary_unary(CHECK)
    assert await call(b"acme", metadata=[("authorization", "bearer secret")], timeout=20) == b"checkout"


@pytest.mark.parametrize("path", [CHECK, LATER])
async def test_without_credentials_nothing_is_answered(
    channel: grpc.aio.Channel, asked: Asked, path: str
) -> None:
    """No handler runs; the message says how to show who one is."""
    before = denied("missing")
    code, said = await ask(channel, path=path)  # type: ignore[misc] # an answer would fail the test

    assert (code, asked.calls) == (CODES.UNAUTHENTICATED, 0)
    assert "Bearer TOKEN" in str(said)
    assert denied("missing") == before + 1


@pytest.mark.parametrize(
    "authorization",
    ["Bearer wrong", "Bearer ", "Bearer", "secret", "Basic secret", "Bearer " + "x" * 5000, "Bearer secret2"],
)
async def test_wrong_credentials_are_nobodys(
    channel: grpc.aio.Channel, asked: Asked, authorization: str
) -> None:
    """Whatever is wrong with them, the answer is one, and repeats nothing of them."""
    before = denied("unknown")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(CHECK)(b"acme", metadata=[("authorization", authorization)], timeout=20)

    assert (caught.value.code(), asked.calls) == (CODES.UNAUTHENTICATED, 0)
    assert caught.value.details() == "no caller of this sidecar is known by these credentials"
    assert denied("unknown") == before + 1


async def test_a_watch_asks_for_credentials_too(channel: grpc.aio.Channel) -> None:
    """Streams have the same door."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_stream(WATCH)(b"acme", timeout=20).read()
    assert caught.value.code() is CODES.UNAUTHENTICATED


async def test_what_is_not_served_is_told_to_callers_alone(channel: grpc.aio.Channel) -> None:
    """A stranger learns nothing of what there is."""
    for path in (SERVICE + "Unknown", "/other.Service/Call", "/entitlement.v1.UsageService/Reserve"):
        assert (await ask(channel, path=path, token="secret"))[0] is CODES.UNIMPLEMENTED
        assert (await ask(channel, path=path))[0] is CODES.UNAUTHENTICATED


async def test_health_asks_nobody_who_they_are(channel: grpc.aio.Channel) -> None:
    """Probes have no credentials."""
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_flood_of_strangers_leaves_room_for_callers(channel: grpc.aio.Channel, asked: Asked) -> None:
    """They are refused before anything is done for them, and take none of the room of calls that wait."""
    before, busy = denied("unknown"), asyncio.Event()

    async def flood() -> int:
        refused = 0
        while not busy.is_set():
            codes = await asyncio.gather(*(ask(channel, token="stranger") for _ in range(20)))
            assert {code[0] for code in codes} == {CODES.UNAUTHENTICATED}
            refused += len(codes)
        return refused

    floods = [asyncio.ensure_future(flood()) for _ in range(4)]
    answers = [await ask(channel, path=LATER, token="secret") for _ in range(50)]
    busy.set()
    refused = sum(await asyncio.gather(*floods))

    assert answers == [b"checkout"] * 50
    assert asked.calls == 50
    assert denied("unknown") == before + refused


async def watch(channel: grpc.aio.Channel, token: str) -> Any:
    """A watch that has had its first state."""
    call = channel.unary_stream(WATCH)(b"acme", metadata=[("authorization", f"Bearer {token}")], timeout=60)
    assert await call.read() == b"checkout"
    return call


async def code_of(call: Any) -> grpc.StatusCode:
    """How a watch ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value.code()


async def test_a_reload_changes_what_a_caller_may(site: Site, channel: grpc.aio.Channel, file: Path) -> None:
    """Tenants come and go without a restart; a watch ends with the tenant, and only then."""
    following = await watch(channel, "secret")
    tell(file, by_token("checkout", "secret", "[acme, globex]"))
    await site.watched.look()
    assert await ask(channel, "globex", token="secret") == b"checkout"
    assert not following.done()

    tell(file, by_token("checkout", "secret", "[globex]"))
    await site.watched.look()

    assert await code_of(following) is CODES.PERMISSION_DENIED
    assert (await ask(channel, token="secret"))[0] is CODES.PERMISSION_DENIED


@pytest.mark.parametrize("content", ["", by_token("checkout", "renewed")], ids=["gone", "renewed"])
async def test_credentials_that_are_taken_back_end_at_once(
    site: Site, channel: grpc.aio.Channel, file: Path, content: str
) -> None:
    """Calls are refused, and watches that the old token has begun end."""
    following = await watch(channel, "secret")
    tell(file, content)
    await site.watched.look()

    assert (await ask(channel, token="secret"))[0] is CODES.UNAUTHENTICATED
    assert await code_of(following) is CODES.PERMISSION_DENIED


async def test_a_bad_file_keeps_the_old_callers(
    site: Site, channel: grpc.aio.Channel, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged and counted once, however often it is looked at; put right, it is taken."""
    labels = {"file": "callers", "outcome": "refused"}
    before = metrics.REGISTRY.get_sample_value("entitlement_files_reloaded_total", labels) or 0.0
    tell(file, "  - {name: checkout, tenants: [acme]}\n")
    for _ in range(3):
        await site.watched.look()

    assert await ask(channel, token="secret") == b"checkout"
    assert metrics.REGISTRY.get_sample_value("entitlement_files_reloaded_total", labels) == before + 1
    assert caplog.text.count("expected exactly one of token_sha256, san, socket") == 1
    tell(file, by_token("batch", "other"))
    await site.watched.look()
    assert await ask(channel, token="other") == b"batch"


def by_socket(name: str, path: Path, more: str = "") -> str:
    return f"  - {{name: {name}, socket: {path}, tenants: [acme]{more}}}\n"


async def over(path: Path, tenant: str = "acme") -> Any:
    """One call over a socket, without credentials."""
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        return await ask(channel, tenant)


async def test_whoever_opens_a_callers_socket_is_that_caller(
    site: Site, channel: grpc.aio.Channel, file: Path, socket_folder: Path
) -> None:
    """Sockets come, change hands and go with the file; health is served on them too."""
    reports, batch = socket_folder / "reports.sock", socket_folder / "batch.sock"
    tell(file, by_socket("reports", reports) + by_socket("batch", batch, ", mode: 0660"))
    await site.watched.look()
    assert (await over(reports), await over(batch)) == (b"reports", b"batch")
    assert (await over(reports, "globex"))[0] is CODES.PERMISSION_DENIED
    assert [path.stat().st_mode & 0o777 for path in (reports, batch)] == [0o600, 0o660]
    assert (await ask(channel))[0] is CODES.UNAUTHENTICATED

    tell(file, by_socket("exports", reports))
    await site.watched.look()

    assert await over(reports) == b"exports"
    assert not batch.exists()
    await site.fronts.stop()
    assert not reports.exists()


async def test_a_socket_that_cannot_be_opened_is_named(
    site: Site, file: Path, socket_folder: Path, ending: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start nothing is served; later the others are, and it is opened once it can be."""
    folder = socket_folder / "later"
    tell(file, by_token("checkout", "secret") + by_socket("batch", folder / "s"))
    await site.callers.load()
    with pytest.raises(ConfigurationError, match=r"caller 'batch': socket unix:.*create it with mode 0700"):
        await site.fronts.start()

    tell(file, by_token("checkout", "secret"))
    again = Site(type(site.fronts._main), file, Asked())
    ending.push_async_callback(again.fronts.stop)
    await again.fronts.start()
    tell(file, by_token("reports", "other") + by_socket("batch", folder / "s"))
    await again.watched.look()
    assert "all else in the file is in effect" in caplog.text
    with pytest.raises(UnauthenticatedError):
        again.callers.table("Bearer secret")
    assert again.callers.table("Bearer other")
    make_room(folder)
    await again.watched.look()
    assert await over(folder / "s") == b"batch"


async def named(address: str, authority: Authority, *names: x509.GeneralName, token: str = "") -> Any:
    """One call with a certificate for some names."""
    shown = authority.signs(*names)
    credentials = grpc.ssl_channel_credentials(authority.pem, shown.key, shown.certificate)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        return await ask(channel, token=token)


URI, DNS = x509.UniformResourceIdentifier, x509.DNSName


@pytest.mark.parametrize(
    ("names", "token", "answer"),
    [
        ([URI("spiffe://example.org/batch")], "", b"batch"),
        ([DNS("Reports.Example.org")], "", b"reports"),
        ([DNS("other.example.org"), URI("spiffe://example.org/batch")], "", b"batch"),
        ([URI("spiffe://example.org/batch")], "secret", b"checkout"),
        ([URI("spiffe://example.org/batch")], "wrong", None),
        ([URI("spiffe://example.org/other")], "", None),
        # A name of another kind with the same text is another name.
        ([x509.RFC822Name("reports.example.org")], "", None),
        ([DNS("spiffe://example.org/batch")], "", None),
    ],
)
async def test_a_certificate_says_who_calls(
    trusting: tuple[Front, Authority], names: Sequence[Any], token: str, answer: bytes | None
) -> None:
    """By a URI or DNS name that the file has; a token beside it decides alone."""
    front, authority = trusting

    answered = await named(await front.start(), authority, *names, token=token)

    assert answered == answer if answer else answered[0] is CODES.UNAUTHENTICATED


@pytest.fixture
async def trusting(file: Path, asked: Asked) -> AsyncIterator[tuple[Front, Authority]]:
    """A front with mTLS, two callers more that are known by certificates, and who signs them."""
    authority = Authority()
    (file.parent / "ca.crt").write_bytes(authority.pem)
    pair = authority.signs(*LOCAL).write(file.parent)
    with file.open("a") as content:
        content.write("  - {name: batch, san: 'spiffe://example.org/batch', tenants: '*'}\n")
        content.write("  - {name: reports, san: reports.example.org, tenants: '*'}\n")
    tls = ServerTls(TlsFiles(*pair, file.parent / "ca.crt"))
    door = Callers(file, asked.serve, certificates=True)
    front = AioFront("127.0.0.1:0", asked.serve(None), exposure=Exposure(tls=tls, door=door))
    yield front, authority
    await front.stop()


def test_names_of_certificates_need_mtls(file: Path, asked: Asked) -> None:
    """Without it nobody shows one, and the caller could never call."""
    file.write_text("callers:\n  - {name: batch, san: batch.example.org, tenants: '*'}\n")
    with pytest.raises(ConfigurationError, match=r"caller 'batch' has a san.* add --tls-client-ca FILE"):
        Callers(file, asked.serve, certificates=False)
