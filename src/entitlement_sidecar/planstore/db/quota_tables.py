"""The root authority's rows (DESIGN 7)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Index, false
from sqlalchemy.orm import Mapped, mapped_column

from entitlement_sidecar.planstore.db.base import Base


class QuotaCounterRow(Base):
    """One limit in one window, or one credit grant: admitted, used without asking, what holders may use.

    `delegated` is what all accounts that take from here have outstanding; `forfeited` is the part of it whose
    holder was lost. `carried` came from the window before, fixed at the first grant; null before that.
    """

    __tablename__ = "quota_counters"
    __table_args__ = (
        CheckConstraint("admitted >= 0", name="admitted_not_negative"),
        CheckConstraint("unadmitted >= 0", name="unadmitted_not_negative"),
        CheckConstraint("delegated >= 0", name="delegated_not_negative"),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    feature: Mapped[str] = mapped_column(primary_key=True)
    limit_key: Mapped[str] = mapped_column(primary_key=True)
    window_start: Mapped[datetime] = mapped_column(primary_key=True)
    window_end: Mapped[datetime | None]
    admitted: Mapped[int] = mapped_column(BigInteger, server_default="0")
    unadmitted: Mapped[int] = mapped_column(BigInteger, server_default="0")
    delegated: Mapped[int] = mapped_column(BigInteger, server_default="0")
    forfeited: Mapped[int] = mapped_column(BigInteger, server_default="0")
    carried: Mapped[int | None] = mapped_column(BigInteger)


class QuotaAccountRow(Base):
    """What one holder was granted of every limit of a feature, in totals (`domain.lease.Account`).

    `places` are the counters that it takes from, as [key, start of the window]; it begins with the latest of
    these windows and ends with the first. `run_id` names the Redis of a block, and is empty for a lease.
    `parent` is the block that a holder of a lost block had its tokens from: such a row has granted nothing
    itself, and says what that holder told since.
    """

    __tablename__ = "quota_accounts"
    __table_args__ = (
        # What a holder of a lost block says is believed as far as its block's row has room for it.
        CheckConstraint(
            "used >= 0 AND returned >= 0 AND reclaimed >= 0 AND (used + returned <= granted OR parent <> '')",
            name="within_what_was_granted",
        ),
        Index("ix_quota_accounts_tenant_id_feature", "tenant_id", "feature", "closed"),
        Index("ix_quota_accounts_parent", "parent"),
        Index("ix_quota_accounts_expires_at", "closed", "expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    feature: Mapped[str]
    places: Mapped[list[list[str]]] = mapped_column(JSON)
    holder: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger, server_default="0")
    granted: Mapped[int] = mapped_column(BigInteger, server_default="0")
    used: Mapped[int] = mapped_column(BigInteger, server_default="0")
    returned: Mapped[int] = mapped_column(BigInteger, server_default="0")
    reclaimed: Mapped[int] = mapped_column(BigInteger, server_default="0")
    sequence: Mapped[int] = mapped_column(BigInteger, server_default="0")
    opened_at: Mapped[datetime]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    closed: Mapped[bool] = mapped_column(server_default=false())
    on_loss: Mapped[int]
    run_id: Mapped[str] = mapped_column(server_default="")
    parent: Mapped[str] = mapped_column(server_default="")


class QuotaSeatRow(Base):
    """Who holds a seat of a limit in a window; the counter of the limit says how many do."""

    __tablename__ = "quota_seats"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    feature: Mapped[str] = mapped_column(primary_key=True)
    limit_key: Mapped[str] = mapped_column(primary_key=True)
    window_start: Mapped[datetime] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    taken_at: Mapped[datetime]


class ConsumptionRow(Base):
    """What a CONSUME here was answered when it was allowed; `answer` is the whole Decision message."""

    __tablename__ = "consumptions"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    quantity: Mapped[int] = mapped_column(BigInteger)
    answered_at: Mapped[datetime]
    answer: Mapped[bytes]


class QuotaAdmissionRow(Base):
    """One admission by request id; `response` is the answer as it was given first."""

    __tablename__ = "quota_admissions"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(primary_key=True)
    feature: Mapped[str]
    quantity: Mapped[int] = mapped_column(BigInteger)
    lease_id: Mapped[str]
    admitted_at: Mapped[datetime]
    response: Mapped[bytes]


class QuotaReservationRow(Base):
    """An amount that a caller holds of every limit of a feature, until it says what it used (DESIGN 7).

    `event_id` is that of the one event that settles it. `shares` are the counters that it takes from, each
    as [key, start of the window, its end, held, admitted, unadmitted], of credits in burn order. `quantity`
    is as asked for, `value` as settled. `answer` is the Decision message that it was granted with.
    `kept_until` says how long a late settlement finds it.
    """

    __tablename__ = "quota_reservations"
    __table_args__ = (
        CheckConstraint("quantity > 0 AND returned >= 0 AND overage >= 0", name="amounts_not_negative"),
        Index("ix_quota_reservations_expires_at", "state", "expires_at"),
        Index("ix_quota_reservations_kept_until", "kept_until"),
        Index("ix_quota_reservations_feature", "tenant_id", "feature"),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    reservation_id: Mapped[str]
    feature: Mapped[str]
    metric: Mapped[str]
    quantity: Mapped[int] = mapped_column(BigInteger)
    subject: Mapped[str] = mapped_column(server_default="")
    correlation_id: Mapped[str] = mapped_column(server_default="")
    shares: Mapped[list[list[Any]]] = mapped_column(JSON)
    credits: Mapped[bool] = mapped_column(server_default=false())
    state: Mapped[str]
    value: Mapped[int | None] = mapped_column(BigInteger)
    returned: Mapped[int] = mapped_column(BigInteger, server_default="0")
    overage: Mapped[int] = mapped_column(BigInteger, server_default="0")
    reserved_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    kept_until: Mapped[datetime]
    answer: Mapped[bytes]
