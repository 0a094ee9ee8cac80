"""Tokens as they are stored. A secret is told once, when it is made; only its SHA-256 is kept.

A fast hash is right here: a secret has 256 random bits, which nobody finds by trying, while slow hashes exist
for what people make up. It is looked up by its hash, so that comparing takes no time that tells anything.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.errors import ConflictError, InvalidInputError, NotFoundError, Violation
from entitlement_sidecar.planstore.access.roles import Role
from entitlement_sidecar.planstore.audit import Change, current_actor, record
from entitlement_sidecar.planstore.db import ApiTokenRow
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.wire.fields import TENANT_FORM, expected, is_tenant

PREFIX = "ent_"
"""What every secret begins with, so that scanners of leaked secrets can know it."""

MAX_TENANTS = 1000
MAX_LIFE = timedelta(days=3650)
NAME_FORM = "1 to 80 printable characters without spaces around them"
FIRST = "bootstrap"
"""The name of the token that a plan store makes at its first start."""

_MAX_NAME = 80
_LOCK = 0x656E745F746F6B65
"""Key of the advisory lock of those who make tokens: "ent_toke" in ASCII."""


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that should be made. `tenants` empty: for every tenant; `life` None: until it is revoked."""

    name: str
    role: Role
    tenants: Sequence[str] = ()
    life: timedelta | None = None


def hash_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def create_token(session: Session, wanted: NewToken, now: datetime) -> tuple[ApiTokenRow, str]:
    """The stored token, and its secret, which nobody can tell again.

    Raises:
        InvalidInputError: Name, tenants or life are malformed.
        ConflictError: There was a token of this name: the audit log names who acted by it.
    """
    _validate(wanted)
    _serialize(session)
    if _is_taken(session, wanted.name):
        raise ConflictError(
            f"there is or was a token named {wanted.name!r}: choose another name, so that the audit log says "
            "which of them acted"
        )
    secret = PREFIX + secrets.token_urlsafe(32)
    row = _row(wanted, secret, now)
    session.add(row)
    record(session, Change("token.created", f"token/{row.id}", after=_told(row)), now)
    return row, secret


def list_tokens(
    session: Session, now: datetime, *, ended: bool = False, after: str = "", limit: int = 100
) -> Sequence[ApiTokenRow]:
    """Tokens after an id, the oldest first; `ended`: also those that were revoked or have expired."""
    query = select(ApiTokenRow).where(ApiTokenRow.id > after).order_by(ApiTokenRow.id).limit(limit)
    if not ended:
        lasting = or_(ApiTokenRow.expires_at.is_(None), ApiTokenRow.expires_at > now)
        query = query.where(ApiTokenRow.revoked_at.is_(None), lasting)
    return session.scalars(query).all()


def revoke_token(session: Session, token_id: str, now: datetime) -> ApiTokenRow:
    """Ends a token, for good. Of one that was revoked nothing changes.

    Raises:
        NotFoundError: There is none of this id.
    """
    row = session.get(ApiTokenRow, token_id, with_for_update=True)
    if row is None:
        raise NotFoundError(f"no token {token_id!r}: `tokens list` shows the ids")
    if row.revoked_at is None:
        before = _told(row)
        row.revoked_at = now
        record(session, Change("token.revoked", f"token/{row.id}", before=before, after=_told(row)), now)
    return row


def register_first(session: Session, secret: str, now: datetime) -> bool:
    """Makes the token of the token file one with every right; whether it was not known before.

    Safe to repeat, and safe in several replicas at once. A token that was revoked stays revoked.
    """
    if session.scalar(select(ApiTokenRow.id).where(ApiTokenRow.hash == hash_of(secret))):
        return False
    _serialize(session)
    row = _row(NewToken(name=_free_name(session), role=Role.BILLING_ADMIN), secret, now)
    values = {column.name: getattr(row, column.name) for column in ApiTokenRow.__table__.columns}
    added = insert_for(session, ApiTokenRow).values(**values).on_conflict_do_nothing(index_elements=["hash"])
    if session.execute(added.returning(ApiTokenRow.id)).first() is None:
        return False
    record(session, Change("token.created", f"token/{row.id}", after=_told(row)), now)
    return True


def find_token(session: Session, hashed: bytes) -> ApiTokenRow | None:
    """The token with this hash, whatever became of it."""
    return session.scalar(select(ApiTokenRow).where(ApiTokenRow.hash == hashed))


def tenants_of(row: ApiTokenRow) -> list[str]:
    """The tenants that a token is for; none: every tenant."""
    tenants: list[str] = json.loads(row.tenants)
    return tenants


def state_of(row: ApiTokenRow, now: datetime) -> str:
    """`active`, `revoked` or `expired`, now."""
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "active"


def _validate(wanted: NewToken) -> None:
    wrong = []
    name = wanted.name
    if not (0 < len(name) <= _MAX_NAME and name.isprintable() and name == name.strip()):
        wrong.append(Violation("name", expected(NAME_FORM, name)))
    if len(wanted.tenants) > MAX_TENANTS:
        wrong.append(Violation("tenants", f"expected at most {MAX_TENANTS}, got {len(wanted.tenants)}"))
    wrong += [
        Violation(f"tenants[{n}]", expected(TENANT_FORM, tenant))
        for n, tenant in enumerate(wanted.tenants[:MAX_TENANTS])
        if not is_tenant(tenant)
    ]
    if wanted.life is not None and not timedelta(seconds=1) <= wanted.life <= MAX_LIFE:
        wrong.append(Violation("expires_in", f"expected 1 second to {MAX_LIFE.days} days"))
    if wrong:
        raise InvalidInputError(wrong)


def _row(wanted: NewToken, secret: str, now: datetime) -> ApiTokenRow:
    return ApiTokenRow(
        # Ids sort by when they were made, so that lists can go on from one.
        id=f"tok_{int(now.timestamp() * 1000):012x}{secrets.token_hex(4)}",
        name=wanted.name,
        hash=hash_of(secret),
        role=wanted.role.value,
        tenants=json.dumps(sorted(set(wanted.tenants))),
        created_at=now,
        created_by=current_actor().name,
        expires_at=None if wanted.life is None else now + wanted.life,
        revoked_at=None,
        last_used_at=None,
    )


def _told(row: ApiTokenRow) -> dict[str, Any]:
    """What the audit log says of a token: never what could be used."""
    return {
        "name": row.name,
        "role": row.role,
        "tenants": tenants_of(row),
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
    }


def _serialize(session: Session) -> None:
    """Names are told apart by looking first, so one at a time; SQLite has one writer anyhow."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _is_taken(session: Session, name: str) -> bool:
    return session.scalar(select(ApiTokenRow.id).where(ApiTokenRow.name == name)) is not None


def _free_name(session: Session) -> str:
    """`bootstrap`; `bootstrap-2` for the token of a file that was made anew, and so on."""
    names = itertools.chain([FIRST], (f"{FIRST}-{n}" for n in itertools.count(2)))
    return next(name for name in names if not _is_taken(session, name))
