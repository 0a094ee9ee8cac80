"""Many tenants at once: compiled anew in small transactions, and only while the publisher keeps up.

A heartbeat says that everything before an instant is published, so a long queue would make everybody stale,
and a single change would wait behind it. Whoever changes many tenants therefore waits *before* it commits:

    pick a few tenants ──▶ room in the outbox? ──▶ write, commit ──▶ pick the next few
                                 └── no: wait

Tenants that used something lately come first, then all others.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import ExhaustedError, InvalidInputError
from entitlement_sidecar.planstore.audit import Change, record
from entitlement_sidecar.planstore.db import (
    Database,
    QuotaCounterRow,
    SnapshotOutboxRow,
    TenantSnapshotRow,
    UsageLedgerRow,
)
from entitlement_sidecar.planstore.snapshots.writer import SignedSnapshots
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.fields import expected

BATCH = 50
"""Tenants of one transaction: what a single change may have to wait for."""

PER_SECOND = 500
"""Tenants that one bulk writer compiles in a second at most."""

MAX_WAITING = 200
"""Unpublished changes over which bulk writers wait."""

PATIENCE = 10.0
"""Seconds that a call waits for room before it says that there is none."""

LATELY = timedelta(days=1)
"""How long ago a tenant may have used something and still come first."""

_LOOK_AGAIN = 0.05


class Pace:
    """Says when a bulk writer may commit its next batch. One for each writer."""

    def __init__(self, database: Database, clock: Clock, *, to_redis: bool) -> None:
        self._database = database
        self._clock = clock
        self._mark = SnapshotOutboxRow.published_at if to_redis else SnapshotOutboxRow.feed_sequence
        self._next = float("-inf")

    def ready(self) -> bool:
        """Whether the next batch may go now; if so its turn is taken."""
        now = self._clock.monotonic()
        if now < self._next or self.waiting() > MAX_WAITING:
            return False
        self._next = now + BATCH / PER_SECOND
        return True

    def wait(self, patience: float = PATIENCE) -> bool:
        """Waits for the next turn, at most `patience` seconds; whether it came."""
        pause = threading.Event()
        for _ in range(max(1, round(patience / _LOOK_AGAIN))):
            if self.ready():
                return True
            pause.wait(_LOOK_AGAIN)
        return False

    def waiting(self) -> int:
        """Committed changes that are not published yet."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).where(self._mark.is_(None))) or 0


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """How far a walk over all tenants is: when it began, whether at the active ones, the last one done."""

    began: datetime
    active: bool = True
    after: str = ""

    def encode(self) -> str:
        """As text that callers hand back."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Reads what `encode` wrote.

        Raises:
            InvalidInputError: It is something else.
        """
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            found = _cursor(raw)
            if found.began.tzinfo is not None and "\0" not in found.after:
                return msgspec.structs.replace(found, began=found.began.astimezone(UTC))
        except (binascii.Error, UnicodeError, ValueError, OverflowError, msgspec.DecodeError):
            pass
        raise InvalidInputError.of("cursor", expected("the `next_cursor` of a page", text))


# Made before there are threads, as in `catalogue.plans`.
_cursor = msgspec.json.Decoder(Cursor).decode


def next_tenants(
    session: Session, wanted: ColumnElement[bool], cursor: Cursor, now: datetime, limit: int = 0
) -> tuple[Sequence[str], Cursor | None]:
    """The next few tenants whose snapshot row is wanted, active ones first; no cursor: there are no more.

    `limit`: how many at most, else `BATCH`.
    `wanted` must no longer hold for what was done: the second half of the walk meets the active ones again.
    """
    row, limit = TenantSnapshotRow, limit or BATCH
    query = select(row.tenant_id).where(row.tenant_id > cursor.after, wanted).order_by(row.tenant_id)
    if cursor.active:
        query = query.where(_active(now))
    tenants = session.scalars(query.limit(limit)).all()
    if len(tenants) == limit:
        return tenants, msgspec.structs.replace(cursor, after=tenants[-1])
    return tenants, Cursor(cursor.began, active=False) if cursor.active else None


def _active(now: datetime) -> ColumnElement[bool]:
    tenant = TenantSnapshotRow.tenant_id
    used = UsageLedgerRow.last_event_at >= now - LATELY
    return or_(
        exists().where(UsageLedgerRow.tenant_id == tenant, used),
        exists().where(QuotaCounterRow.tenant_id == tenant, QuotaCounterRow.window_end > now),
    )


class Republished(msgspec.Struct, frozen=True):
    """What one call did: new versions by tenant, and where to go on."""

    versions: dict[str, int]
    cursor: Cursor | None


class Republisher:
    """Compiles tenants anew, signs and announces them, though nothing of them has changed."""

    def __init__(
        self, database: Database, snapshots: SignedSnapshots, clock: Clock, *, to_redis: bool
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._clock = clock
        self._pace = Pace(database, clock, to_redis=to_redis)

    def one(self, session: Session, tenant_id: str) -> int:
        """Compiles one tenant anew in the caller's transaction; its new version.

        Raises:
            TenantUnknownError: There is no such tenant.
        """
        version = self._snapshots.write(session, tenant_id)
        change = Change(
            "snapshot.republished", f"snapshot/{tenant_id}", tenant_id, version - 1 or None, version
        )
        record(session, change, self._clock.now())
        return version

    def some(self, cursor: Cursor | None, limit: int) -> Republished:
        """The next tenants of all, `limit` at most but for the last batch. Without a cursor it begins.

        Whoever was compiled since the beginning, for whatever reason, is left out.

        Raises:
            ExhaustedError: Nothing was done, because the publisher does not keep up.
        """
        at = cursor or Cursor(self._clock.now())
        versions: dict[str, int] = {}
        while True:
            if not self._pace.wait():
                if versions:
                    return Republished(versions, at)
                raise ExhaustedError(self._behind(), retry_after=5.0)
            batch, following = self._batch(at)
            versions |= batch
            if following is None or len(versions) >= limit:
                return Republished(versions, following)
            at = following

    def _batch(self, at: Cursor) -> tuple[dict[str, int], Cursor | None]:
        now = self._clock.now()
        with self._database.writing() as session:
            older = TenantSnapshotRow.compiled_at < at.began
            tenants, following = next_tenants(session, older, at, now)
            versions = {tenant: self._snapshots.write(session, tenant) for tenant in tenants}
            if versions:
                record(session, Change("snapshots.republished", "snapshots/all", after=versions), now)
        metrics.bulk_snapshots.labels("republish").inc(len(versions))
        return versions, following

    def _behind(self) -> str:
        return (
            f"{self._pace.waiting()} changes wait to be published, more than {MAX_WAITING}: bulk work waits "
            "for the publisher; see whether Redis answers, then go on from the same cursor"
        )
