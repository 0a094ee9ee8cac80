"""Where a front listens: the grammar of addresses, and what is refused before a socket is opened.

HOST:PORT      an IP address or `localhost`; port 0 takes a free one; IPv6 in brackets
unix:/path     a socket, at first for this user alone, then for whom its mode and group let in
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.sidecar.rpc.socket_access import OTHERS, SocketAccess, check_place, grant

SETTING = "--listen"

_FORMS = "expected HOST:PORT with an IP address or localhost, or unix:/path"

_MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path, by the kernel."""


class Listener(msgspec.Struct, frozen=True):
    """An address that was understood: either a path, or a host and a port. `setting` is what named it."""

    host: str = ""
    port: int = 0
    path: str = ""
    setting: str = SETTING

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def bound(self, port: int) -> Listener:
        """Itself with the port that was bound."""
        return self if self.path else Listener(self.host, port, setting=self.setting)

    def remove(self) -> None:
        """Removes the socket from the disk, if it is one."""
        if self.path:
            Path(self.path).unlink(missing_ok=True)

    @contextmanager
    def binding(self, access: SocketAccess) -> Iterator[None]:
        """Surrounds the bind: a socket on disk is this user's alone until its mode and group are set.

        Raises:
            ConfigurationError: The address could not be bound, or nobody can say who may open the socket.
        """
        before = os.umask(OTHERS) if self.path else None
        try:
            yield
            if self.path:
                grant(Path(self.path), access)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigurationError(f"{self.setting} {self}: cannot listen there: {error}") from error
        finally:
            if before is not None:
                os.umask(before)


def parse_listener(address: str, *, allow_remote: bool, setting: str = SETTING) -> Listener:
    """Understands an address, and checks that it can be listened on.

    Raises:
        ConfigurationError: Malformed, open to other machines without leave, taken, or a socket in a place
            where somebody else could replace it; names the setting.
    """
    try:
        if address.startswith("unix:"):
            listener = Listener(path=_socket_path(address), setting=setting)
            check_place(Path(listener.path))
            return listener
        host, port = _tcp(address)
        listener = Listener(host, port, setting=setting)
        _check_reach(host, allow_remote=allow_remote)
        _check_port(host, port)
    except ValueError as error:
        shown = repr(address) if isinstance(error, _FormError) else address
        raise ConfigurationError(f"{setting} {shown}: {error}") from error
    return listener


class _FormError(ValueError):
    """The address is not written as addresses are."""


def _tcp(address: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise _FormError(_FORMS) from error
    if not (separator and port.isascii() and port.isdigit() and int(port) <= 65535):  # noqa: PLR2004 - the largest port
        raise _FormError(f"the port is a number from 0 to 65535; {_FORMS}")
    return host, int(port)


def _check_reach(host: str, *, allow_remote: bool) -> None:
    if not (allow_remote or ipaddress.ip_address(host).is_loopback):
        raise ValueError(
            "other machines could reach this address; listen on 127.0.0.1 or unix:/path, or say "
            "--allow-remote when the network is trusted, or calls are encrypted and callers known"
        )


def _check_port(host: str, port: int) -> None:
    """Binds and lets go: the libraries behind say less about what is wrong."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise ValueError(_advice(error)) from error


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "something else listens there already; stop it, or choose another port (0 takes a free one)"
    if error.errno == errno.EACCES:
        return "this user may not open that port; choose one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; 127.0.0.1 is always there"
    return f"cannot listen there: {error.strerror}"


def _socket_path(address: str) -> str:
    path = address.removeprefix("unix:").removeprefix("//")
    if not path.startswith("/"):
        raise _FormError("the path of a socket is absolute, as in unix:/run/entitlements/grpc.sock")
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise _FormError(f"the path of a socket has at most {_MAX_SOCKET_PATH} bytes")
    return path
