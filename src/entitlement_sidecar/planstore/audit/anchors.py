"""Anchors: once a day the chain's end is signed, so that a chain that was made anew as a whole shows.

An anchor's signature also covers that of the anchor before, so that none can be taken out unseen. Each one is
logged too: a log that leaves the machine keeps what somebody with the whole database could remove.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.db import AuditAnchorRow, AuditHeadRow, Database
from entitlement_sidecar.wire.codec import microseconds
from entitlement_sidecar.wire.signing import KeyRing, SigningKey

PAUSE = 60.0
"""Seconds between two looks at whether another day has come."""

_CONTEXT = b"entitlement.audit-anchor.v1"

_log = logging.getLogger(__name__)


class Anchor(msgspec.Struct, frozen=True):
    """The chain's end as it was on a day (UTC), signed. `hash` is that of the entry `sequence`."""

    day: str
    sequence: int
    hash: bytes
    key_id: str
    signature: bytes
    anchored_at: datetime


def make_anchor(session: Session, key: SigningKey, now: datetime) -> Anchor | None:
    """Signs the chain's end, unless this day or a later one has its anchor, or nothing was ever written.

    Safe with several plan stores at once: they take turns by the chain's end.
    """
    head = session.scalars(select(AuditHeadRow).where(AuditHeadRow.id == 1).with_for_update()).first()
    if head is None or head.sequence == 0:
        return None
    day, before = _day(now), _newest(session)
    if before is not None and before.day >= day:
        return None
    covered = _covered((day, head.sequence, head.hash, now), b"" if before is None else before.signature)
    anchor = Anchor(day, head.sequence, head.hash, key.key_id, key.sign(covered), now)
    session.add(AuditAnchorRow(**msgspec.structs.asdict(anchor)))
    session.flush()
    return anchor


def verify_anchor(anchor: Anchor, before: bytes, ring: KeyRing) -> None:
    """Does nothing where the anchor is what a trusted key signed, after the signature of the one before.

    Raises:
        BadSignatureError: It is not, or the key is not trusted.
    """
    signed = (anchor.day, anchor.sequence, anchor.hash, anchor.anchored_at)
    ring.verify(anchor.key_id, anchor.signature, _covered(signed, before))


class Anchoring:
    """The step of a worker: makes the day's anchor where it is missing, and logs it."""

    def __init__(self, database: Database, key: SigningKey) -> None:
        self._database = database
        self._key = key

    def step(self) -> None:
        """Once; by the database's clock, which all plan stores share."""
        if not self._is_due():
            return
        with self._database.writing() as session:
            anchor = make_anchor(session, self._key, self._database.now(session))
        if anchor is not None:
            _log.info(
                "audit anchor of %s: entry %d has hash %s, signed with key %s",
                anchor.day,
                anchor.sequence,
                anchor.hash.hex(),
                anchor.key_id,
            )

    def _is_due(self) -> bool:
        """Without holding the chain's end, which who changes anything waits for."""
        with self._database.reading() as session:
            newest = _newest(session)
            head = session.get(AuditHeadRow, 1)
            written = head is not None and head.sequence > 0
            return written and (newest is None or newest.day < _day(self._database.now(session)))


def _newest(session: Session) -> AuditAnchorRow | None:
    return session.scalars(select(AuditAnchorRow).order_by(AuditAnchorRow.day.desc()).limit(1)).first()


def _day(now: datetime) -> str:
    return now.astimezone(UTC).date().isoformat()


def _covered(anchor: tuple[str, int, bytes, datetime], before: bytes) -> bytes:
    day, sequence, end, at = anchor
    parts = (_CONTEXT, day.encode(), str(sequence).encode(), end, str(microseconds(at)).encode(), before)
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
