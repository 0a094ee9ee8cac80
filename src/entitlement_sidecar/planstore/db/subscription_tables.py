"""Who has what: organizations, subscriptions with their history, overrides, credit grants (S1.5, S4.1)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from entitlement_sidecar.domain.catalogue import DEFAULT_PRODUCT
from entitlement_sidecar.planstore.db.base import Base, BigKey
from entitlement_sidecar.planstore.db.catalogue_tables import AddOnRow, PlanRow


class OrganizationRow(Base):
    """A tenant. `snapshot_version` counts the changes of what it has, from 1."""

    __tablename__ = "organizations"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    snapshot_version: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class SubscriptionRow(Base):
    """One subscription of a tenant to one version of a plan.

    `state` is `trialing`, `active`, `past_due`, `cancelled` or `ended`: what was decided, not what time made
    of it since; suspension comes on top (`suspended_at`). `cancel_at` is when a cancelled or expiring
    subscription ends, `grace_until` when one whose payment failed is suspended, `next_plan` what it changes
    to at `next_plan_at`. `settle_at` is when time will have changed what is stored here. `anchor` is what
    billing cycles count from. `open` says that it has not ended, and a tenant has one open subscription of a
    product at most. `version` is for optimistic locking (S4.4).
    """

    __tablename__ = "organization_subscriptions"
    __table_args__ = (
        Index("ix_organization_subscriptions_tenant_id", "tenant_id", "created_at"),
        Index("ix_organization_subscriptions_plan_id", "plan_id"),
        Index(
            "ix_organization_subscriptions_settle_at",
            "settle_at",
            postgresql_where=text("settle_at IS NOT NULL"),
            sqlite_where=text("settle_at IS NOT NULL"),
        ),
        Index(
            "ix_organization_subscriptions_one_open",
            "tenant_id",
            "product",
            unique=True,
            postgresql_where=text("open"),
            sqlite_where=text("open"),
        ),
        CheckConstraint(
            "state IN ('trialing', 'active', 'past_due', 'cancelled', 'ended')", name="state_known"
        ),
        CheckConstraint("state <> 'trialing' OR trial_end IS NOT NULL", name="trial_has_end"),
        CheckConstraint("state <> 'past_due' OR grace_until IS NOT NULL", name="past_due_has_grace"),
        CheckConstraint("state <> 'cancelled' OR cancel_at IS NOT NULL", name="cancelled_has_instant"),
        CheckConstraint("open = (state NOT IN ('cancelled', 'ended'))", name="open_until_it_ends"),
        CheckConstraint("(next_plan_id IS NULL) = (next_plan_at IS NULL)", name="next_plan_has_instant"),
        CheckConstraint("current_period_end > current_period_start", name="period_in_order"),
        CheckConstraint("version >= 1", name="version_positive"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("organizations.tenant_id"))
    product: Mapped[str] = mapped_column(server_default=DEFAULT_PRODUCT)
    plan_id: Mapped[int] = mapped_column(ForeignKey("billing_plans.id"))
    state: Mapped[str]
    open: Mapped[bool] = mapped_column(server_default=text("true"))
    auto_renew: Mapped[bool]
    trial_start: Mapped[datetime | None]
    trial_end: Mapped[datetime | None]
    current_period_start: Mapped[datetime]
    current_period_end: Mapped[datetime | None]
    cancel_at: Mapped[datetime | None]
    suspended_at: Mapped[datetime | None]
    grace_until: Mapped[datetime | None]
    next_plan_id: Mapped[int | None] = mapped_column(ForeignKey("billing_plans.id"))
    next_plan_at: Mapped[datetime | None]
    settle_at: Mapped[datetime | None]
    anchor: Mapped[datetime]
    version: Mapped[int] = mapped_column()
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    plan: Mapped[PlanRow] = relationship(lazy="joined", foreign_keys=plan_id)
    next_plan: Mapped[PlanRow | None] = relationship(lazy="selectin", foreign_keys=next_plan_id)
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


class SubscriptionHistoryRow(Base):
    """What became of a subscription, version by version; append-only. `body` is the subscription after it."""

    __tablename__ = "subscription_history"
    __table_args__ = (
        Index("ix_subscription_history_tenant_id", "tenant_id", "id"),
        UniqueConstraint("subscription_id", "version"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    subscription_id: Mapped[str] = mapped_column(ForeignKey("organization_subscriptions.id"))
    tenant_id: Mapped[str]
    version: Mapped[int]
    action: Mapped[str]
    state: Mapped[str]
    plan: Mapped[str]
    actor: Mapped[str]
    at: Mapped[datetime]
    body: Mapped[str] = mapped_column(Text)


class OverrideRow(Base):
    """Something that one tenant has of a feature beside its plan, for a while and for a reason (DESIGN 5).

    `effect` is `deny`, `set` or `add`; `body` is the entitlement as JSON. It applies from `since` until
    `until`, or until it was revoked.
    """

    __tablename__ = "overrides"
    __table_args__ = (
        Index("ix_overrides_tenant_id", "tenant_id", "id"),
        CheckConstraint("effect IN ('deny', 'set', 'add')", name="effect_known"),
        CheckConstraint("until > since", name="interval_in_order"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("organizations.tenant_id"))
    feature: Mapped[str]
    effect: Mapped[str]
    body: Mapped[str] = mapped_column(Text)
    reason: Mapped[str]
    since: Mapped[datetime]
    until: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column()
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's form


class CreditGrantRow(Base):
    """Credits given to a tenant once; smaller `priority` burns first. A voided one burns no more."""

    __tablename__ = "credit_grants"
    __table_args__ = (
        Index("ix_credit_grants_tenant_id", "tenant_id", "id"),
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint("until > since", name="interval_in_order"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("organizations.tenant_id"))
    feature: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    priority: Mapped[int]
    reason: Mapped[str]
    since: Mapped[datetime]
    until: Mapped[datetime | None]
    voided_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column()
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's form
