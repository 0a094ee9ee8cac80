"""What travels: each tenant's newest signed snapshot, and the outbox that the publisher empties."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from entitlement_sidecar.planstore.db.base import Base, BigKey


class TenantSnapshotRow(Base):
    """A tenant's newest snapshot; `envelope` is a serialised SignedEnvelope."""

    __tablename__ = "tenant_snapshots"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("organizations.tenant_id"), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    envelope: Mapped[bytes]
    compiled_at: Mapped[datetime]


class SnapshotOutboxRow(Base):
    """One change to publish, written in the transaction that made it.

    `kind` is `snapshot` or `catalogue` (whose `tenant_id` is empty). `feed_sequence` is given by the
    publisher, contiguous within the epoch of `feed_state`; `published_at` is when Redis had it.
    """

    __tablename__ = "snapshot_outbox"
    __table_args__ = (
        CheckConstraint("kind IN ('snapshot', 'catalogue')", name="kind_known"),
        Index(
            "ix_snapshot_outbox_unpublished",
            "id",
            postgresql_where=text("published_at IS NULL"),
            sqlite_where=text("published_at IS NULL"),
        ),
        Index(
            "ix_snapshot_outbox_unsequenced",
            "id",
            postgresql_where=text("feed_sequence IS NULL"),
            sqlite_where=text("feed_sequence IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    kind: Mapped[str]
    tenant_id: Mapped[str]
    version: Mapped[int] = mapped_column(BigInteger)
    compiled_at: Mapped[datetime]
    feed_sequence: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    published_at: Mapped[datetime | None]


class FeedStateRow(Base):
    """The one row (id 1) that numbers changes for watchers of the plan store itself."""

    __tablename__ = "feed_state"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[str]
    sequence: Mapped[int] = mapped_column(BigInteger)


class RedisFeedStateRow(Base):
    """What each shard of the feed in Redis was last seen to be at: how a flush or failover is noticed."""

    __tablename__ = "redis_feed_state"

    shard: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[str]
    sequence: Mapped[int] = mapped_column(BigInteger)
