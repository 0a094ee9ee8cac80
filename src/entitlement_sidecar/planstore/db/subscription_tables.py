"""Who bought what: organizations, their subscriptions and the add-ons on top (S4.1, S4.2)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column, relationship

from entitlement_sidecar.planstore.db.base import Base
from entitlement_sidecar.planstore.db.catalogue_tables import AddOnRow, PlanRow


class OrganizationRow(Base):
    """A tenant. `snapshot_version` counts the changes of what it has, from 1."""

    __tablename__ = "organizations"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    snapshot_version: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class SubscriptionRow(Base):
    """One subscription of a tenant to one version of a plan.

    `state` is `trialing`, `active`, `suspended` or `cancelled`: what was decided, not what time made of it.
    `cancel_at` is when a cancelled or expiring subscription ends. `anchor` is what billing cycles count
    from. `version` is for optimistic locking (S4.4).
    """

    __tablename__ = "organization_subscriptions"
    __table_args__ = (Index("ix_organization_subscriptions_tenant_id", "tenant_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("organizations.tenant_id"))
    plan_id: Mapped[int] = mapped_column(ForeignKey("billing_plans.id"))
    state: Mapped[str]
    auto_renew: Mapped[bool]
    trial_start: Mapped[datetime | None]
    trial_end: Mapped[datetime | None]
    current_period_start: Mapped[datetime]
    current_period_end: Mapped[datetime | None]
    cancel_at: Mapped[datetime | None]
    suspended_at: Mapped[datetime | None]
    anchor: Mapped[datetime]
    version: Mapped[int] = mapped_column()
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    plan: Mapped[PlanRow] = relationship(lazy="joined")
    add_ons: Mapped[list[SubscriptionAddOnRow]] = relationship(
        lazy="selectin", cascade="all, delete-orphan", order_by="SubscriptionAddOnRow.add_on_id"
    )

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's form


class SubscriptionAddOnRow(Base):
    """An add-on of a subscription, in the version bought, `quantity` times."""

    __tablename__ = "subscription_add_ons"
    __table_args__ = (CheckConstraint("quantity > 0", name="quantity_positive"),)

    subscription_id: Mapped[str] = mapped_column(
        ForeignKey("organization_subscriptions.id"), primary_key=True
    )
    add_on_id: Mapped[int] = mapped_column(ForeignKey("add_ons.id"), primary_key=True)
    quantity: Mapped[int]
    add_on: Mapped[AddOnRow] = relationship(lazy="joined")
