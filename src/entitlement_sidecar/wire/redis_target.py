"""What a `--redis` setting means: one form for each kind of Redis, the same in every process.

| form | names |
|---|---|
| `redis://HOST:PORT/DATABASE` | one server |
| `unix:///PATH?db=DATABASE` | one server, by its socket |
| `redis+cluster://HOST:PORT,HOST:PORT` | a cluster, by some of its nodes |
| `redis+sentinel://HOST:PORT,HOST:PORT/PRIMARY/DATABASE` | the primary of that name, by these sentinels |

`rediss` in the place of `redis` means TLS, with `?ssl_ca_certs=FILE` and the like. `USER@` may stand before
the hosts. A password never does: it comes from a file, and is read anew for each connection.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from entitlement_sidecar.domain.errors import ConfigurationError

SETTING = "--redis"
PASSWORD_SETTING = "--redis-password-file"  # noqa: S105 - the name of a setting

_LARGEST_PORT = 65535
_NODE = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_FLAGS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_VERIFYING = frozenset({"none", "optional", "required"})
_TLS = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
"""What may be said of TLS behind `?`: the client's other options belong to this product."""
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class RedisKind(StrEnum):
    """What answers behind the addresses."""

    SERVER = "redis"
    CLUSTER = "redis+cluster"
    SENTINEL = "redis+sentinel"


_DEFAULT_PORTS = {RedisKind.SERVER: 6379, RedisKind.CLUSTER: 6379, RedisKind.SENTINEL: 26379}


class RedisTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where a Redis is, and who calls there.

    Attributes:
        kind: What answers.
        nodes: Hosts and ports: of the server, of some nodes of the cluster, or of the sentinels.
        path: The server's Unix socket instead.
        database: Its number; a cluster has only 0.
        primary: The name by which sentinels know it.
        username: Who calls; empty: the default user.
        password_file: File with the password; None: none is sent.
        tls: Options of TLS; None: no TLS.
    """

    kind: RedisKind
    nodes: tuple[tuple[str, int], ...] = ()
    path: str = ""
    database: int = 0
    primary: str = ""
    username: str = ""
    password_file: Path | None = None
    tls: dict[str, str | bool] | None = None

    def encryption(self) -> dict[str, Any]:
        """Options of a client for TLS."""
        return {} if self.tls is None else {"ssl": True, **self.tls}


def redis_target(url: str, password_file: Path | None = None, setting: str = SETTING) -> RedisTarget:
    """What a setting means.

    Raises:
        ConfigurationError: Malformed, the password is not where it belongs, or a file cannot be read; names
            the setting, and repeats nothing else of it, since it may hold a password.
    """
    try:
        parts = urlsplit(url)
        _refuse_password(parts, setting)
        target = _parsed(parts, dict(parse_qsl(parts.query, keep_blank_values=True)))
    except ValueError as error:
        raise ConfigurationError(
            f"{setting}: expected redis://HOST:PORT/DATABASE, unix:///PATH, "
            "redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/PRIMARY/DATABASE; "
            f"rediss… for TLS, with {', '.join(sorted(_TLS))} behind ?"
        ) from error
    _check_files(target, setting)
    if password_file is not None:
        read_password(password_file)
    elif target.username:
        raise ConfigurationError(f"{setting} names a user: give its password with {PASSWORD_SETTING} FILE")
    return msgspec.structs.replace(target, password_file=password_file)


def optional_target(url: str, password_file: Path | None = None) -> RedisTarget | None:
    """What the two settings mean; None where no Redis is named.

    Raises:
        ConfigurationError: As `redis_target`, or a password is given for no Redis.
    """
    if url:
        return redis_target(url, password_file)
    if password_file is not None:
        raise ConfigurationError(f"{PASSWORD_SETTING}: give {SETTING} too, or leave it out")
    return None


def read_password(path: Path) -> str:
    """The password in a file: its first and only line.

    Raises:
        ConfigurationError: The file cannot be read, or is not one line; repeats nothing of what it holds.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        lines = []
    except OSError as error:
        raise ConfigurationError(f"{PASSWORD_SETTING} {path}: {error.strerror}") from error
    if len(lines) != 1 or not lines[0]:
        raise ConfigurationError(f"{PASSWORD_SETTING} {path}: expected one line with the password")
    return lines[0]


def _refuse_password(parts: SplitResult, setting: str) -> None:
    user_info, _, _ = parts.netloc.rpartition("@")
    if ":" in user_info or "password" in dict(parse_qsl(parts.query, keep_blank_values=True)):
        raise ConfigurationError(
            f"{setting}: no password belongs into a URL, which others may see: "
            f"put it into a file and give {PASSWORD_SETTING} FILE"
        )


def _check_files(target: RedisTarget, setting: str) -> None:
    """Reads the files of TLS: a client says of a missing one no more than that it cannot connect."""
    for option in _TLS_FILES:
        path = str((target.tls or {}).get(option, ""))
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{setting}: {option}={path}: {error.strerror}") from error


def _parsed(parts: SplitResult, options: dict[str, str]) -> RedisTarget:
    """The target without its password file.

    Raises:
        ValueError: Malformed.
    """
    if parts.fragment:
        raise ValueError
    if parts.scheme == "unix":
        return _socket(parts, options)
    kind = RedisKind(parts.scheme.replace("rediss", "redis", 1))
    user_info, _, hosts = parts.netloc.rpartition("@")
    primary, database = _place(kind, parts.path)
    return RedisTarget(
        kind=kind,
        nodes=_nodes(kind, hosts),
        database=database,
        primary=primary,
        username=unquote(user_info),
        tls=_tls(options, encrypted=parts.scheme.startswith("rediss")),
    )


def _socket(parts: SplitResult, options: dict[str, str]) -> RedisTarget:
    path = unquote(parts.path)
    if path in {"", "/"} or not options.keys() <= {"db", "username"}:
        raise ValueError
    return RedisTarget(
        kind=RedisKind.SERVER,
        path=path,
        database=_database(options.get("db", "")),
        username=unquote(parts.netloc.removesuffix("@")) or options.get("username", ""),
    )


def _nodes(kind: RedisKind, hosts: str) -> tuple[tuple[str, int], ...]:
    nodes = tuple(_node(text, _DEFAULT_PORTS[kind]) for text in hosts.split(","))
    if kind is RedisKind.SERVER and len(nodes) > 1:
        raise ValueError
    return nodes


def _node(text: str, default_port: int) -> tuple[str, int]:
    found = _NODE.fullmatch(text)
    port = int(found["port"] or default_port) if found else 0
    if found is None or not 0 < port <= _LARGEST_PORT:
        raise ValueError
    return found["host"].strip("[]"), port


def _place(kind: RedisKind, path: str) -> tuple[str, int]:
    """Name of the primary, and number of the database."""
    primary, rest = "", path.removeprefix("/")
    if kind is RedisKind.SENTINEL:
        primary, _, rest = rest.partition("/")
        if not primary:
            raise ValueError
    database = _database(rest)
    if kind is RedisKind.CLUSTER and database:
        raise ValueError
    return unquote(primary), database


def _database(text: str) -> int:
    if text and not re.fullmatch("[0-9]{1,5}", text):
        raise ValueError
    return int(text or 0)


def _tls(options: dict[str, str], *, encrypted: bool) -> dict[str, str | bool] | None:
    checked = options.get("ssl_check_hostname", "yes")
    verifying = options.get("ssl_cert_reqs", "required")
    if not options.keys() <= (_TLS if encrypted else frozenset()):
        raise ValueError
    if checked not in _FLAGS or verifying not in _VERIFYING:
        raise ValueError
    return {**options, "ssl_check_hostname": _FLAGS[checked]} if encrypted else None
