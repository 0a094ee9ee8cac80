"""Usage: the events themselves, their identities, and what they add up to (S0.1, S0.2, S4.1)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from entitlement_sidecar.planstore.db.base import Base, BigKey


class UsageEventRow(Base):
    """One event, append-only. `payload` is the whole UsageEvent message; columns are for queries.

    `id` is a surrogate that grows with arrival (the cursor of lists); identity is (tenant, event id).
    `instance`, `epoch` and `sequence` say which sidecar kept it; empty and 0 where none did.
    `classification` and `rule` are what the registry of `registry_version` made of it when it arrived; a
    `UsageClassificationRow` may say otherwise since. `corrects` is the original of a correction, which
    `voids` it or amends its value; `count` how many events a rollup stands for. `subscription_id` and the
    window say which aggregate it belongs to: that is settled when it arrives, so that what became of the
    subscription or the metric since does not move it.

    On PostgreSQL partitioned by month of `occurred_at`, which is part of the key there.
    """

    __tablename__ = "usage_events"
    __table_args__ = (
        Index("ix_usage_events_tenant_id", "tenant_id", "id"),
        Index("ix_usage_events_tenant_metric", "tenant_id", "metric", "occurred_at"),
        Index("ix_usage_events_tenant_correlation", "tenant_id", "correlation_id"),
        Index(
            "ix_usage_events_corrections",
            "tenant_id",
            "corrects",
            postgresql_where=text("corrects <> ''"),
            sqlite_where=text("corrects <> ''"),
        ),
        Index("ix_usage_events_event", "tenant_id", "event_id"),
        Index("ix_usage_events_occurred", "occurred_at", postgresql_using="brin"),
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
    rule: Mapped[str] = mapped_column(server_default="")
    registry_version: Mapped[int] = mapped_column(BigInteger, server_default="0")
    count: Mapped[int] = mapped_column(BigInteger, server_default="1")
    corrects: Mapped[str] = mapped_column(server_default="")
    voids: Mapped[bool] = mapped_column(server_default=text("false"))
    dimensions: Mapped[dict[str, Any]] = mapped_column(JSON, server_default="{}")
    subscription_id: Mapped[str] = mapped_column(server_default="")
    window_kind: Mapped[str] = mapped_column(server_default="")
    window_start: Mapped[datetime] = mapped_column(server_default="1970-01-01 00:00:00.000000")
    window_end: Mapped[datetime | None]


class UsageClassificationRow(Base):
    """What an event was classified as after its arrival, append-only; of several the last holds (S0.9)."""

    __tablename__ = "usage_classifications"
    __table_args__ = (Index("ix_usage_classifications_event", "tenant_id", "event_id"),)

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    tenant_id: Mapped[str]
    event_id: Mapped[str]
    classification: Mapped[int]
    rule: Mapped[str]
    registry_version: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str]
    recorded_at: Mapped[datetime]


class UsageQuarantineRow(Base):
    """An event that is kept for operators and does not count (S0.7): `payload` is the whole message.

    `rule` says why. `state` is `held`, `released` (it was judged again, and is in the ledger) or `discarded`.
    """

    __tablename__ = "usage_quarantine"
    __table_args__ = (
        CheckConstraint("state IN ('held', 'released', 'discarded')", name="state_known"),
        Index("ix_usage_quarantine_held", "state", "received_at"),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    metric: Mapped[str]
    emitter: Mapped[str]
    rule: Mapped[str]
    reason: Mapped[str]
    registry_version: Mapped[int] = mapped_column(BigInteger)
    occurred_at: Mapped[datetime]
    received_at: Mapped[datetime]
    instance: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger)
    sequence: Mapped[int] = mapped_column(BigInteger)
    payload: Mapped[bytes]
    state: Mapped[str] = mapped_column(server_default="held")
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str] = mapped_column(server_default="")


class UsageSourceRow(Base):
    """What came from one start of one sidecar: conservation, and what is missing (DESIGN 8).

    `received` is a JSON list of [first, last] of the sequences that were settled here or declared, in order
    and without overlaps. Each of them is counted once, by its first outcome: they are as many as `stored` +
    `duplicates` + `conflicts` + `quarantined` + `refused` + `declared`.
    """

    __tablename__ = "usage_sources"

    instance: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    accepted_total: Mapped[int] = mapped_column(BigInteger, server_default="0")
    dead_total: Mapped[int] = mapped_column(BigInteger, server_default="0")
    stored: Mapped[int] = mapped_column(BigInteger, server_default="0")
    duplicates: Mapped[int] = mapped_column(BigInteger, server_default="0")
    conflicts: Mapped[int] = mapped_column(BigInteger, server_default="0")
    quarantined: Mapped[int] = mapped_column(BigInteger, server_default="0")
    refused: Mapped[int] = mapped_column(BigInteger, server_default="0")
    declared: Mapped[int] = mapped_column(BigInteger, server_default="0")
    received: Mapped[str] = mapped_column(Text, server_default="[]")
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


class UsageSinkRow(Base):
    """How far a sink of accepted events has got: `cursor` is the sink's own text."""

    __tablename__ = "usage_sinks"

    name: Mapped[str] = mapped_column(primary_key=True)
    cursor: Mapped[str]
    events: Mapped[int] = mapped_column(BigInteger, server_default="0")
    updated_at: Mapped[datetime]


class UsageRetentionRow(Base):
    """Which raw events of a classification are kept: those of windows that ended before were removed."""

    __tablename__ = "usage_retention"

    classification: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    removed_before: Mapped[datetime]


class UsageEventKeyRow(Base):
    """Identity of every event that was ever accepted, with its digest; outlives the event (DESIGN 8).

    Those of events that were discarded from quarantine are here too: they shall not count later.
    """

    __tablename__ = "usage_event_keys"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]


class UsageLedgerRow(Base):
    """What the events of one metric and one classification add up to in one window, per subscription (S0.2).

    Derived: it can be rebuilt from the events. `window_kind` is the window's key; `state` is `open`,
    `closed` or `adjusted` (changed since it was closed, or by a correction); `watermark` is the highest
    `usage_events.id` counted. `subscription_id` is empty for usage without a subscription.
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
        Index(
            "ix_subscription_usage_ledger_open",
            "metric",
            "window_end",
            postgresql_where=text("state = 'open'"),
            sqlite_where=text("state = 'open'"),
        ),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    subscription_id: Mapped[str] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    window_kind: Mapped[str] = mapped_column(primary_key=True)
    window_start: Mapped[datetime] = mapped_column(primary_key=True)
    classification: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    window_end: Mapped[datetime | None]
    unit: Mapped[str] = mapped_column(server_default="")
    value: Mapped[int] = mapped_column(BigInteger)
    event_count: Mapped[int] = mapped_column(BigInteger)
    first_event_at: Mapped[datetime]
    last_event_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(server_default="open")
    watermark: Mapped[int] = mapped_column(BigInteger, server_default="0")
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
