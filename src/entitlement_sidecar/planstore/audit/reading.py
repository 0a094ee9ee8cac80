"""Reading entries and anchors as they are stored, also where somebody made nonsense of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, select, type_coerce
from sqlalchemy.orm import Session
from sqlalchemy.types import NullType

from entitlement_sidecar.domain.audit import Entry
from entitlement_sidecar.planstore.audit.anchors import Anchor
from entitlement_sidecar.planstore.db import AuditAnchorRow, AuditRow
from entitlement_sidecar.planstore.db.base import Base

LAST = 2**63 - 1
"""The highest sequence that can be; a database without types sorts other things behind it."""


class Filter(msgspec.Struct, frozen=True):
    """Which entries; what is empty or None excludes nothing. `since` is included, `until` is not."""

    tenant_id: str = ""
    actor: str = ""
    action: str = ""
    resource: str = ""
    since: datetime | None = None
    until: datetime | None = None


class Unreadable(msgspec.Struct, frozen=True):
    """An entry with a value that is none of its column."""

    sequence: int


def list_entries(
    session: Session, wanted: Filter, limit: int, cursor: int | None, *, oldest_first: bool = False
) -> Sequence[AuditRow]:
    """A page of entries, those after `cursor` in the order asked for."""
    query = select(AuditRow).where(*_conditions(wanted)).limit(limit)
    if oldest_first:
        query = query.where(AuditRow.sequence > (cursor or 0)).order_by(AuditRow.sequence)
    else:
        query = query.where(AuditRow.sequence < (LAST if cursor is None else cursor))
        query = query.order_by(AuditRow.sequence.desc())
    return session.scalars(query).all()


def read_entries(session: Session, *where: ColumnElement[bool], limit: int) -> list[Entry | Unreadable]:
    """Entries as they are stored, the oldest first."""
    query = _raw(AuditRow, Entry).where(AuditRow.sequence <= LAST, *where)
    return [_entry(row) for row in session.execute(query.order_by(AuditRow.sequence).limit(limit))]


def read_anchors(session: Session, *where: ColumnElement[bool], limit: int | None = None) -> list[Anchor]:
    """Anchors as they are stored, by day; an instant that is none is that of year 1."""
    query = _raw(AuditAnchorRow, Anchor).where(*where).order_by(AuditAnchorRow.day).limit(limit)
    return [_anchor(row) for row in session.execute(query)]


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    equal = [
        getattr(AuditRow, name) == value
        for name in ("tenant_id", "actor", "action", "resource")
        if (value := getattr(wanted, name))
    ]
    since = [] if wanted.since is None else [AuditRow.at >= wanted.since]
    until = [] if wanted.until is None else [AuditRow.at < wanted.until]
    return [*equal, *since, *until]


def raw(column: Any) -> ColumnElement[Any]:  # noqa: ANN401 - a mapped column of any type
    """A column without the type that refuses what is not its own."""
    return type_coerce(column, NullType())


def _raw(row: type[Base], form: type[msgspec.Struct]) -> Any:  # noqa: ANN401 - a Select of as many columns
    return select(*(raw(getattr(row, name)) for name in form.__struct_fields__))


def _entry(row: Any) -> Entry | Unreadable:  # noqa: ANN401 - a row of raw values
    sequence, at, *texts, previous, found = row
    instant = _instant(at)
    if instant is None or not all(isinstance(text, str) for text in texts):
        return Unreadable(sequence)
    return Entry(*(sequence, instant, *texts, _bytes(previous), _bytes(found)))


def _anchor(row: Any) -> Anchor:  # noqa: ANN401 - a row of raw values
    day, sequence, end, key_id, signature, at = row
    instant = _instant(at) or datetime.min.replace(tzinfo=UTC)
    return Anchor(day, sequence, _bytes(end), str(key_id), _bytes(signature), instant)


def _instant(value: object) -> datetime | None:
    """SQLite keeps text, in UTC and without saying so."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
