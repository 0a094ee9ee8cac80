"""The callers that a sidecar knows, and what answers each of them.

Every caller has handlers of its own, made for its permit: a front asks which, and calls them as it would call
the only ones there are. So a call without a callers file pays nothing, and no answer is given, kept ones
included, before the caller is known and may have it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from entitlement_sidecar.domain.errors import ConfigurationError, UnauthenticatedError
from entitlement_sidecar.sidecar.rpc.callers_file import SETTING, Caller, read_callers
from entitlement_sidecar.sidecar.rpc.front import Door, Methods, Table
from entitlement_sidecar.sidecar.rpc.permit import Permit
from entitlement_sidecar.telemetry import metrics

MAX_TOKEN = 512
"""Characters of a token that are looked at; a longer one is nobody's."""

_SCHEME = "bearer "

Serve = Callable[[Permit], Methods]
"""Makes the methods of one caller."""


class _Known(msgspec.Struct, frozen=True):
    """A caller, its permit, and what answers it."""

    caller: Caller
    permit: Permit
    table: Table


class Callers:
    """A door: knows callers by token and certificate, and opens one more for each caller's socket.

    Args:
        path: The callers file.
        serve: Makes the methods of one caller.
        certificates: Clients show certificates, so that callers can be known by them.

    Raises:
        ConfigurationError: The file is wrong; names each line.
    """

    def __init__(self, path: Path, serve: Serve, *, certificates: bool) -> None:
        self.path = path
        self._serve = serve
        self._certificates = certificates
        self._known: dict[str, _Known] = {}
        self._by_digest: dict[bytes, _Known] = {}
        self._by_san: dict[str, _Known] = {}
        self._take(read_callers(path))

    async def load(self) -> None:
        """Reads the file again; it takes effect whole, for calls and watches under way too.

        Raises:
            ConfigurationError: It is wrong; nothing has changed.
        """
        # A long file takes longer to read than a call may wait.
        self._take(await asyncio.to_thread(read_callers, self.path))

    def _take(self, callers: list[Caller]) -> None:
        if not self._certificates and (one := next((c for c in callers if c.san), None)):
            raise ConfigurationError(
                f"{SETTING} {self.path}: caller {one.name!r} has a san, and no client shows a certificate: "
                "add --tls-client-ca FILE"
            )
        before, self._known = self._known, {one.name: self._renewed(one) for one in callers}
        for name, known in before.items():
            now = self._known.get(name)
            if now is None or now.permit is not known.permit:
                known.permit.end()
        self._by_digest = {one.caller.token_sha256: one for one in self._all() if one.caller.token_sha256}
        self._by_san = {one.caller.san: one for one in self._all() if one.caller.san}

    def _all(self) -> Iterable[_Known]:
        return self._known.values()

    def _renewed(self, caller: Caller) -> _Known:
        before = self._known.get(caller.name)
        if before is None or not before.caller.is_same(caller):
            return self._made(caller, Permit(caller.name, caller.tenants, caller.emitters))
        before.permit.report_as(caller.emitters)
        if before.caller.tenants == caller.tenants:
            return msgspec.structs.replace(before, caller=caller)
        before.permit.change(caller.tenants)
        # What is kept for it was allowed by the old list: new handlers have kept nothing.
        return self._made(caller, before.permit)

    def _made(self, caller: Caller, permit: Permit) -> _Known:
        return _Known(caller, permit, {method.path: method.handler for method in self._serve(permit)})

    def table(self, authorization: str, names: Iterable[str] = ()) -> Table:
        """See `Door`. A token decides alone; of a certificate, its first name that is in the file."""
        shown = list(names)
        known = self._of_token(authorization) if authorization else self._of_certificate(shown)
        if known is None:
            raise _refused("unknown" if authorization or shown else "missing")
        return known.table

    def _of_token(self, authorization: str) -> _Known | None:
        token = authorization[len(_SCHEME) :]
        if authorization[: len(_SCHEME)].lower() != _SCHEME or not 0 < len(token) <= MAX_TOKEN:
            return None
        digest = hashlib.sha256(token.encode("latin-1", "replace")).digest()
        # Nobody can choose a digest, so what the search's duration tells of digests leads to no token.
        known = self._by_digest.get(digest)
        return known if known and hmac.compare_digest(known.caller.token_sha256, digest) else None

    def _of_certificate(self, names: Iterable[str]) -> _Known | None:
        return next((self._by_san[name] for name in names if name in self._by_san), None)

    def sockets(self) -> list[Caller]:
        """The callers that have a socket of their own."""
        return [one.caller for one in self._all() if one.caller.socket]

    def behind(self, caller: Caller) -> Door:
        """The door of a caller's own socket: whoever opens it is that caller, while the file says so."""
        return _SocketDoor(self, caller)

    def table_of(self, caller: Caller) -> Table:
        """What answers one caller.

        Raises:
            UnauthenticatedError: The file no longer has it.
        """
        known = self._known.get(caller.name)
        if known is None or not known.caller.is_same(caller):
            raise _refused("unknown")
        return known.table


class _SocketDoor:
    def __init__(self, callers: Callers, caller: Caller) -> None:
        self._callers = callers
        self._caller = caller

    def table(self, authorization: str, names: Iterable[str] = ()) -> Table:
        """See `Door`. The socket decides alone."""
        del authorization, names
        return self._callers.table_of(self._caller)


def _refused(cause: str) -> UnauthenticatedError:
    metrics.calls_denied.labels(cause).inc()
    if cause == "missing":
        return UnauthenticatedError(
            "this sidecar answers the callers that it knows: send `authorization: Bearer TOKEN`, show a "
            "client certificate, or call the socket that is yours"
        )
    return UnauthenticatedError("no caller of this sidecar is known by these credentials")
