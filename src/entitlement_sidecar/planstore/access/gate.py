"""Knows callers by their tokens. Every call of REST and gRPC comes through here."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

import msgspec

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import (
    SourceUnavailableError,
    TooManyAttemptsError,
    UnauthenticatedError,
)
from entitlement_sidecar.planstore.access.attempts import FailedAttempts
from entitlement_sidecar.planstore.access.last_used import LastUsed
from entitlement_sidecar.planstore.access.principal import Principal
from entitlement_sidecar.planstore.access.roles import Role
from entitlement_sidecar.planstore.access.tokens import find_token, hash_of, state_of, tenants_of
from entitlement_sidecar.planstore.audit import Change, record
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.db.away import AWAY
from entitlement_sidecar.telemetry import metrics

KEPT = 5.0
"""Seconds that a token that was found good is not looked up again: revoking one takes effect within these."""

MAX_KEPT = 10_000
MAX_SECRET = 512
"""Characters of a secret at most."""

_SCHEME = "bearer "
_REFUSED = "expected `Authorization: Bearer TOKEN` with a token of this plan store that is still good"
"""One message whatever is wrong with it: a caller learns nothing of tokens that are not his."""

_log = logging.getLogger(__name__)


class _Kept(msgspec.Struct, frozen=True):
    principal: Principal
    until: float
    """On the monotonic clock."""
    expires: float
    """As a Unix time; infinity: never."""


class _Refused(Exception):  # noqa: N818 - it never leaves this file
    """Why a token is not good; for the log."""


class Gate:
    """Knows callers. Thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.last_used = LastUsed(database, clock)
        self._database = database
        self._clock = clock
        self._attempts = FailedAttempts(clock)
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._forgotten = 0

    def known(self, authorization: str) -> Principal | None:
        """Who shows this header, if that is known without a look into the database."""
        secret = _secret(authorization)
        found = self._kept.get(hash_of(secret)) if secret else None
        if found is None or self._clock.monotonic() >= found.until:
            return None
        if self._clock.now().timestamp() >= found.expires:
            return None
        self.last_used.note(found.principal.id)
        return found.principal

    def admit(self, authorization: str, peer: str) -> Principal:
        """Who shows this header. May look into the database: not for an event loop.

        Raises:
            UnauthenticatedError: There is no token, or not a good one.
            TooManyAttemptsError: And too many of them have come from this address.
            SourceUnavailableError: The database is away.
        """
        try:
            return self.known(authorization) or self._look_up(authorization)
        except _Refused as refused:
            raise self._refusal(str(refused), peer) from None

    def confirm(self, authorization: str) -> None:
        """For calls that last: the token is still good, as far as can be known.

        Raises:
            UnauthenticatedError: It is not.
        """
        try:
            self.known(authorization) or self._look_up(authorization)
        except _Refused:
            raise UnauthenticatedError(_REFUSED) from None
        except SourceUnavailableError:
            _log.debug("a token could not be confirmed: the database is away")

    def forget(self, token_id: str) -> None:
        """Has a token looked up again at its next use."""
        with self._lock:
            self._forgotten += 1
            for hashed in [key for key, kept in self._kept.items() if kept.principal.id == token_id]:
                del self._kept[hashed]

    def note_refusal(self, principal: Principal, call: str, tenant_id: str = "") -> None:
        """Counts that a caller was refused, and audits it where the caller is an AI agent (S1.9)."""
        metrics.access_refused.labels(principal.role).inc()
        if principal.role is not Role.AI_AGENT:
            return
        change = Change("access.refused", f"token/{principal.id}", tenant_id, after={"call": call})
        try:
            with self._database.writing() as session:
                record(session, change, self._clock.now())
        except AWAY:
            _log.exception("an AI agent was refused %s, which could not be audited", call)

    def _look_up(self, authorization: str) -> Principal:
        secret = _secret(authorization)
        if not secret:
            raise _Refused("missing")
        hashed, now = hash_of(secret), self._clock.now()
        # What is read is at least as new as this.
        forgotten, until = self._forgotten, self._clock.monotonic() + KEPT
        try:
            with self._database.reading() as session:
                row = find_token(session, hashed)
        except AWAY as error:
            raise SourceUnavailableError("the plan store's database is away: try again", 1.0) from error
        if row is None:
            raise _Refused("unknown")
        if (state := state_of(row, now)) != "active":
            raise _Refused(state)
        principal = Principal(row.id, row.name, Role(row.role), frozenset(tenants_of(row)))
        expires = float("inf") if row.expires_at is None else row.expires_at.timestamp()
        self._keep(hashed, _Kept(principal, until, expires), forgotten)
        self.last_used.note(row.id)
        return principal

    def _keep(self, hashed: bytes, kept: _Kept, forgotten: int) -> None:
        with self._lock:
            if forgotten != self._forgotten:
                # It may have been revoked since it was read; the next use looks again.
                return
            self._kept.pop(hashed, None)
            self._kept[hashed] = kept
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

    def _refusal(self, why: str, peer: str) -> UnauthenticatedError | TooManyAttemptsError:
        wait = self._attempts.failed(peer)
        if wait:
            metrics.authentication_failures.labels("throttled").inc()
            return TooManyAttemptsError("too many wrong tokens have come from this address", wait)
        metrics.authentication_failures.labels(why).inc()
        _log.warning("a call from %s was refused: its token is %s", peer, why)
        return UnauthenticatedError(_REFUSED)


def _secret(authorization: str) -> str:
    """The token of a header; empty where there is none."""
    scheme, secret = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :].strip()
    return secret if scheme.lower() == _SCHEME and len(secret) <= MAX_SECRET else ""
