"""Where a front listens: the grammar of addresses, and what is refused before a socket is opened.

HOST:PORT      an IP address or `localhost`; port 0 takes a free one; IPv6 in brackets
unix:/path     a socket that only this user may connect to
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from entitlement_sidecar.domain.errors import ConfigurationError

SETTING = "--listen"

_FORMS = "expected HOST:PORT with an IP address or localhost, or unix:/path"

_MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path, by the kernel."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Listener(msgspec.Struct, frozen=True):
    """An address that was understood: either a path, or a host and a port."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def bound(self, port: int) -> Listener:
        """Itself with the port that was bound."""
        return self if self.path else Listener(self.host, port)

    def remove(self) -> None:
        """Removes the socket from the disk, if it is one."""
        if self.path:
            Path(self.path).unlink(missing_ok=True)

    @contextmanager
    def binding(self) -> Iterator[None]:
        """Surrounds the bind: a socket on disk is created for this user alone, and a failure is named.

        Raises:
            ConfigurationError: The address could not be bound.
        """
        before = os.umask(_OTHERS) if self.path else None
        try:
            yield
            if self.path:
                Path(self.path).chmod(stat.S_IRUSR | stat.S_IWUSR)
        except (OSError, RuntimeError) as error:
            raise ConfigurationError(f"{SETTING} {self}: cannot listen there: {error}") from error
        finally:
            if before is not None:
                os.umask(before)


def parse_listener(address: str, *, allow_remote: bool) -> Listener:
    """Understands an address, and checks that it can be listened on.

    Raises:
        ConfigurationError: Malformed, open to other machines without leave, or taken.
    """
    if address.startswith("unix:"):
        listener = Listener(path=_socket_path(address))
        _check_socket(listener)
        return listener
    listener = _tcp(address)
    if not (allow_remote or ipaddress.ip_address(listener.host).is_loopback):
        raise ConfigurationError(
            f"{SETTING} {address}: other machines could reach this address; listen on 127.0.0.1 or "
            "unix:/path, or say --allow-remote when the network is trusted"
        )
    _check_port(listener)
    return listener


def _tcp(address: str) -> Listener:
    host, separator, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigurationError(f"{SETTING} {address!r}: {_FORMS}") from error
    if not (separator and port.isascii() and port.isdigit() and int(port) <= 65535):  # noqa: PLR2004 - the largest port
        raise ConfigurationError(f"{SETTING} {address!r}: the port is a number from 0 to 65535; {_FORMS}")
    return Listener(host, int(port))


def _check_port(listener: Listener) -> None:
    """Binds and lets go: the libraries behind say less about what is wrong."""
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listener.host, listener.port))
            probe.listen(1)
        except OSError as error:
            raise ConfigurationError(f"{SETTING} {listener}: {_advice(error)}") from error


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
        raise ConfigurationError(
            f"{SETTING} {address!r}: the path of a socket is absolute, as in unix:/run/entitlements/grpc.sock"
        )
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ConfigurationError(
            f"{SETTING} {address!r}: the path of a socket has at most {_MAX_SOCKET_PATH} bytes"
        )
    return path


def _check_socket(listener: Listener) -> None:
    path = Path(listener.path)
    try:
        folder = path.parent.stat()
    except OSError as error:
        raise ConfigurationError(
            f"{SETTING} {listener}: the folder {path.parent}: {error.strerror}; create it with mode 0700"
        ) from error
    # Whoever may write to the folder may put a socket of their own in place of this one.
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        raise ConfigurationError(
            f"{SETTING} {listener}: every user may write to {path.parent}; use a folder with mode 0700"
        )
    if path.exists() and not path.is_socket():
        raise ConfigurationError(
            f"{SETTING} {listener}: a file that is no socket is there; choose another path"
        )
    if path.is_socket() and _answers(path):
        raise ConfigurationError(
            f"{SETTING} {listener}: something else listens there already; stop it, or choose another path"
        )


def _answers(path: Path) -> bool:
    """Whether somebody listens; a socket left behind by a killed process is replaced."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True
