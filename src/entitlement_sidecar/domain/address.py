"""TCP addresses as settings: `HOST:PORT`, loopback unless said otherwise."""

from __future__ import annotations

import ipaddress

from entitlement_sidecar.domain.errors import ConfigurationError

_LARGEST_PORT = 65535


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
