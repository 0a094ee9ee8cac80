"""INSERT … ON CONFLICT, which both databases know and SQLAlchemy spells per dialect."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.db.base import Base


def insert_for(session: Session, row: type[Base]) -> Any:  # noqa: ANN401 - two unrelated classes of one shape
    """An insert that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    dialect = session.get_bind().dialect.name
    return sqlite.insert(row) if dialect == "sqlite" else postgresql.insert(row)
