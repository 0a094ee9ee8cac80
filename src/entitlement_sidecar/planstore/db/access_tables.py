"""Who may do what, what they did, and answers that a retry gets again (S1.11)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from entitlement_sidecar.planstore.db.base import Base


class ApiTokenRow(Base):
    """A bearer token: only its SHA-256 is kept. `tenants` is a JSON list; empty is every tenant."""

    __tablename__ = "api_tokens"
    __table_args__ = (
        CheckConstraint(
            "role IN ('viewer', 'operator', 'billing-admin', 'sidecar', 'emitter', 'ai-agent')",
            name="role_known",
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    hash: Mapped[bytes] = mapped_column(unique=True)
    role: Mapped[str]
    tenants: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditRow(Base):
    """One change of state: who, as what, when, why, of what, from what to what. Append-only.

    `sequence` is contiguous from 1. `hash` is the SHA-256 of every other column and of the entry before
    (`previous`), so that editing or removing one shows.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_tenant_id", "tenant_id", "sequence"),
        Index("ix_audit_log_resource", "resource", "sequence"),
        Index("ix_audit_log_actor", "actor", "sequence"),
        Index("ix_audit_log_action", "action", "sequence"),
        Index("ix_audit_log_at", "at"),
    )

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str]
    role: Mapped[str]
    action: Mapped[str]
    resource: Mapped[str]
    tenant_id: Mapped[str]
    reason: Mapped[str]
    request_id: Mapped[str]
    before: Mapped[str] = mapped_column(Text)
    after: Mapped[str] = mapped_column(Text)
    previous: Mapped[bytes]
    hash: Mapped[bytes]


class AuditHeadRow(Base):
    """The one row (id 1) that holds the chain's end; who appends holds it until the commit."""

    __tablename__ = "audit_head"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sequence: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[bytes]


class AuditAnchorRow(Base):
    """The chain's end as it was on a day, signed: a chain that was made anew does not fit it. Append-only."""

    __tablename__ = "audit_anchors"

    day: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[bytes]
    key_id: Mapped[str]
    signature: Mapped[bytes]
    anchored_at: Mapped[datetime]


class IdempotencyRow(Base):
    """The answer to a POST with an `Idempotency-Key`, by who sent it; `digest` is of the request."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    principal: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    status: Mapped[int]
    headers: Mapped[str] = mapped_column(Text)
    body: Mapped[bytes]
    created_at: Mapped[datetime]
