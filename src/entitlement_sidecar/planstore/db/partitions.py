"""Partitions of `usage_events` on PostgreSQL, a month each, made before they are needed.

Plan stores have no right to change the schema: functions of its owner do it for them, and nothing else. What
happens in a month without a partition is kept in the default one, and moves when its month gets one.
"""

from __future__ import annotations

from datetime import date

from sqlalchemy import Connection, func, select

MONTHS_AHEAD = 3
"""Months after the current one that have partitions already."""


def make_months(connection: Connection, today: date) -> int:
    """Has partitions for this month and the next ones; how many were missing. Not on SQLite."""
    if connection.dialect.name != "postgresql":
        return 0
    making = func.usage_events_make_months(today.replace(day=1), MONTHS_AHEAD + 1)
    return int(connection.scalar(select(making)) or 0)


def drop_empty_months(connection: Connection, before: date) -> int:
    """Drops partitions of months before that of `before` that hold nothing; how many. Not on SQLite."""
    if connection.dialect.name != "postgresql":
        return 0
    return int(connection.scalar(select(func.usage_events_drop_empty_months(before))) or 0)
