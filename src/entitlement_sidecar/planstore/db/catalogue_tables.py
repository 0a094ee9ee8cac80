"""What is sold: catalogues as applied, features and metrics, plan versions, add-ons (S1.2, S4.1)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from entitlement_sidecar.domain.catalogue import DEFAULT_PRODUCT
from entitlement_sidecar.planstore.db.base import Base, BigKey


class CatalogueRow(Base):
    """One catalogue that was applied; the highest version is in force.

    `document` is the whole catalogue as JSON, `envelope` the signed catalogue document for sidecars, and
    `break_glass` as JSON what that one says of emergencies.
    """

    __tablename__ = "catalogues"

    version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str]
    document: Mapped[str] = mapped_column(Text)
    feed_shards: Mapped[int]
    envelope: Mapped[bytes]
    applied_at: Mapped[datetime]
    break_glass: Mapped[str] = mapped_column(Text, server_default="[]")


class BreakGlassRow(Base):
    """One emergency measure of an operator, in force from `since` until `until`, or until it was ended.

    `tenant_id` is empty where it is for all. The catalogue in force carries what is active to sidecars.
    """

    __tablename__ = "break_glass"
    __table_args__ = (
        CheckConstraint("action IN ('open', 'freeze')", name="action_known"),
        CheckConstraint("(action = 'open') = (feature <> '')", name="opens_a_feature"),
        CheckConstraint("until > since", name="interval_in_order"),
        Index("ix_break_glass_until", "until"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    action: Mapped[str]
    feature: Mapped[str]
    tenant_id: Mapped[str]
    reason: Mapped[str]
    since: Mapped[datetime]
    until: Mapped[datetime]
    created_by: Mapped[str]
    ended_at: Mapped[datetime | None]
    ended_by: Mapped[str]


class FeatureRow(Base):
    """A feature that some catalogue named; `retired` where the one in force does not any more."""

    __tablename__ = "features"
    __table_args__ = (CheckConstraint("kind BETWEEN 1 AND 5", name="kind_known"),)

    key: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[int]
    title: Mapped[str]
    metric: Mapped[str]
    body: Mapped[str] = mapped_column(Text)
    catalogue_version: Mapped[int] = mapped_column(BigInteger)
    retired: Mapped[bool] = mapped_column(default=False)


class MetricRow(Base):
    """A metric that some catalogue named; `retired` where the one in force does not any more."""

    __tablename__ = "metrics"
    __table_args__ = (
        CheckConstraint("aggregation BETWEEN 1 AND 4", name="aggregation_known"),
        CheckConstraint("classification BETWEEN 1 AND 3", name="classification_known"),
    )

    key: Mapped[str] = mapped_column(primary_key=True)
    domain: Mapped[str]
    unit: Mapped[str]
    aggregation: Mapped[int]
    classification: Mapped[int]
    feature: Mapped[str]
    body: Mapped[str] = mapped_column(Text)
    catalogue_version: Mapped[int] = mapped_column(BigInteger)
    retired: Mapped[bool] = mapped_column(default=False)


class PlanRow(Base):
    """One version of a plan. Versions never change; a change is a new one, and one at most is active.

    A tenant has at most one open subscription of each `product`.
    """

    __tablename__ = "billing_plans"
    __table_args__ = (
        UniqueConstraint("code", "version"),
        Index(
            "ix_billing_plans_one_active",
            "code",
            unique=True,
            postgresql_where=text("active"),
            sqlite_where=text("active"),
        ),
        CheckConstraint("billing_period IN ('month', 'year', 'none')", name="billing_period_known"),
        CheckConstraint("billing_model BETWEEN 1 AND 3", name="billing_model_known"),
        CheckConstraint("trial_days >= 0", name="trial_days_not_negative"),
        CheckConstraint("CAST(price_amount AS NUMERIC) >= 0", name="price_not_negative"),
        CheckConstraint("version >= 1", name="version_positive"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    code: Mapped[str]
    version: Mapped[int]
    product: Mapped[str] = mapped_column(server_default=DEFAULT_PRODUCT)
    title: Mapped[str]
    price_amount: Mapped[Decimal]
    price_currency: Mapped[str]
    billing_period: Mapped[str]
    billing_model: Mapped[int]
    trial_days: Mapped[int]
    active: Mapped[bool]
    created_at: Mapped[datetime]
    entitlements: Mapped[list[PlanEntitlementRow]] = relationship(
        order_by="PlanEntitlementRow.position", lazy="selectin"
    )


class PlanEntitlementRow(Base):
    """A plan version's grant of one feature.

    `body` is the whole entitlement as JSON. `limit_amount` and `reset_cadence` repeat its first limit, for
    people who query; both are NULL where there is none.
    """

    __tablename__ = "billing_plan_entitlements"
    __table_args__ = (CheckConstraint("limit_amount >= 0", name="limit_not_negative"),)

    plan_id: Mapped[int] = mapped_column(ForeignKey("billing_plans.id"), primary_key=True)
    feature: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    limit_amount: Mapped[int | None] = mapped_column(BigInteger)
    reset_cadence: Mapped[str | None]
    body: Mapped[str] = mapped_column(Text)


class AddOnRow(Base):
    """One version of an add-on, `body` being the whole add-on as JSON."""

    __tablename__ = "add_ons"
    __table_args__ = (
        UniqueConstraint("code", "version"),
        Index(
            "ix_add_ons_one_active",
            "code",
            unique=True,
            postgresql_where=text("active"),
            sqlite_where=text("active"),
        ),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    code: Mapped[str]
    version: Mapped[int]
    title: Mapped[str]
    body: Mapped[str] = mapped_column(Text)
    active: Mapped[bool]
    created_at: Mapped[datetime]
