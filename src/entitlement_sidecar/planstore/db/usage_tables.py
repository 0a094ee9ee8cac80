"""Usage: the events themselves, their identities, and what they add up to (S0.1, S0.2, S4.1)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from entitlement_sidecar.planstore.db.base import Base, BigKey


class UsageEventRow(Base):
    """One event, append-only. `payload` is the whole UsageEvent message; columns are for queries.

    `id` is a surrogate that grows with arrival (the cursor of lists); identity is (tenant, event id).
    `instance`, `epoch` and `sequence` say which sidecar kept it; empty and 0 where none did.
    """

    __tablename__ = "usage_events"
    __table_args__ = (
        Index("ix_usage_events_tenant_id", "tenant_id", "id"),
        Index("ix_usage_events_tenant_metric", "tenant_id", "metric", "occurred_at"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    tenant_id: Mapped[str]
    event_id: Mapped[str]
    metric: Mapped[str]
    feature: Mapped[str]
    value: Mapped[int] = mapped_column(BigInteger)
    unit: Mapped[str]
    occurred_at: Mapped[datetime]
    recorded_at: Mapped[datetime]
    received_at: Mapped[datetime]
    subject: Mapped[str]
    actor_id: Mapped[str]
    correlation_id: Mapped[str]
    emitter: Mapped[str]
    classification: Mapped[int]
    lease_id: Mapped[str]
    instance: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger)
    sequence: Mapped[int] = mapped_column(BigInteger)
    payload: Mapped[bytes]


class UsageEventKeyRow(Base):
    """Identity of every event that was ever accepted, with its digest; outlives the event (DESIGN 8)."""

    __tablename__ = "usage_event_keys"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]


class UsageLedgerRow(Base):
    """What the events of one metric add up to in one window, per subscription (S0.2).

    Derived: it can be rebuilt from the events. `window_kind` is the window's key; `state` is `open`,
    `closed` or `adjusted`; `watermark` is the highest `usage_events.id` counted. `subscription_id` is empty
    for usage without a subscription.
    """

    __tablename__ = "subscription_usage_ledger"
    __table_args__ = (
        Index(
            "ix_subscription_usage_ledger_newest",
            "tenant_id",
            "window_start",
            "metric",
            "window_kind",
            "subscription_id",
        ),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    subscription_id: Mapped[str] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    window_kind: Mapped[str] = mapped_column(primary_key=True)
    window_start: Mapped[datetime] = mapped_column(primary_key=True)
    window_end: Mapped[datetime | None]
    unit: Mapped[str] = mapped_column(server_default="")
    value: Mapped[int] = mapped_column(BigInteger)
    event_count: Mapped[int] = mapped_column(BigInteger)
    first_event_at: Mapped[datetime]
    last_event_at: Mapped[datetime]
    classification: Mapped[int]
    state: Mapped[str] = mapped_column(server_default="open")
    watermark: Mapped[int] = mapped_column(BigInteger, server_default="0")
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
