"""The callers file: who may call this sidecar, how each is known, and about which tenants it may ask.

It holds no secrets: of tokens only their SHA-256.

    callers:
      - name: checkout
        token_sha256: 0c5f…            # 64 hex digits
        tenants: [acme, globex]
        emitters: [cart]               # reports usage as itself, and as these
      - name: batch
        san: spiffe://example.org/batch
        tenants: "*"
      - name: reports
        socket: /run/entitlements/reports.sock
        mode: "0660"
        group: reports
        tenants: "*"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from entitlement_sidecar.domain.errors import CatalogueError, ConfigurationError
from entitlement_sidecar.sidecar.rpc.permit import Tenants
from entitlement_sidecar.sidecar.rpc.socket_access import MODE_FORM, OWNER_ONLY, SocketAccess, parse_mode
from entitlement_sidecar.wire.fields import KEY_FORM, TENANT_FORM, expected, is_key, is_tenant
from entitlement_sidecar.wire.yaml_source import Path as Place
from entitlement_sidecar.wire.yaml_source import YamlDocument, read_yaml

SETTING = "--callers"

MAX_CALLERS = 1000
"""Callers in one file at most."""

EVERY_TENANT = "*"

_KNOWN_BY = ("token_sha256", "san", "socket")
_KEYS = ("name", *_KNOWN_BY, "mode", "group", "tenants", "emitters")
_PLAIN = ("tenants", "emitters")
"""Lists: what is in them is text however it is written."""
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_DNS = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9-]*)(\.[A-Za-z0-9-]+)*")
_URI = re.compile(r"[a-z][a-z0-9+.-]*:[\x21-\x7e]+")
_SAN_FORM = "a URI or DNS name of the client certificate, such as spiffe://example.org/batch"


class Caller(msgspec.Struct, frozen=True):
    """One caller, known by exactly one of digest, name in its certificate, and socket."""

    name: str
    tenants: Tenants
    token_sha256: bytes = b""
    san: str = ""
    socket: str = ""
    access: SocketAccess = SocketAccess()
    emitters: frozenset[str] = frozenset()

    def is_same(self, other: Caller) -> bool:
        """Whether both are one caller: all but what it may is equal."""
        return self._known_by() == other._known_by()

    def _known_by(self) -> Caller:
        return msgspec.structs.replace(self, tenants=None, emitters=frozenset())


def read_callers(path: Path) -> list[Caller]:
    """The callers of a file.

    Raises:
        ConfigurationError: It cannot be read or is wrong; names the file and each line that is.
    """
    try:
        document = read_yaml(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise ConfigurationError(f"{SETTING} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{SETTING} {path}: not UTF-8: save the file as UTF-8") from error
    except CatalogueError as error:
        raise ConfigurationError(f"{SETTING} {error}") from error
    problems = [
        *document.problems,
        *(document.problem(at, text, at_key=True) for at, text in _problems(document)),
    ]
    if problems:
        raise ConfigurationError("\n".join(f"{SETTING} {path}: {problem}" for problem in problems))
    return [_caller(document, index) for index in range(len(document.data["callers"]))]


def _problems(document: YamlDocument) -> Iterator[tuple[Place, str]]:
    data = document.data
    if not isinstance(data, dict) or not isinstance(data.get("callers"), list):
        yield (), "expected `callers:` with a list"
        return
    yield from (((key,), f"{key!r}: unknown; expected callers") for key in data if key != "callers")
    callers = data["callers"]
    if len(callers) > MAX_CALLERS:
        yield ("callers",), f"expected at most {MAX_CALLERS} callers, got {len(callers)}"
        return
    for index, caller in enumerate(callers):
        place = ("callers", index)
        if isinstance(caller, dict):
            yield from ((place + where, text) for where, text in _caller_problems(document, index))
        else:
            yield place, f"expected {', '.join(_KEYS)}"
    yield from _repeats(document)


def _caller_problems(document: YamlDocument, index: int) -> Iterator[tuple[Place, str]]:
    caller = document.data["callers"][index]
    for key in caller:
        if key not in _KEYS:
            yield (key,), f"{key!r}: unknown; expected one of {', '.join(_KEYS)}"
    given = [key for key in _KNOWN_BY if key in caller]
    if len(given) != 1:
        yield (), f"expected exactly one of {', '.join(_KNOWN_BY)}, got {' and '.join(given) or 'none'}"
    if "socket" not in caller:
        yield from (((key,), "only for a caller with a socket") for key in ("mode", "group") if key in caller)
    for key, (form, fits) in _FORMS.items():
        if (key in caller or key in {"name", "tenants"}) and not fits(_text(document, index, key)):
            # What stands where a digest should be may be the token itself.
            yield (key,), f"expected {form}" if key == "token_sha256" else expected(form, caller.get(key))
    yield from _tenant_problems(caller.get("tenants"))


def _tenant_problems(tenants: Any) -> Iterator[tuple[Place, str]]:  # noqa: ANN401 - plain data
    for index, tenant in enumerate(tenants if isinstance(tenants, list) else ()):
        if not (isinstance(tenant, str) and is_tenant(tenant)):
            hint = ': write tenants: "*" for every tenant' if tenant == EVERY_TENANT else ""
            yield ("tenants", index), expected(TENANT_FORM, tenant) + hint


def _text(document: YamlDocument, index: int, key: str) -> Any:  # noqa: ANN401 - plain data
    """A value; a number as it is written: 0660 and a digest of digits alone are meant as text."""
    if key in _PLAIN:
        return document.data["callers"][index].get(key)
    return document.texts.get(("callers", index, key), document.data["callers"][index].get(key))


def _is_mode(text: str) -> bool:
    try:
        parse_mode(text)
    except ValueError:
        return False
    return True


def _textual(fits: Callable[[str], object]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and bool(fits(value))


_FORMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": (KEY_FORM, _textual(is_key)),
    "token_sha256": (
        "the SHA-256 of a token, 64 hex digits: `entitlements callers token` makes both",
        _textual(_DIGEST.fullmatch),
    ),
    "san": (_SAN_FORM, _textual(lambda text: _URI.fullmatch(text) or _DNS.fullmatch(text))),
    "socket": ("the absolute path of a socket", _textual(lambda text: text.startswith("/"))),
    "mode": (MODE_FORM, _textual(_is_mode)),
    "group": ("the name of a group", _textual(bool)),
    "tenants": (
        f'a list of tenant ids, or "{EVERY_TENANT}"',
        lambda value: value == EVERY_TENANT or (isinstance(value, list) and bool(value)),
    ),
    "emitters": (
        f"a list of emitters, each {KEY_FORM}",
        lambda value: isinstance(value, list) and all(isinstance(one, str) and is_key(one) for one in value),
    ),
}


def _repeats(document: YamlDocument) -> Iterator[tuple[Place, str]]:
    """Two callers of one name, or that nobody could tell apart."""
    seen: set[tuple[str, str]] = set()
    for index, caller in enumerate(document.data["callers"]):
        for key in ("name", *_KNOWN_BY) if isinstance(caller, dict) else ():
            value = _text(document, index, key)
            if isinstance(value, str):
                folded = value if key == "socket" else value.lower()
                if (key, folded) in seen:
                    yield ("callers", index, key), f"{key} stands twice: each caller has its own"
                seen.add((key, folded))


def _caller(document: YamlDocument, index: int) -> Caller:
    caller = document.data["callers"][index]
    tenants = caller["tenants"]
    texts = {key: _text(document, index, key) or "" for key in _KEYS if key not in _PLAIN}
    san = texts["san"]
    return Caller(
        name=texts["name"],
        tenants=None if tenants == EVERY_TENANT else frozenset(tenants),
        token_sha256=bytes.fromhex(texts["token_sha256"]),
        san=san if ":" in san else san.lower(),
        socket=texts["socket"],
        access=SocketAccess(parse_mode(texts["mode"]) if texts["mode"] else OWNER_ONLY, texts["group"]),
        emitters=frozenset(caller.get("emitters", ())),
    )
