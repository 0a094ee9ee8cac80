"""The twin of the last-known snapshots on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.sidecar.snapshots.ports import Fetched
from entitlement_sidecar.wire.envelopes import open_catalogue, open_snapshot
from entitlement_sidecar.wire.signing import BadSignatureError, KeyRing

_CATALOGUE = ""
_NEVER = datetime.fromtimestamp(0, UTC)

_Row = tuple[int, datetime, bytes]


class MemoryLastKnown:
    """Implements `LastKnown` for as long as the process lives."""

    def __init__(self, keyring: KeyRing) -> None:
        self._keyring = keyring
        self._rows: dict[str, _Row] = {}
        self.kept_keys: dict[str, bytes] = {}

    def keep(self, envelope: bytes, tenant_id: str, version: int, confirmed_at: datetime) -> None:
        """See `LastKnown`."""
        kept, confirmed_before, _ = self._rows.get(tenant_id, (0, _NEVER, b""))
        if version == kept:
            confirmed_at = max(confirmed_at, confirmed_before)
        if version >= kept:
            self._rows[tenant_id] = (version, confirmed_at, envelope)

    def keep_catalogue(self, envelope: bytes, version: int) -> None:
        """See `LastKnown`."""
        self.keep(envelope, _CATALOGUE, version, _NEVER)

    def keep_keys(self, keys: Mapping[str, bytes]) -> None:
        """See `LastKnown`."""
        self.kept_keys = dict(keys)

    def keys(self) -> dict[str, bytes]:
        """The keys that were kept last."""
        return dict(self.kept_keys)

    def confirm(self, as_of: datetime, held: Sequence[tuple[str, int]]) -> None:
        """See `LastKnown`."""
        for tenant_id, version in held:
            kept, before, envelope = self._rows.get(tenant_id, (0, _NEVER, b""))
            if kept == version and envelope:
                self._rows[tenant_id] = (kept, max(before, as_of), envelope)

    def forget(self, tenant_id: str) -> None:
        """See `LastKnown`."""
        self._rows.pop(tenant_id, None)

    async def snapshot(self, tenant_id: str) -> Fetched | None:
        """See `LastKnown`."""
        row = self._rows.get(tenant_id)
        if row is None:
            return None
        try:
            snapshot = open_snapshot(self._keyring, row[2], tenant_id)
        except BadSignatureError:
            return None
        return Fetched(snapshot, Source.DISK, row[1])

    async def catalogue(self) -> CatalogueDocument | None:
        """See `LastKnown`."""
        row = self._rows.get(_CATALOGUE)
        try:
            return None if row is None else open_catalogue(self._keyring, row[2])
        except BadSignatureError:
            return None
