"""Where fronts listen, and how they go away."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.sidecar.rpc.front import Front
from entitlement_sidecar.sidecar.rpc.listener import parse_listener

CHECK = "/entitlement.v1.EntitlementService/CheckEntitlement"
WAIT = "/entitlement.v1.EntitlementService/ListEntitlements"

Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def echo(address: str) -> bytes:
    """One call to an address."""
    async with grpc.aio.insecure_channel(address) as channel:
        return await channel.unary_unary(CHECK)(b"x", timeout=20)


async def _call_until_refused(channel: grpc.aio.Channel) -> None:
    while True:
        await channel.unary_unary(CHECK)(b"x", timeout=20)


async def test_serves_on_a_socket_of_this_user_alone(
    make_front: Any, handlers: Any, socket_folder: Path
) -> None:
    """A Unix socket is served with mode 0600, and removed in the end."""
    path = socket_folder / "grpc.sock"
    front = make_front(f"unix:{path}", handlers.methods())

    address = await front.start()
    answer, mode = await echo(address), stat.S_IMODE(path.stat().st_mode)
    await front.stop()

    assert (address, answer, mode) == (f"unix:{path}", b"x", 0o600)
    assert not path.exists()


async def test_replaces_a_socket_left_behind(make_front: Any, handlers: Any, socket_folder: Path) -> None:
    """The socket of a process that was killed does not stop the next one."""
    path = socket_folder / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    front = make_front(f"unix:{path}", handlers.methods())

    assert await echo(await front.start()) == b"x"
    await front.stop()


async def test_a_taken_port_is_noticed(make_front: Any, handlers: Any, front: Front) -> None:
    """A second front on the same port does not start, and says what to do."""
    address = await front.start()
    second = make_front(address, handlers.methods())

    with pytest.raises(ConfigurationError, match=f"--listen {address}: something else listens there"):
        await second.start()

    await second.stop()
    assert await echo(address) == b"x"


async def test_a_taken_socket_is_noticed(make_front: Any, handlers: Any, socket_folder: Path) -> None:
    """A second front does not take the socket of one that lives."""
    address = f"unix:{socket_folder}/grpc.sock"
    first, second = make_front(address, handlers.methods()), make_front(address, handlers.methods())
    await first.start()

    with pytest.raises(ConfigurationError, match="something else listens there"):
        await second.start()

    assert await echo(address) == b"x"
    await first.stop()


async def test_draining_ends_the_calls_under_way(
    front: Front, channel: grpc.aio.Channel, handlers: Any, until: Until
) -> None:
    """While it drains, a call that waits gets its answer, a new one is told to go elsewhere."""
    under_way = asyncio.ensure_future(channel.unary_unary(WAIT)(b"mine", timeout=20))
    await until(lambda: handlers.began == 1)

    draining = asyncio.ensure_future(front.drain(0))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _call_until_refused(channel)
    handlers.release.set()
    await draining
    await front.stop()

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in (refused.value.details() or "")
    assert await under_way == b"mine"


async def test_listeners_stay_for_the_grace(front: Front, channel: grpc.aio.Channel) -> None:
    """Callers that have not heard of the drain yet are still served."""
    draining = asyncio.ensure_future(front.drain(60))
    await asyncio.sleep(0)

    assert await channel.unary_unary(CHECK)(b"x", timeout=20) == b"x"
    draining.cancel()


async def test_stopping_cuts_what_still_waits(
    front: Front, channel: grpc.aio.Channel, handlers: Any, until: Until
) -> None:
    """A call that nobody drained fails as retriable, its handler is cancelled; stopping twice is harmless."""
    waiting = asyncio.ensure_future(channel.unary_unary(WAIT)(b"x", timeout=20))
    await until(lambda: handlers.began == 1)

    await front.stop()
    await front.stop()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await waiting
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert handlers.cancelled == 1


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("", "expected HOST:PORT"),
        ("7400", "expected HOST:PORT"),
        ("127.0.0.1", "expected HOST:PORT"),
        ("sidecar.internal:7400", "expected HOST:PORT"),
        ("127.0.0.1:http", "a number from 0 to 65535"),
        ("127.0.0.1:70000", "a number from 0 to 65535"),
        ("0.0.0.0:0", "--allow-remote"),
        ("[::]:0", "--allow-remote"),
        ("192.0.2.1:0", "--allow-remote"),
        ("unix:grpc.sock", "absolute"),
        ("unix:/" + "x" * 200, "at most 107 bytes"),
        ("unix:/nowhere/at/all/grpc.sock", "mode 0700"),
        ("unix:/etc/hostname", "no socket"),
    ],
)
def test_bad_addresses_say_what_would_be_right(address: str, says: str) -> None:
    """A wrong address is refused before anything listens, naming the setting and the accepted form."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        parse_listener(address, allow_remote=False)

    assert str(caught.value).startswith("--listen")


@pytest.mark.parametrize(
    ("address", "bound"),
    [("localhost:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("127.1.2.3:0", "127.1.2.3:0")],
)
def test_loopback_in_every_spelling_is_accepted(address: str, bound: str) -> None:
    """Names and both families of loopback are understood."""
    assert str(parse_listener(address, allow_remote=False)) == bound


def test_remote_addresses_need_leave() -> None:
    """With leave, an address that others reach is accepted."""
    assert str(parse_listener("0.0.0.0:0", allow_remote=True)) == "0.0.0.0:0"


def test_folders_that_anyone_writes_to_are_refused(socket_folder: Path) -> None:
    """Where every user may replace the socket, none is put."""
    socket_folder.chmod(0o777)

    with pytest.raises(ConfigurationError, match="every user may write"):
        parse_listener(f"unix:{socket_folder}/grpc.sock", allow_remote=False)


def test_folders_that_a_group_writes_to_are_refused(socket_folder: Path) -> None:
    """A group that may call must not be able to answer in the sidecar's place; a sticky bit is enough."""
    address = f"unix:{socket_folder}/grpc.sock"
    socket_folder.chmod(0o770)
    with pytest.raises(ConfigurationError, match=r"its group may write .*, or 0750 where its group calls"):
        parse_listener(address, allow_remote=False)

    for mode in (0o750, 0o1770):
        socket_folder.chmod(mode)
        assert str(parse_listener(address, allow_remote=False)) == address
