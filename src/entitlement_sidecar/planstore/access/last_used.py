"""When tokens were last used: noted on the way, written in the background."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import or_, update

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.db import ApiTokenRow, Database

EVERY = 15.0
"""Seconds between two writes of what was noted."""

AT_MOST = timedelta(minutes=1)
"""A token's instant is not written more often, also by several replicas."""


class LastUsed:
    """What was used since it was last written. Notes cost no call its answer."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._noted: dict[str, datetime] = {}

    def note(self, token_id: str) -> None:
        """A token was used now."""
        self._noted[token_id] = self._clock.now()

    def write(self) -> None:
        """Writes what was noted; what cannot be written stays noted.

        Raises:
            SQLAlchemyError: The database is away.
        """
        noted = dict(self._noted)
        if not noted:
            return
        with self._database.writing() as session:
            for token_id, at in sorted(noted.items()):
                due = or_(ApiTokenRow.last_used_at.is_(None), ApiTokenRow.last_used_at <= at - AT_MOST)
                query = update(ApiTokenRow).where(ApiTokenRow.id == token_id, due).values(last_used_at=at)
                session.execute(query)
        for token_id, at in noted.items():
            if self._noted.get(token_id) == at:
                self._noted.pop(token_id, None)
