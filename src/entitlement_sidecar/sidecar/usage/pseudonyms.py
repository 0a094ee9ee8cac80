"""Pseudonyms: who used something is told apart, and not named, in what leaves this machine.

With a key, `subject` and `actor_id` of every usage event are replaced before anything else looks at them: no
disk, no log and no ledger sees the names. Equal names of one tenant have equal pseudonyms under one key, so
usage by subject and distinct counts stay right; of another tenant, or under another key, they are others.

Requests to the authority keep the subject: a seat belongs to a person whom operators name too, so seats are
by name everywhere. Rules of the registry about `subject` or `actor_id` see the pseudonym, here as at ingest.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import Metric
from entitlement_sidecar.domain.decision import CheckRequest
from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.wire.v1 import usage_pb2

MIN_KEY = 32
"""Bytes of a key at least."""

MAX_KEY = 4096
"""Bytes of a key at most: more is another file."""

_PREFIX = "p-"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Pseudonyms:
    """Names that say nothing to who lacks the key. Never shows the key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of_file(cls, path: Path, setting: str) -> Pseudonyms:
        """Those of the key in a file, which is taken as it is, byte by byte.

        Raises:
            ConfigurationError: It cannot be read, others than its owner may use it, or it is too short or
                too long; names the setting and the file.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                key = file.read(MAX_KEY + 1)
        except OSError as error:
            raise ConfigurationError(f"{setting} {path}: {error.strerror}") from error
        if mode & _OTHERS:
            raise ConfigurationError(
                f"{setting} {path}: others may read or change it (mode {mode:04o}); chmod 600 {path}"
            )
        if not MIN_KEY <= len(key) <= MAX_KEY:
            raise ConfigurationError(
                f"{setting} {path}: expected {MIN_KEY} to {MAX_KEY} bytes, got "
                f"{len(key) if len(key) <= MAX_KEY else 'more'}; "
                f"`(umask 077; head -c {MIN_KEY} /dev/urandom > {path})` makes one"
            )
        return cls(key)

    def of(self, tenant_id: str, name: str) -> str:
        """What stands for a name of a tenant; nothing stands for nothing."""
        if not name:
            return ""
        hashed = hmac.new(self._key, f"{tenant_id}\0{name}".encode(), hashlib.sha256)
        return _PREFIX + hashed.hexdigest()[:32]

    def __repr__(self) -> str:
        return "Pseudonyms()"


class PseudonymousReporter(UsageReporter):
    """Reports usage of whom it does not name."""

    def __init__(self, pseudonyms: Pseudonyms, *means: Any) -> None:  # noqa: ANN401 - those of its base
        """`means` are those of `UsageReporter`."""
        super().__init__(*means)
        self._pseudonyms = pseudonyms

    def _seen(self, event: usage_pb2.UsageEvent) -> usage_pb2.UsageEvent:
        """The event that was given, changed to pseudonyms."""
        event.subject = self._pseudonyms.of(event.tenant_id, event.subject)
        event.actor_id = self._pseudonyms.of(event.tenant_id, event.actor_id)
        return event

    def shown(self, tenant_id: str, name: str) -> str:
        """Its pseudonym."""
        return self._pseudonyms.of(tenant_id, name)

    def consume(self, request: CheckRequest, metric: Metric, event_id: str, lease_id: str) -> UsageEvent:
        """As `UsageReporter.consume`, of a pseudonym."""
        hidden = self._pseudonyms.of(request.tenant_id, request.subject)
        request = msgspec.structs.replace(request, subject=hidden)
        return super().consume(request, metric, event_id, lease_id)
