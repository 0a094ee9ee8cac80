"""What was known last, kept for a start with everything away (DESIGN 6).

Nobody waits for it to be written, and nothing fails with it: it is the last that is asked, and only where
nothing is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.sidecar.snapshots.ports import Fetched


class LastKnown(Protocol):
    """Keeps signed envelopes, the newest version of each tenant, beyond the end of the process.

    Only `snapshot` may wait; the others return at once, and what they keep is written a little later. None of
    them raises for the disk: what cannot be kept is counted.
    """

    def keep(self, envelope: bytes, tenant_id: str, version: int, confirmed_at: datetime) -> None:
        """A tenant is held by this envelope, which was current at `confirmed_at`."""
        ...

    def keep_catalogue(self, envelope: bytes, version: int) -> None:
        """The catalogue document, as it was signed."""
        ...

    def keep_keys(self, keys: Mapping[str, bytes]) -> None:
        """The public keys, by id, that are trusted now; those before are forgotten."""
        ...

    def confirm(self, as_of: datetime, held: Sequence[tuple[str, int]]) -> None:
        """These versions of these tenants were still current at an instant."""
        ...

    def forget(self, tenant_id: str) -> None:
        """There is no such tenant."""
        ...

    async def snapshot(self, tenant_id: str) -> Fetched | None:
        """What was kept of a tenant, verified anew; None where nothing good was.

        Its `true_at` is the last instant of which it was confirmed.
        """
        ...

    async def catalogue(self) -> CatalogueDocument | None:
        """The catalogue document that was kept, verified anew; None where no good one was."""
        ...


class NothingKept:
    """For a sidecar whose source is a file: that is on disk already."""

    def keep(self, envelope: bytes, tenant_id: str, version: int, confirmed_at: datetime) -> None:
        """Keeps nothing."""

    def keep_catalogue(self, envelope: bytes, version: int) -> None:
        """Keeps nothing."""

    def keep_keys(self, keys: Mapping[str, bytes]) -> None:
        """Keeps nothing."""

    def confirm(self, as_of: datetime, held: Sequence[tuple[str, int]]) -> None:
        """Keeps nothing."""

    def forget(self, tenant_id: str) -> None:
        """Keeps nothing."""

    async def snapshot(self, tenant_id: str) -> Fetched | None:
        """None."""
        del tenant_id
        return None

    async def catalogue(self) -> CatalogueDocument | None:
        """None."""
        return None
