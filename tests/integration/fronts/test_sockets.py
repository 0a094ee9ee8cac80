"""Unix sockets: who may open them, and where they may lie."""

from __future__ import annotations

import grp
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.sidecar.rpc.front import Exposure
from entitlement_sidecar.sidecar.rpc.socket_access import SocketAccess, check_place, grant, parse_mode

CHECK = "/entitlement.v1.EntitlementService/CheckEntitlement"


@pytest.fixture
def left_behind(socket_folder: Path) -> Iterator[Path]:
    """A socket that nobody listens on."""
    path = socket_folder / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        yield path


def somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process takes itself for another user than the one that made its files."""
    other = os.geteuid() + 1000
    monkeypatch.setattr(os, "geteuid", lambda: other)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_the_socket_has_the_mode_and_the_group_asked_for(
    make_front: Any, handlers: Any, socket_folder: Path, mode: int
) -> None:
    """Mode and group say who may call; the socket is removed in the end."""
    path, group = socket_folder / "grpc.sock", grp.getgrgid(os.getegid()).gr_name
    exposure = Exposure(access=SocketAccess(mode, group))
    front = make_front(f"unix:{path}", handlers.methods(), exposure=exposure)

    address = await front.start()
    found = path.stat()
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await channel.unary_unary(CHECK)(b"x", timeout=20)
    await front.stop()

    assert (stat.S_IMODE(found.st_mode), found.st_gid, answer) == (mode, os.getegid(), b"x")
    assert not path.exists()


async def test_an_unknown_group_is_named(make_front: Any, handlers: Any, socket_folder: Path) -> None:
    """Where nobody could call in the end, nothing starts."""
    exposure = Exposure(access=SocketAccess(0o660, "nobody-has-this-group"))
    front = make_front(f"unix:{socket_folder}/grpc.sock", handlers.methods(), exposure=exposure)

    with pytest.raises(ConfigurationError, match="there is no group 'nobody-has-this-group'"):
        await front.start()
    await front.stop()


async def test_a_socket_of_another_user_is_not_replaced(
    make_front: Any, handlers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that many share, what lies there may be theirs."""
    with tempfile.TemporaryDirectory(prefix="s") as folder, socket.socket(socket.AF_UNIX) as dead:
        shared = Path(folder) / "s"
        dead.bind(str(shared))
        owner = shared.stat().st_uid
        front = make_front(f"unix:{shared}", handlers.methods())
        # The folder counts as this user's, the socket does not.
        users = iter([owner])
        monkeypatch.setattr(os, "geteuid", lambda: next(users, owner + 1000))

        with pytest.raises(ConfigurationError, match=f"a socket of user {owner} lies there"):
            await front.start()
        assert shared.is_socket()
        monkeypatch.undo()
        await front.stop()


@pytest.mark.usefixtures("left_behind")
def test_a_folder_of_another_user_is_refused(socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could put another socket in the place of this one."""
    if os.geteuid() == 0:
        os.chown(socket_folder, 65534, -1)
    else:
        somebody_else(monkeypatch)

    with pytest.raises(ValueError, match=r"belongs to user .* with mode 0700"):
        check_place(socket_folder / "grpc.sock")


def test_a_folder_of_root_with_the_sticky_bit_is_right() -> None:
    """`/tmp` is such a one: nobody can take away what another has put there."""
    check_place(Path("/tmp/entitlements-of-no-test.sock"))  # noqa: S108 - nothing is written there


def test_a_link_is_not_followed(socket_folder: Path, left_behind: Path) -> None:
    """Who may write a link somewhere does not choose which socket is replaced."""
    link = socket_folder / "link.sock"
    link.symlink_to(left_behind)

    with pytest.raises(ValueError, match="no socket"):
        check_place(link)


def test_what_lies_there_after_the_bind_is_looked_at(
    left_behind: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that somebody slipped in is not served as if it were this one."""
    somebody_else(monkeypatch)

    with pytest.raises(OSError, match="somebody else"):
        grant(left_behind, SocketAccess())


@pytest.mark.parametrize("text", ["", "rw", "600x", "0400", "0060", "1660", "0o600", "0688"])
def test_modes_that_lock_out_the_owner_or_are_none_are_refused(text: str) -> None:
    """The message says what would be right."""
    with pytest.raises(ValueError, match="such as 0600 or 0660"):
        parse_mode(text)


@pytest.mark.parametrize(("text", "mode"), [("0600", 0o600), ("660", 0o660), ("0777", 0o777)])
def test_modes_are_octal(text: str, mode: int) -> None:
    """As chmod takes them, with or without the leading zero."""
    assert parse_mode(text) == mode
