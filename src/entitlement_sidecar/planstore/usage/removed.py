"""Since when raw events are there: retention removes those before, class by class."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.db import UsageRetentionRow


def removed_before(session: Session) -> dict[int, datetime]:
    """By classification, when the first event happened that is surely still there; absent: all are."""
    rows = session.scalars(select(UsageRetentionRow))
    return {row.classification: row.removed_before for row in rows}
