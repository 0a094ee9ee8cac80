"""Which windows have lost their raw events to retention: of a classification, all that ended before a day.

Windows lose all of their events or none, so that an aggregate either follows from events or is all there is.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.db import UsageRetentionRow


class Removed(msgspec.Struct, frozen=True):
    """By classification, when the first window ended whose events are still there; absent: all are."""

    before: dict[int, datetime]

    @classmethod
    def read(cls, session: Session) -> Removed:
        """As it is now."""
        rows = session.scalars(select(UsageRetentionRow))
        return cls({row.classification: row.removed_before for row in rows})

    def is_whole(self, classification: int, window_end: datetime | None) -> bool:
        """Whether the events of a window are there; those of one that never ends always are."""
        before = self.before.get(classification)
        return before is None or window_end is None or window_end >= before
