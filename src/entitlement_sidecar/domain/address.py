"""Addresses as settings: where to listen, loopback unless said otherwise, and whom to call."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

from entitlement_sidecar.domain.errors import ConfigurationError

_LARGEST_PORT = 65535

_TARGET = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")

_REDIS_QUERY = {
    "redis": frozenset[str](),
    "rediss": frozenset(
        {"ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
    ),
    "unix": frozenset({"db", "username", "password"}),
}
"""What a Redis URL may say behind `?`, by scheme: the client's other options belong to this product."""


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


def redis_url(url: str, setting: str) -> str:
    """The URL of a Redis, where the client would otherwise ignore, or trip over, a part of it later.

    Raises:
        ConfigurationError: Malformed; names the setting. Its text is not repeated: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        right = _is_redis(parts)
    except ValueError:
        right = False
    if not right:
        raise ConfigurationError(
            f"{setting}: expected redis://HOST:PORT/DATABASE, rediss://… or unix:///path"
        )
    return url


def _is_redis(parts: SplitResult) -> bool:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme not in _REDIS_QUERY or parts.fragment or not options.keys() <= _REDIS_QUERY[parts.scheme]:
        return False
    if parts.scheme == "unix":
        return len(parts.path) > 1 and _is_database(options.get("db", ""))
    # Reading the port raises where it is none.
    return parts.port != 0 and bool(parts.hostname) and _is_database(parts.path.removeprefix("/"))


def _is_database(text: str) -> bool:
    return not text or re.fullmatch("[0-9]{1,5}", text) is not None
