"""The root authority's rows (DESIGN 7)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from entitlement_sidecar.planstore.db.base import Base


class QuotaCounterRow(Base):
    """One limit in one window, or one credit grant: admitted, used without asking, what Redis may grant.

    `carried` came from the window before, fixed at the first grant; null before that.
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
    carried: Mapped[int | None] = mapped_column(BigInteger)


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
