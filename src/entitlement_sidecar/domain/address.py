"""Addresses as settings: where to listen, loopback unless said otherwise, and whom to call."""

from __future__ import annotations

import ipaddress
import re

from entitlement_sidecar.domain.errors import ConfigurationError

_LARGEST_PORT = 65535

_TARGET = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


def tcp_address(address: str, setting: str, *, allow_remote: bool) -> tuple[str, int]:
    """Host and port of `HOST:PORT`: an IP address (IPv6 in brackets) or `localhost`; port 0 is a free one.

    Raises:
        ConfigurationError: Malformed, or open to other machines without leave; names the setting.
    """
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigurationError(
            f"{setting} {address!r}: expected HOST:PORT with an IP address or localhost"
        ) from error
    if not (port.isascii() and port.isdigit() and int(port) <= _LARGEST_PORT):
        raise ConfigurationError(f"{setting} {address!r}: the port is a number from 0 to {_LARGEST_PORT}")
    if not (allow_remote or loopback):
        raise ConfigurationError(
            f"{setting} {address}: other machines could reach this address; listen on 127.0.0.1, "
            "or say --allow-remote when the network is trusted"
        )
    return host, int(port)


def target_address(address: str, setting: str) -> str:
    """`HOST:PORT` of another process; the host may be a name.

    Raises:
        ConfigurationError: Malformed; names the setting.
    """
    found = _TARGET.fullmatch(address)
    if not (found and 0 < int(found[1]) <= _LARGEST_PORT):
        raise ConfigurationError(f"{setting}: expected HOST:PORT, such as planstore:7411")
    return address
